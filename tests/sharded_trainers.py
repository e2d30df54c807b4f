"""Fine-tunes all weights of the tiny model, its layers shared out, in every process of a launcher, and writes what process 0 ends with; for
test_sharded_trainers.py.

torchrun --standalone --nproc_per_node 2 tests/sharded_trainers.py FOLDER OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from transformers import core_model_loading
from transformers.distributed.sharding_utils import DtensorShardOperation

from pipeline.settings.config import SFT
from pipeline.training.context import make_accelerator
from pipeline.training.fine_tuning import fine_tune
from pipeline.training.sharded import whole_tensors
from pipeline.training.trackers import Trackers
from pipeline.training.trainers import Report
from policies.adapters import lora_config
from policies.backbone import load_causal
from policies.precision import Held, Shares
from policies.sharding import bytes_here
from policies.template import Lesson
from policies.tokenizers import load_tokenizer

LESSONS = [Lesson([*range(3 + n, 3 + 2 * n), 1], [False] * 2 + [True] * (n - 1)) for n in (5, 9, 7, 12, 3, 8, 6, 10)]
STOPPED = 2  # optimizer steps of a run whose state is gone on from


class Stop(Exception):
    """An interruption."""


class Stopped(Report):
    """A report of a training that is interrupted."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STOPPED:
            raise Stop


def trained(model_folder: Path, folder: Path, sharding: str, stop: bool = False) -> tuple[dict[str, Tensor], Report]:
    """All weights (on process 0, where they are shared out) after four steps that are cut hard, from the state in `folder` on that there
    is, and the report; interrupted after two, or not."""
    folder.mkdir(exist_ok=True)
    tokenizer = load_tokenizer(model_folder)
    section = SFT(
        tuning="full", sharding=sharding, batch_size=4, per_device_train_batch_size=1, max_steps=4, learning_rate=1e-3,
        weight_decay=0.1, max_grad_norm=0.05, warmup_steps=1, logging_steps=1, save_steps=2,
    )  # fmt: skip
    accelerator = make_accelerator()
    report = (Stopped if stop else Report)(folder, "sft", Trackers("sft"))
    shared = None if sharding == "none" else Shares("sft.sharding", learned=True)
    model: Any = load_causal(model_folder, tokenizer, Held(torch.float32, shared=shared))
    try:
        model, *_ = fine_tune(section, model, tokenizer, LESSONS, folder, accelerator, 0, report)
    except Stop:
        return {}, report
    if sharding == "none":
        return {name: p.detach() for name, p in model.named_parameters()}, report
    return report.learned, report


class Counting:
    """Counts, while it is open, the bytes that this process reads of a checkpoint, and the most layers that are whole here at once."""

    def __init__(self) -> None:
        self.read, self.whole, self.most = 0, set[int](), 0

    def __enter__(self) -> "Counting":
        self.kept = [
            (FSDPParamGroup, "_to_unsharded", FSDPParamGroup._to_unsharded),
            (FSDPParamGroup, "_to_sharded", FSDPParamGroup._to_sharded),
            (DtensorShardOperation, "shard_tensor", DtensorShardOperation.shard_tensor),
            (core_model_loading, "_materialize_copy", core_model_loading._materialize_copy),
        ]
        (_, _, unsharding), (_, _, sharding), (_, _, slicing), (_, _, copying) = self.kept

        def unsharded(group: Any) -> None:
            self.whole.add(id(group))
            self.most = max(self.most, len(self.whole))
            unsharding(group)

        def sharded(group: Any) -> None:
            self.whole.discard(id(group))
            sharding(group)

        def counted(found: Tensor) -> Tensor:
            self.read += found.nbytes
            return found

        made = (
            unsharded,
            sharded,
            lambda *a, **k: counted(slicing(*a, **k)),
            lambda *a, **k: counted(copying(*a, **k)),
        )
        for (place, name, _), other in zip(self.kept, made, strict=True):
            setattr(place, name, other)
        return self

    def __exit__(self, *_: object) -> None:
        for place, name, right in self.kept:
            setattr(place, name, right)


def loaded(model_folder: Path, accelerator: Any) -> dict[str, Any]:
    """What each process reads and holds of a model that is loaded below an adapter, and whether that is what is in the file."""
    tokenizer, shares = load_tokenizer(model_folder), Held(torch.float32, shared=Shares("sft.sharding", learned=False))
    with Counting() as counting:
        model: Any = load_causal(model_folder, tokenizer, shares)
        adapted = get_peft_model(model, lora_config(model, SFT().lora, "CAUSAL_LM"))
        adapted(input_ids=torch.arange(5, 14)[None]).logits.square().sum().backward()
    right = load_causal(model_folder, tokenizer, torch.float32)
    here = bytes_here(right)
    found = whole_tensors(load_causal(model_folder, tokenizer, shares).state_dict(keep_vars=True), True)
    same = all(torch.equal(found[name], value) for name, value in right.state_dict().items())
    learns = {name for name, p in adapted.named_parameters() if p.grad is not None}
    told = {"read": counting.read, "most": counting.most, "whole": here, "same": same}
    told["adapters"] = learns == {name for name, _ in adapted.named_parameters() if "lora_" in name}
    return {key: gather_object([value]) for key, value in told.items()}


def main(model_folder: Path, out: Path) -> None:
    accelerator = make_accelerator()
    told = loaded(model_folder, accelerator)
    if accelerator.is_main_process:
        (out / "loaded.json").write_text(json.dumps(told))
    for name, sharding, stop in (("full", "full", False), ("alone", "full", False), ("left", "full", True)):
        weights, report = trained(model_folder, out / name, sharding, stop)
        if weights:
            save_file(weights, out / f"{name}.safetensors")
        bytes_ = report.shares["sharding"]["weights_bytes"]
        (out / f"{name}.bytes").write_text(" ".join(map(str, bytes_)))
    accelerator.end_training()  # else a thread of the group may outlive the interpreter, which aborts then


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
