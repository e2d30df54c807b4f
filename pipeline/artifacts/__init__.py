"""What do stages hand to each other? Folders that are complete or absent, each with a manifest written last."""
