"""Where a pipeline runs: compile, run or submit, schedule."""
