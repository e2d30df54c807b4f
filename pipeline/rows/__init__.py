"""Which rows does a stage get? From sources to what is published, and from there to a stage."""
