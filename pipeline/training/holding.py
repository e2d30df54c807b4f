"""How does a stage hold its models? In the recipe's dtype where they are frozen, as they were published where they are only asked."""

import torch

from pipeline.settings.config import Config
from policies.precision import Held, pick_dtype


def to_train(config: Config, device: torch.device, tuning: str) -> Held:
    """For a model that training changes: float32 where all of it learns, else the recipe's dtype for what an adapter sits on."""
    return Held(torch.float32 if tuning == "full" else pick_dtype(config.dtype, device))


def as_published(config: Config, device: torch.device) -> Held:
    """For a model that is only asked or judged: as its folder holds it, what a user loads, never rounded to the recipe's dtype."""
    return Held(pick_dtype(config.dtype, device), unrounded=True)
