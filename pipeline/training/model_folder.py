"""How is a model folder made that loads without our code? Merged weights, tokenizer, adapter beside them, model card."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from peft import PeftModel
from transformers import PreTrainedModel

from pipeline.artifacts.files import write_json
from pipeline.settings.config import Config


def save_merged(folder: Path, model: Any, tokenizer: Any, adapter_name: str = "default") -> PreTrainedModel:
    """Save full weights (and the adapter under adapter/, when there is one) and the tokenizer; returns the merged model.

    The adapter belongs on the model that the stage started from, which its config names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder / "adapter"), selected_adapters=[adapter_name])
        inner = folder / "adapter" / adapter_name
        if inner.is_dir():  # peft puts an adapter that is not called "default" into a folder of its name
            for path in inner.iterdir():
                path.rename(folder / "adapter" / path.name)
            inner.rmdir()
        (folder / "adapter" / "README.md").unlink(missing_ok=True)  # peft's empty model card
        settings = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        if isinstance(settings["target_modules"], list):  # a set in peft: its order, and so the file's hash, would vary
            settings["target_modules"] = sorted(settings["target_modules"])
        write_json(folder / "adapter" / "adapter_config.json", settings)
        merged: Any = model.merge_and_unload(adapter_names=[adapter_name])
        model = merged
    # save_pretrained writes a name of its own origin into config.json otherwise: a path of this machine
    model.config._name_or_path = ""
    model.name_or_path = ""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return model


def policy_usage(folder: Path) -> str:
    """The lines of Python that load a published policy."""
    return f'from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained("{folder}")'


def write_card(folder: Path, config: Config, stage: str, what: str, metrics: dict[str, float], usage: str) -> None:
    """Write README.md, a Hugging Face model card with the stage's figures."""
    base = config.model if "/" in config.model and not Path(config.model).exists() else None
    data = ModelCardData(library_name="transformers", base_model=base, tags=["rlhf", stage])
    table = "\n".join(f"| {name} | {value:.4g} |" for name, value in metrics.items())
    content = (
        f"---\n{data.to_yaml()}\n---\n\n# {what}\n\nBase model: {config.model}. Seed {config.seed}. Settings, parents and hashes: `manifest.json`.\n\n"
        f"```python\n{usage}\n```\n\n| figure | value |\n|---|---|\n{table}\n"
    )
    ModelCard(content, ignore_metadata_errors=True).save(folder / "README.md")
