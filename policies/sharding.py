"""Which weights lie where? Decoder layers shared out among processes by FSDP2, and gathered whole while a model samples or measures.

Only the layers of a decoder are shared out: embeddings, heads and adapters stay whole on every process, and what of them is trained has
gradients that `averaged` makes the mean of, as DDP would. A forward gathers one layer after the other, so that every process has to run as many as
the others do (`missing`); within `whole` a model is gathered once, and forwards are nobody's affair but one's own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.distributed import DistributedConfig

from policies.errors import BackboneError
from policies.precision import Shares
from policies.quick.moving import read_back
from policies.trials import bare, decoder
from policies.untyped import Arguments, Foreign, Model


def layers_of(model: nn.Module, setting: str) -> list[nn.Module]:
    """The decoder's layers, in order. Raises BackboneError, which names `setting`, where there is no one list of them, or they share weights."""
    inner: Model = bare(model)
    name, count = type(inner).__name__, inner.config.get_text_config().num_hidden_layers
    found = [m for m in decoder(model).modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(found) != 1:
        raise BackboneError(
            f"{setting}: {name} has {len(found) or 'no'} lists of {count} decoder layers in place of one to share out; set {setting}=none"
        )
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    if any(uses[id(p)] > 1 for layer in found[0] for p in layer.parameters()):
        raise BackboneError(f"{setting}: {name} has layers that share weights; set {setting}=none")
    return list(found[0])


def share_out(model: nn.Module, setting: str, device: torch.device | None = None) -> None:
    """Leave of every decoder layer the share of this process, adapters aside. `setting` is the one that asks for it, for messages;
    `device` is where its weights will be, where they are not read yet.

    Raises BackboneError where that cannot be: in one process, in 4 or 8 bit, or with layers that `layers_of` does not find.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        raise BackboneError(
            f"{setting}: there is one process, and nothing to share out; set {setting}=none, or start more"
        )
    if getattr(bare(model), "is_quantized", False):
        raise BackboneError(
            f"{setting}: weights of 4 or 8 bit are not shared out; set {setting}=none, or quantization=null"
        )
    device = device or next(model.parameters()).device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers_of(model, setting):
        adapters = {p for name, p in layer.named_parameters() if _of_adapter(name)}
        shared: Foreign = fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=adapters)
        shared.set_force_sum_reduction_for_comms(True)  # gloo has no mean


@contextmanager
def reading_shares(shares: Shares | None) -> Iterator[dict[str, Arguments]]:
    """Within the block `from_pretrained`, given these arguments, shares out the layers of a model before it reads any weight, and each process
    reads its share of every layer alone, slice by slice where the file is safetensors.

    transformers does so by a plan of its own, which would share out embeddings and heads too: the place where it follows that plan is taken.
    Every process is to load. Nothing without `shares`. Raises BackboneError as `share_out` does, ImportError where transformers has no such place.
    """
    if shares is None:
        yield {}
        return
    if not hasattr(PreTrainedModel, "maybe_distribute_model"):
        raise ImportError(
            "this transformers shares out no weights while it reads; install the version in constraints.txt"
        )
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    def share(cls: type, model: Model, *_: Arguments) -> Model:
        for module in model.modules():
            vars(getattr(module, "config", None) or module).pop("distributed_config", None)  # no plan was followed
        model.requires_grad_(shares.learned)  # what is gathered once stays as it was then
        share_out(model, shares.setting, device)
        return model

    place: Foreign = PreTrainedModel
    place.maybe_distribute_model = classmethod(share)
    try:
        yield {"distributed_config": DistributedConfig(), **({"device_map": {"": device}} if on_gpu else {})}
    finally:
        del place.maybe_distribute_model  # that of its parent is there again


def _of_adapter(name: str) -> bool:
    return any(part.startswith("lora_") for part in name.split("."))


def sharded(model: nn.Module) -> bool:
    """Whether layers of `model` are shared out."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def whole(*models: nn.Module) -> Iterator[None]:
    """Within the block all weights of `models` are on this process; what is done to them there is forgotten. Every process is to enter."""
    layers = [module for model in models for module in model.modules() if isinstance(module, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True)
            layer.reshard()


def missing(count: int, device: torch.device) -> int:
    """How many forwards fewer than the busiest process this one has with `count`. Every process is to ask."""
    most = torch.tensor(count, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most.item()) - count


@torch.no_grad()
def averaged(parameters: Iterable[nn.Parameter]) -> None:
    """Make the gradients of what lies whole on every process their mean over all; those of shared-out weights are that already."""
    mine = [p for p in parameters if not isinstance(p, DTensor)]
    for dtype in dict.fromkeys(p.dtype for p in mine):
        same = [p for p in mine if p.dtype == dtype]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in same])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, grad in zip(same, flat.split([p.numel() for p in same]), strict=True):
            p.grad = grad.view_as(p)


@torch.no_grad()
def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Copies on the CPU, each whole, one gathered after the other; nothing where they are not to be kept. Every process is to ask."""
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            shared: Foreign = tensor
            one: Tensor = shared.detach().full_tensor()
            if keep:
                found[name] = one.cpu()
    if not keep:
        return {}
    found |= read_back({name: tensor for name, tensor in tensors.items() if not isinstance(tensor, DTensor)})
    return {name: found[name] for name in tensors}


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copy what is whole into what may be shared out."""
    if isinstance(target, DTensor):
        mine = distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
        _here(target).copy_(_here(mine))
    else:
        target.copy_(value)


def bytes_here(*models: nn.Module) -> int:
    """Bytes of the weights of `models` that lie on this process; what several have counts once."""
    every = {id(p): p for model in models for p in model.parameters()}
    return sum(_here(p).numel() * p.element_size() for p in every.values())


def _here(tensor: Tensor) -> Tensor:
    """This process's share of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
