"""How does a Trainer learn weights that are shared out? Gradients, clipping and checkpoints over all processes, with one process's files.

What of a model lies whole on every process has gradients that are averaged here; layers that are shared out have theirs from FSDP2.
transformers' Trainer itself gives its optimizer and its clipping what lies whole apart from what is shared out. But it has process 0
write a checkpoint alone, which could gather nothing: here all processes gather, and the files are those that one process writes, so
that any number of processes goes on from them, with any sharding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from policies.sharding import averaged, gathered, put, sharded, share_out

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # as transformers.Trainer names them
OF_GROUPS = (
    "base_lrs",
    "_last_lr",
    "lr_lambdas",
)  # of a scheduler's state: one a group of parameters, and all the same


class SharedOut:
    """Goes before transformers.Trainer or a subclass of it. Where nothing of its model is shared out it changes nothing."""

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        if sharded(self.model):  # and so not wrapped in DDP
            averaged(p for p in self.model.parameters() if p.requires_grad)
        return super()._clip_grad_norm(model)  # type: ignore[misc]

    def save_model(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not learns_shares(self.model):
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
            return
        state = whole_tensors(self.model.state_dict(keep_vars=True), self.args.should_save)
        if self.args.should_save:
            self._save(output_dir or self.args.output_dir, state_dict=state)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        if learns_shares(self.model):
            _read_weights(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self: Any, output_dir: str) -> None:
        if not learns_shares(self.model):
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        state = _optimizer_state(self)
        if self.args.should_save:
            groups = len(state["param_groups"])
            scheduler = {k: v[:1] * groups if k in OF_GROUPS else v for k, v in self.lr_scheduler.state_dict().items()}
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(scheduler, Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None or not learns_shares(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            return
        # from the file into the shares: the whole is not read at once
        state = torch.load(Path(checkpoint) / OPTIMIZER, map_location="cpu", mmap=True, weights_only=True)
        _put_optimizer(self, state)
        saved = torch.load(Path(checkpoint) / SCHEDULER, map_location="cpu", weights_only=True)
        groups = len(self.optimizer.param_groups)
        self.lr_scheduler.load_state_dict({k: v[:1] * groups if k in OF_GROUPS else v for k, v in saved.items()})


def share_out_trained(trainer: Any, sharding: str, setting: str) -> None:
    """Share out the layers of a trainer's model (frozen ones below an adapter, or all), and with `full` those of its reference."""
    if not sharded(trainer.model):  # it may have been read so
        share_out(trainer.model, setting)
    # else accelerate wraps it in DDP, which it refuses where weights are shared out
    trainer.model._is_accelerate_prepared = True
    reference = getattr(trainer, "ref_model", None)
    if sharding == "full" and reference is not None and not sharded(reference):
        share_out(reference, setting)


def learns_shares(model: nn.Module) -> bool:
    """Whether what is trained of `model` is shared out."""
    return any(isinstance(p, DTensor) and p.requires_grad for p in model.parameters())


def learned(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """All that was trained of a model whose trained layers are shared out, whole and on the CPU, where it is to be kept. Every process is
    to ask; nothing of other models."""
    if not learns_shares(model):
        return {}
    return gathered({name: p for name, p in model.named_parameters() if p.requires_grad}, keep)


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """`gathered`, where several names of one tensor stay names of one."""
    first = {id(tensor): name for name, tensor in reversed(list(tensors.items()))}
    found = gathered({name: tensors[name].detach() for name in first.values()}, keep)
    return {name: found[first[id(tensor)]] for name, tensor in tensors.items()} if keep else {}


def _groups(trainer: Any) -> list[list[nn.Parameter]]:
    """The parameters of the two groups that transformers' optimizer has in one process, with weight decay and without, in its order."""
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    named = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
    return [[p for name, p in named if (name in decayed) == wanted] for wanted in (True, False)]


def _optimizer_state(trainer: Any) -> dict[str, Any]:
    """state_dict() of the optimizer as one process has it; without tensors but on the process that writes."""
    groups, optimizer = _groups(trainer), trainer.optimizer
    numbers = {p: i for i, p in enumerate(p for group in groups for p in group)}
    flat = {f"{numbers[p]}/{key}": torch.as_tensor(v) for p in numbers for key, v in optimizer.state[p].items()}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in gathered(flat, trainer.args.should_save).items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = value
    told = []
    for group in groups:
        own = next((o for o in optimizer.param_groups if {*map(id, o["params"])} & {*map(id, group)}), None)
        own = optimizer.param_groups[0] | {"weight_decay": 0.0} if own is None else own  # an empty group
        told.append({**own, "params": [numbers[p] for p in group]})
    return {"state": state, "param_groups": told}


@torch.no_grad()
def _put_optimizer(trainer: Any, saved: Mapping[str, Any]) -> None:
    """Put what `_optimizer_state`, or transformers' Trainer in one process, has saved into the shares."""
    optimizer = trainer.optimizer
    for number, p in enumerate(p for group in _groups(trainer) for p in group):
        for key, value in saved["state"][number].items():
            moment = torch.zeros_like(p) if value.shape == p.shape else torch.zeros_like(value, device=p.device)
            put(moment, value)
            optimizer.state[p][key] = moment
    for group in optimizer.param_groups:
        group["lr"] = saved["param_groups"][0]["lr"]


@torch.no_grad()
def _read_weights(model: nn.Module, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the shares, one after the other."""
    left = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    seen = set()
    for path in sorted(checkpoint.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in left.keys() & set(file.keys()):
                put(left[name], file.get_tensor(name))
                seen.add(id(left[name]))
    if lacking := [name for name, tensor in left.items() if id(tensor) not in seen]:
        raise RuntimeError(f"{checkpoint}: lacks {', '.join(lacking[:3])}")
