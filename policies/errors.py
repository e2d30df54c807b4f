"""What goes wrong with a model or tokenizer that a user can mend?"""

from pathlib import Path


class BackboneError(Exception):
    """A model or tokenizer that cannot be used as it is; the message names the remedy."""


class NotThere(BackboneError):
    """A folder or Hub id without what is looked for."""


def not_there(path: str | Path, what: str, error: Exception) -> NotThere:
    """What to raise where `path` holds no `what`, a model or tokenizer, as `error` says."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return NotThere(f"{path}: no {what} to be had there ({reason}); give a folder or Hub id that holds one")
