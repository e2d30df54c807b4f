"""What goes on inside the models while they read and write one text? The sections of the page that open them one after the other."""

import gc
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.artifacts.files import digest, write_bytes
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.run import Run
from pipeline.inspect import heads, landscape, lens, maps, positions, saliency
from pipeline.inspect.tokens import shown
from pipeline.language import phrase
from pipeline.pages.common import inline, own_script, require_finite
from pipeline.rows.published import rankings
from pipeline.settings.config import Config
from pipeline.training.context import base_model
from pipeline.training.holding import as_published
from policies.backbone import BackboneError, load_causal, load_classifier
from policies.episodes import Episode
from policies.template import PromptText
from policies.tokenizers import load_tokenizer
from policies.told import tell
from reward.model import Reading, reading_of


@dataclass(frozen=True)
class Asked:
    """Which model of which run is looked into, with the tokenizer that it shares with the run's sft model."""

    config: Config
    run: Run
    model: str
    source: str
    tokenizer: Any
    device: torch.device
    seed: int


def sections(about: Asked, prompt: PromptText, episode: Episode, steps: dict[str, Any]) -> dict[str, Any]:
    """What the page's template is given of the models' insides; each is None, or empty, where there is nothing to be shown of this model."""
    ids = [*episode.prompt_ids, *episode.completion.tokens]
    found = _of_speaker(about, ids, len(episode.prompt_ids)) | _of_reward(about, prompt, episode)
    data = {"steps": steps, "heads": found.pop("heads"), "landscape": found.pop("landscape")}
    require_finite(data, "inspect")
    script, allowed = own_script("inspect.js.j2")
    return found | {
        **{"pixels": maps.SIDE, "length": len(ids), "script": script, "digest": allowed, "data": inline(data)},
        **{"most": len(steps["steps"][0]["tokens"]) if steps["steps"] else 0, "vocabulary": steps["vocabulary"]},
        "has": {name: value is not None for name, value in data.items()},
    }


def _of_speaker(about: Asked, ids: Sequence[int], prompt: int) -> dict[str, Any]:
    """Attention, its parts, what positions do, and the guesses layer by layer of the model and of the base it came from."""
    lenses = [_lens_of_base(about, ids, prompt)] if about.model != "base" else []
    tell(f"inspect: {about.model}, layer by layer and head by head")
    speaker: Any = load_causal(about.source, about.tokenizer, as_published(about.config, about.device))
    speaker.to(about.device).eval()
    lenses.append(lens.lens(about.model, speaker, about.tokenizer, ids, prompt))
    attention = maps.attention(speaker, ids, prompt)
    found = {
        "attention": attention,
        "layers": speaker.config.get_text_config().num_hidden_layers,
        "heads": heads.view(heads.looked(speaker, ids), [shown(about.tokenizer, one) for one in ids]),
        "positions": positions.ways(speaker, ids, prompt, about.seed) if attention else [],
        "lenses": [one for one in lenses if one is not None],
        "said": [shown(about.tokenizer, one) for one in ids[prompt : prompt + lens.STEPS]],
    }
    del speaker
    gc.collect()
    return found


def _lens_of_base(about: Asked, ids: Sequence[int], prompt: int) -> lens.Lens | None:
    """Of the model before any training of the run; None where it reads other tokens."""
    source = base_model(about.config, about.run)
    try:
        if load_tokenizer(source, about.config.revision).get_vocab() != about.tokenizer.get_vocab():
            return None
        held = as_published(about.config, about.device)
        base: Any = load_causal(source, about.tokenizer, held, about.config.revision)
    except BackboneError:
        return None
    found = lens.lens("base", base.to(about.device).eval(), about.tokenizer, ids, prompt)
    del base
    gc.collect()
    return found


def _of_reward(about: Asked, prompt: PromptText, episode: Episode) -> dict[str, Any]:
    """Where the reward looks, and its states of held-out completions; nothing where the run has no reward model."""
    nothing: dict[str, Any] = {"saliency": None, "states": [], "landscape": None}
    if "reward" not in parents("ppo", about.config):
        return nothing
    folder = about.run.folder("reward")
    reads = reading_of(folder)
    model: Any = load_classifier(folder, reads.tokenizer, as_published(about.config, about.device))
    model.to(about.device).eval()
    found = nothing | _states(about, model, reads, prompt, episode)
    return found | {"saliency": saliency.saliency(model, reads, prompt, episode.text)}


def _states(about: Asked, model: Any, reads: Reading, prompt: PromptText, episode: Episode) -> dict[str, Any]:
    """The maps of the last layer as drawings, and of all layers for the page's script; none without held-out rankings."""
    rows = maps.chosen_and_rejected(rankings(about.run, "eval"))
    if not rows:
        return {}
    own = landscape.states_of_layers(model, reads, [(prompt, episode.text)])
    known = None if own is None else _known_states(about, model, reads, rows)
    if own is None or known is None:
        return {}
    states = np.concatenate([known, own[0]])
    names = [*(ranking.id for ranking, _, _ in rows), phrase("this one")]
    kinds = [*(kind for _, kind, _ in rows), "this one"]
    return {
        "states": maps.states_figures(states[:, -1].astype(np.float64), names, kinds, about.seed),
        "landscape": landscape.maps(states, own[1], kinds, names, about.seed),
    }


def _known_states(about: Asked, model: Any, reads: Reading, rows: Sequence[Any]) -> NDArray[np.float32] | None:
    """The states of the held-out completions, from a file of its own for every reward model, data and dtype where it has been made."""
    run = about.run
    key = digest([run.identity("reward"), run.identity("data"), str(model.dtype), maps.RANKINGS, "layers shown"])
    kept = run.root / run.name / "inspect" / f"states-{key[:12]}.npy"
    if kept.is_file():
        found: NDArray[np.float32] = np.load(kept)
        return found
    print(f"inspect: the reward model reads {len(rows)} held-out completions, once for all pages", flush=True)
    made = landscape.states_of_layers(model, reads, [(ranking.prompt, text) for ranking, _, text in rows])
    if made is None:
        return None
    kept.parent.mkdir(parents=True, exist_ok=True)
    raw = io.BytesIO()
    np.save(raw, made[0])
    write_bytes(kept, raw.getvalue())
    return made[0]
