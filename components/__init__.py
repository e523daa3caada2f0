"""What each step of the pipeline does; knows nothing of the orchestrator that runs it."""
