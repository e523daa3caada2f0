"""What every component uses: artifacts, errors, config sections, the journal. Imports no other room."""
