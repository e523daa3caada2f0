"""Compile for Kubeflow Pipelines, and submit to it."""
