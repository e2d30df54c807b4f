"""How do people watch runs, rank answers, vote blind and talk to models in a browser, on this machine?"""
