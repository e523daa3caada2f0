"""Decide whether a dataset may be used for training."""
