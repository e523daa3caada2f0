"""The networks that turn images into features."""
