"""Which rows are fit to learn from?"""
