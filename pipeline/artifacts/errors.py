"""What can a user mend in a run? One error, whose message names the remedy."""


class ArtifactError(Exception):
    """A parent that is missing, damaged, made for something else, or failed its gate; the message names the remedy."""
