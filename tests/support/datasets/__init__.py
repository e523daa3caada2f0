"""Small datasets and folders of images."""
