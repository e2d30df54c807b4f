"""How does a cache grow by a token without a copy of itself? With room for tokens to come."""

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from policies.untyped import Arguments, Foreign

SPARE = 32  # places for tokens to come that a layer of the cache takes at a time


class RoomyLayer(DynamicLayer):
    """A layer of the cache with room behind its keys and values (B, heads, L, D) for the next SPARE tokens.

    DynamicLayer copies all that it has for every token.
    """

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.__dict__ |= vars(layer)
        self._rooms: dict[str, tuple[Tensor, Tensor]] = {}  # keys, values: the whole, and what is in use of it

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Arguments, **kwargs: Arguments
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._longer("keys", key_states), self._longer("values", value_states)

    def _longer(self, name: str, new: Tensor) -> Tensor:
        held: Foreign = getattr(self, name)
        start = held.shape[-2] if held.numel() else 0
        end = start + new.shape[-2]
        room, used = self._rooms.get(name, (held, None))
        if used is not held or end > room.shape[-2]:
            room = new.new_empty((*new.shape[:-2], end + SPARE, new.shape[-1]))
            if start:
                room[..., :start, :] = held
        room[..., start:end, :] = new
        used = room[..., :end, :]
        self._rooms[name] = room, used
        setattr(self, name, used)
        return used

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._rooms.clear()
