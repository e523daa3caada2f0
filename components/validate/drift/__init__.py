"""Compare a dataset with the last accepted snapshot of its source, and keep the history of snapshots."""
