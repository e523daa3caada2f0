"""What training writes: checkpoints, the exported model, sample grids and TensorBoard events."""
