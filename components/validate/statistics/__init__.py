"""Count the images of a dataset, and compute its statistics from the counts."""
