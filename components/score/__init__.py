"""Score any images against any others, with the metrics of the evaluate step."""
