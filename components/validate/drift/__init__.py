"""Compare a dataset with the last accepted snapshot of its source."""
