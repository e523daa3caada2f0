"""Score a generator against real images."""
