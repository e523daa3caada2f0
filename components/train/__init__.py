"""Train a WGAN-GP, the same on any number of replicas."""
