"""How do files become rows?"""
