"""Count a dataset's pixels and labels, and write the statistics."""
