"""How fast, how small? Measured beside TRL's last PPOTrainer, over size, and in reading data."""
