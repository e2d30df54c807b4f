"""How is a model made from nothing but texts?"""
