"""Train a WGAN-GP; the result does not depend on the number of replicas."""
