"""The checks that a model must pass to be published."""
