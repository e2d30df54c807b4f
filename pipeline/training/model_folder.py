"""How is a model folder made that loads without our code? Merged weights, tokenizer, adapter beside them, model card."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from pipeline.artifacts.files import write_json, write_text
from pipeline.settings.config import Config
from pipeline.training.card import base_of, card, datasets_of, is_encoder_decoder, policy
from pipeline.training.merging import Stored, distributions, divergence, merge, with_adapter
from policies.backbone import load_causal
from policies.sharding import sharded
from policies.template import Turn


@dataclass(frozen=True)
class Published:
    """What stands in a folder: the model as `from_pretrained` loads it, the dtype of its weights, how an adapter was merged, and
    figures of the merged model against the adapter, "merged/…"; none where no adapter was trained."""

    model: Any
    dtype: torch.dtype
    merged: Stored | None
    figures: dict[str, float]


def save_merged(folder: Path, model: Any, tokenizer: Any, adapter_name: str = "default") -> Stored | None:
    """Save full weights (and the adapter under adapter/, when there is one) and the tokenizer: in which dtype, see `merge`; None
    where there was no adapter and all weights were trained, in the dtype that they have.

    The adapter belongs on the model that the stage started from, which its config names. `model` is moved to the CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to("cpu")  # merging and what is loaded afterwards would need the accelerator's memory beside it
    stored = None
    if isinstance(model, PeftModel):
        _save_adapter(folder, model, adapter_name)
        model, stored = merge(model, adapter_name)
    # save_pretrained writes a name of its own origin into config.json otherwise: a path of this machine
    model.config._name_or_path = ""
    model.name_or_path = ""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return stored


def _save_adapter(folder: Path, model: Any, adapter_name: str) -> None:
    # not the embedding, which a pad that was added to a classifier's tokenizer made wider: it was not trained
    model.save_pretrained(str(folder / "adapter"), selected_adapters=[adapter_name], save_embedding_layers=False)
    inner = folder / "adapter" / adapter_name
    if inner.is_dir():  # peft puts an adapter that is not called "default" into a folder of its name
        for path in inner.iterdir():
            path.rename(folder / "adapter" / path.name)
        inner.rmdir()
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # peft's empty model card
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    if Path(base := settings["base_model_name_or_path"] or "").is_dir():  # so that peft finds it from any folder
        settings["base_model_name_or_path"] = str(Path(base).resolve())
    if isinstance(settings["target_modules"], list):  # a set in peft: its order, and so the file's hash, would vary
        settings["target_modules"] = sorted(settings["target_modules"])
    write_json(folder / "adapter" / "adapter_config.json", settings)


def quantised(model: Any) -> bool:
    """Whether an adapter was trained on weights of 4 or 8 bit, into which it cannot be merged."""
    return isinstance(model, PeftModel) and bool(getattr(model.get_base_model(), "is_quantized", False))


def on_parent(folder: Path, model: Any, adapter_name: str, parent: Callable[[], Any]) -> Any:
    """The adapter of `model`, saved under `folder`, on `parent()`: the model that the stage started from, unquantised, on the CPU."""
    _save_adapter(folder, model, adapter_name)
    return PeftModel.from_pretrained(parent(), str(folder / "adapter"), adapter_name=adapter_name).eval()


def whole_again(folder: Path, model: Any, fresh: Callable[[], Any], learned: Mapping[str, Tensor]) -> Any:
    """`model` as one process has it: where its layers are shared out, its adapter, saved under `folder`, on what `fresh()` loads as the
    stage did, or that with all weights that were `learned`; on the CPU then."""
    if not sharded(model):
        return model
    if isinstance(model, PeftModel):
        return on_parent(folder, model, "default", fresh)
    whole = fresh()
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            parameter.copy_(learned[name])
    return whole.eval()


def save_policy(
    folder: Path,
    model: Any,
    tokenizer: Any,
    turns: Sequence[Turn],
    parent: Callable[[], Any],
    adapter_name: str = "default",
) -> Published:
    """Save a policy and load it as a user does, on the device where it was trained; `turns` are what it is held against its adapter
    on: "merged/kl" in nats a token (`divergence`) and "merged/kept", the share of the update (`merge`).

    An adapter on a quantised base is merged into `parent()`, the model that the stage started from as it was published, and held
    against the adapter on that; "quantised/kl" is then from the policy as it was trained.
    """
    device, dtype, few_bits = model.device, model.dtype, quantised(model)
    before = trained = with_adapter(model, adapter_name, lambda: distributions(model, turns))
    if few_bits:
        model = on_parent(folder, model, adapter_name, parent)
        before = with_adapter(model, adapter_name, lambda: distributions(model, turns))
    stored = save_merged(folder, model, tokenizer, adapter_name)
    loaded: Any = load_causal(folder, tokenizer, dtype if stored is None else stored.dtype)
    loaded.to(device)
    if stored is None:
        return Published(loaded, dtype, None, {})
    after = distributions(loaded, turns)
    figures = {"merged/kl": divergence(before, after), "merged/kept": stored.kept}
    if few_bits:
        figures["quantised/kl"] = divergence(trained, after)
    return Published(loaded, stored.dtype, stored, figures)


def write_card(folder: Path, config: Config, stage: str, what: str, metrics: dict[str, float], place: Path) -> None:
    """Write README.md, a Hugging Face model card with the stage's figures, of a model that will stand in `place`."""
    base = config.reward.model or config.model if not policy(stage) else config.model
    about = [f"Base model: {base}. Seed {config.seed}. Settings, parents and hashes: `manifest.json`."]
    sources = datasets_of(config.data.sources())
    known: dict[str, Any] = {"datasets": sources, "about": about, "encoder_decoder": is_encoder_decoder(folder)}
    text = card(stage, what, str(place), base_of(base), metrics, **known)
    write_text(folder / "README.md", text)
