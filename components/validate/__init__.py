"""Say whether a dataset is fit to train on."""
