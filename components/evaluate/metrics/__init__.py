"""The scores: pure functions of features or images."""
