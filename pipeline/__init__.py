"""What runs, where and in what order: the only package that knows KFP, Vertex and Kubernetes."""
