"""What speaks, and how does it learn? Models and their roles, sampling, and PPO."""
