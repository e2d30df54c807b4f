"""When, from where, to where? The stages, their settings, and the artifacts they hand to each other."""
