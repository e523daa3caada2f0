"""Everything that training writes: checkpoints, the exported model, TensorBoard events."""
