"""The first hour on a real TPU: one command that tries what no machine without a TPU can show, and writes a report."""
