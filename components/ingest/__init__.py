"""The ingest step: images of a source become a dataset of checked, deduplicated, resized and split TFRecords."""
