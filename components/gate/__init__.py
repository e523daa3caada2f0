"""Judge whether a model may be published: the verdict that push carries out."""
