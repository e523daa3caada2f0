"""Decide whether a candidate is published."""
