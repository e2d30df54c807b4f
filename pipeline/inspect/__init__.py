"""What does a model do with one prompt, token by token?"""
