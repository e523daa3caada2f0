"""Publish a generator when it beats the champion."""
