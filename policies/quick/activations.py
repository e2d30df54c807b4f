"""Which forwards need not run twice? Those of the measuring pass, kept with their activations for the first epoch."""

from collections.abc import Callable

import torch
from torch import Tensor

from policies.logprobs import Batch
from policies.loop_settings import LoopSettings
from policies.micro_batch import Forward
from policies.roles import Roles
from policies.untyped import ModelConfig


def kept_numbers(shape: ModelConfig, layers: int) -> int:
    """About how many numbers autograd keeps for one token in `layers` layers of a decoder with the text config `shape`.

    Nine vectors of the hidden size (norms, projections, attention, residuals) and four of the inner one (gate, its activation, up, product).
    """
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    widest = inner if isinstance(inner, int) else max(inner)  # Gemma 3n has one a layer
    return layers * (9 * shape.hidden_size + 4 * widest)


class Activations:
    """Forwards of the measuring pass, kept with their activations for the first epoch's backward, within `keep_activations` GB.

    Until the first update the weights are those that were measured, so that the first epoch need not run them again; this holds for one
    minibatch an epoch. With several processes nothing is kept, as DDP wants each forward followed by its backward.
    """

    def __init__(self, roles: Roles, settings: LoopSettings, world: int):
        self.room = settings.keep_activations * 1e9 if settings.num_mini_batches == 1 and world == 1 else 0.0
        self.weights = {p.untyped_storage().data_ptr() for p in roles.parameters()} if self.room else set[int]()
        shape = roles.causal.config.get_text_config()
        layers = shape.num_hidden_layers - (roles.trunk.depth if roles.trunk is not None else 0)
        # bytes, an estimate for the first micro-batch, then as counted for the one before
        self.per_token = float(kept_numbers(shape, layers) * next(roles.causal.parameters()).element_size())

    def run(self, forward: Callable[[Batch], Forward], batch: Batch) -> Forward:
        """What `forward` gives: with its graph where there is room for that, else without."""
        size = sum(batch.lengths)
        if self.room <= 0 or self.per_token * size > self.room:
            with torch.no_grad():
                return forward(batch)
        stored: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.weights:
                stored[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # a node that kept its own output would never be freed

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = forward(batch)
        used = float(sum(stored.values()))
        self.room -= used
        self.per_token = used / size
        return out
