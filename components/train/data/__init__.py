"""The training images, in batches."""
