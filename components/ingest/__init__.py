"""Read images from a source, check, deduplicate, resize, split and write them as sharded TFRecords."""
