"""Write one self-contained page and a summary for a run."""
