"""The dataset artifact: images as TFRecords, written by ingest and read by all later steps."""
