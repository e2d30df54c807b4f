"""Does it work with every architecture that transformers has? Tiny models of all of them, and what is asked of each."""
