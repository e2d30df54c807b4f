"""Which models can be talked to, and how does one of them speak, piece by piece? Loaded when they are asked for the first time, two at a time.

Torch is imported here, and this module by nothing until somebody asks a model.
"""

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from data.schema import PromptText
from pipeline.artifacts.run import Run
from pipeline.language import phrase
from pipeline.settings.sections import Resolved
from pipeline.training.context import base_at
from pipeline.training.limits import GB, available
from pipeline.web.asking import Refused
from pipeline.web.contenders import revision_of, source_of
from policies.backbone import load_causal
from policies.errors import BackboneError
from policies.precision import Held, pick_dtype
from policies.seq2seq import of_rows
from policies.template import decode_completion, encode_prompt
from policies.tokenizers import eos_ids, load_tokenizer

KEPT = 2  # models that stay loaded
OFTEN = 0.08  # seconds between two pieces


@dataclass(frozen=True)
class Speaker:
    """A loaded model with its tokenizer."""

    model: Any
    tokenizer: Any
    stops: list[int]


@dataclass
class Said:
    """What became of an answer: its text, its tokens, the seconds that it took, and whether it ended by itself."""

    text: str
    tokens: int
    seconds: float
    finished: bool
    stopped: bool


@dataclass
class Speakers:
    """The models of one page. One answer is written at a time, whoever asks: two would take each other's time."""

    run: Run
    loaded: "OrderedDict[str, Speaker]" = field(default_factory=OrderedDict)
    one: threading.Lock = field(default_factory=threading.Lock)

    def say(
        self,
        name: str,
        prompt: PromptText,
        how: Resolved,
        seed: int,
        stop: threading.Event,
        told: Callable[[dict[str, Any]], None],
    ) -> Said | None:
        """Let the model `name` answer; `told` is called with {"told": …} and {"text": the whole text so far}. None where `stop` is set
        before it began. Raises Refused where the model cannot be loaded or takes no such prompt."""
        while not self.one.acquire(timeout=0.5):
            if stop.is_set():
                return None
            told({"told": phrase("another answer is being written")})
        try:
            return None if stop.is_set() else self._said(name, prompt, how, seed, stop, told)
        finally:
            self.one.release()

    def _said(self, name: str, prompt: PromptText, how: Resolved, seed: int, stop: threading.Event, told: Any) -> Said:
        if name not in self.loaded:
            told({"told": phrase("loading {name}", name=name)})
        speaker = self._speaker(name)
        try:
            ids = encode_prompt(speaker.tokenizer, prompt)
        except ValueError as error:
            raise Refused(400, f"{name}: {error}.") from None
        _check_length(name, speaker, len(ids), how.max_new_tokens)
        told({"told": ""})
        pieces = _Pieces(speaker, prompt, told)
        began = time.monotonic()
        device = speaker.model.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            speaker.model.generate(
                torch.tensor([ids], device=device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
                generation_config=_generation(how, speaker),
                streamer=pieces,
                stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
            )
        said = pieces.ids
        return Said(
            pieces.text(), len(said), time.monotonic() - began, bool(said) and said[-1] in speaker.stops, stop.is_set()
        )

    def _speaker(self, name: str) -> Speaker:
        if name in self.loaded:
            self.loaded.move_to_end(name)
            return self.loaded[name]
        source, revision = source_of(self.run, name), revision_of(self.run, name)
        try:
            source = base_at(source, revision, self.run)
            while len(self.loaded) >= KEPT or (self.loaded and not _fits(source)):
                self.loaded.popitem(last=False)
                gc.collect()
            if not _fits(source):
                raise Refused(409, f"{name}: there is not enough free memory for it; choose a smaller model.")
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            tokenizer = load_tokenizer(source, revision=revision, foreign=True)
            model: Any = load_causal(source, tokenizer, Held(pick_dtype("auto", device), unrounded=True), revision)
        except BackboneError as error:
            raise Refused(409, f"{name}: it cannot be loaded: {str(error).replace(str(source), name)}.") from None
        speaker = Speaker(model.to(device), tokenizer, eos_ids(model, tokenizer))
        self.loaded[name] = speaker
        return speaker


def _fits(source: str) -> bool:
    """Whether a folder's weights have room in the memory that is free; a Hub id is tried."""
    size = sum(path.stat().st_size for path in Path(source).glob("*.safetensors")) if Path(source).is_dir() else 0
    free, _ = available()
    return size / GB < 0.9 * free


def _check_length(name: str, speaker: Speaker, prompt: int, new: int) -> None:
    most = getattr(speaker.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(prompt, new) if of_rows(speaker.model) else prompt + new
    if most is not None and longest > most:
        raise Refused(
            400,
            f"{name}: it reads {most:,} tokens, and {prompt:,} and max_new_tokens {new:,} are more; clear the chat.",
        )


def _generation(how: Resolved, speaker: Speaker) -> GenerationConfig:
    own = speaker.model.generation_config
    return GenerationConfig(**how.acting(), eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id)


class _Stop(StoppingCriteria):
    """Ends an answer when nobody reads on."""

    def __init__(self, stop: threading.Event):
        self.stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.stop.is_set(), dtype=torch.bool, device=input_ids.device)


class _Pieces(BaseStreamer):
    """Hands on the text so far, every OFTEN seconds."""

    def __init__(self, speaker: Speaker, prompt: PromptText, told: Callable[[dict[str, Any]], None]):
        self.speaker, self.prompt, self.told = speaker, prompt, told
        self.ids: list[int] = []
        self.began, self.last = False, 0.0

    def text(self) -> str:
        return decode_completion(self.speaker.tokenizer, self.prompt, self.ids, self.speaker.stops)

    def put(self, value: torch.Tensor) -> None:
        if not self.began:  # the prompt comes first
            self.began = True
            return
        self.ids += value.flatten().tolist()
        if time.monotonic() - self.last >= OFTEN:
            self.last = time.monotonic()
            self.told({"text": self.text()})

    def end(self) -> None:
        self.told({"text": self.text()})
