"""Compiles the training for a TPU slice without a TPU: does it compile, does it fit, and what bounds its speed?"""
