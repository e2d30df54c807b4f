"""How does a result reach others? On the Hub, with a card that says what it is."""
