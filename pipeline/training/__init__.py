"""What do stages share that make a model?"""
