"""Who says which completion is better, and how far do they agree?"""
