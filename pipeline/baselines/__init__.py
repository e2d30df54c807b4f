"""What else could have been done with the same artifacts? The methods that ppo is compared with, each a stage of its own."""
