"""Draw images with a trained generator."""
