"""What is it worth? Ranking losses, reward models, and the scores that PPO maximises."""
