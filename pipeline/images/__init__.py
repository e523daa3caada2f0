"""`run --images`: look at a folder of images, and choose the configuration with which a first run works."""
