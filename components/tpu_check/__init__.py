"""Compiles the training for a TPU that is not there: whether it will compile, fit, and how fast it can at most be."""
