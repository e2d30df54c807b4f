"""What did people say? Files and data sets in; demonstrations, rankings and prompts out."""
