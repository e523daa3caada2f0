"""Everything that differs between a CPU, a GPU and a TPU."""
