"""What the three trainers share: input, optimizers, the training step and loop, checkpoints."""
