"""Where a pipeline runs: on this machine, Kubeflow or Vertex AI."""
