"""Local servers that speak the protocols of the platforms, and what runs a compiled pipeline."""
