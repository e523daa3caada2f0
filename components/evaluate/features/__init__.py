"""The networks that compute features of images."""
