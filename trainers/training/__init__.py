"""What the trainers share: data, loop, optimizer, configuration."""
