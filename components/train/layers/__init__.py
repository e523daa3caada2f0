"""Layers that Keras lacks, or that are faster than those of Keras."""
