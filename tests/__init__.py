"""Tests of the whole repository, and what they share in tests/support."""

import os

# Before NumPy is imported: two processes run the tests on two cores, where a second thread of each only waits, in a loop.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
