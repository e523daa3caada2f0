"""The training images, batch by batch."""
