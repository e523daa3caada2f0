"""Compile for Vertex AI Pipelines, and submit to it."""
