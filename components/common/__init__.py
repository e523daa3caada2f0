"""What every component stands on: artifacts, errors, config sections, the journal. Imports nothing above it."""
