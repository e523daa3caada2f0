"""Publish a generator as its verdict says."""
