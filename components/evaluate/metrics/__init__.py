"""The metrics: pure functions of features or images."""
