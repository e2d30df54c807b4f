"""A model so small that a test can check all of it: two random layers, one token a character. For the tests and their helper processes."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.settings.config import PPO
from policies.backbone import decoder, init_head, load_causal
from policies.engines import transformers_engine
from policies.episodes import Asked, Episode, PromptRow, as_asked, roll_out, scored
from policies.loop import Loop, Result, Silent
from policies.quick.packing import packs
from policies.roles import POLICY, Roles, lora_roles
from policies.trainer import train

PAD, EOS, STOP = 0, 1, 2  # STOP is a second end of completions, known to the generation config alone
CHARACTERS = [chr(c) for c in range(32, 127)] + ["\n"]
PROMPTS: list[PromptRow] = [
    {"id": f"p{i}", "prompt": text}
    for i, text in enumerate(
        ["a", "bcd", "To be, or", "x y z", "12", "What?", "the cat sat", "oh", "A B", "q", "end.", "zz"]
    )
]
DEMO_TEXTS = (["a", "To be, or", "What?", "x y z"], [" b", " not to be", "", " 1 2 3 4 5 6 7"])
Figures = list[dict[str, float]]


def save_tiny(folder: Path, **changes: Any) -> Path:
    """Save the model (98 tokens, hidden size 32, logits of standard deviation about 1) and its tokenizer; `changes` to its config."""
    vocabulary = {token: i for i, token in enumerate(["<|pad|>", "<|end|>", "<|stop|>", *CHARACTERS])}
    rules = Tokenizer(models.WordLevel(vocabulary, unk_token="<|pad|>"))
    rules.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    rules.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rules, eos_token="<|end|>", pad_token="<|pad|>", additional_special_tokens=["<|stop|>"]
    )
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "tie_word_embeddings": False,
    }
    model = LlamaForCausalLM(LlamaConfig(**(sizes | changes)))
    model.generation_config = GenerationConfig(eos_token_id=[EOS, STOP], pad_token_id=PAD)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lora(r: int = 4, layers: list[int] | None = None) -> LoraConfig:
    names: Any = "all-linear" if layers is None else ["q_proj", "v_proj", "up_proj", "down_proj"]
    return LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=2 * r, target_modules=names, layers_to_transform=layers)


def make_roles(
    folder: Path,
    tokenizer: Any,
    tuning: str = "lora",
    value: str = "adapter",
    layers: list[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Roles:
    """Fresh roles on the tiny model, always the same weights; the value head is not zero, so that the critic matters."""
    torch.manual_seed(1)
    base = load_causal(folder, tokenizer, dtype)
    if tuning == "lora":
        policy: Any = get_peft_model(base, lora(layers=layers), adapter_name=POLICY)
        roles = lora_roles(policy, value, None)
        init_head(roles.value_head, seed=5)
        return roles
    head = nn.Linear(32, 1)
    critic = copy.deepcopy(decoder(base)) if value == "adapter" else None
    return Roles(base, head, value, reference=copy.deepcopy(base), critic=critic)


def randomise(roles: Roles, *adapters: str, std: float = 0.1) -> None:
    """Give the adapters' B matrices, zero at first, random weights."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in roles.named_parameters():
            if any(f".lora_B.{adapter}." in name for adapter in adapters):
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


def settings(**changes: Any) -> PPO:
    """Two iterations of eight short episodes, no limits in the way."""
    base: dict[str, Any] = {
        "total_episodes": 16,
        "batch_size": 8,
        "micro_batch_tokens": 120,
        "num_ppo_epochs": 2,
        "response_length": 7,
        "learning_rate": 2e-3,
        "max_kl": 1e6,
        "max_ratio": 1e6,
        "min_entropy": 0.0,
        "min_length": 0.0,
        "max_sampler_kl": 1e6,
        "save_steps": 1,
    }
    return PPO(**{**base, **changes})


def vowels(prompts: Sequence[Any], completions: Sequence[str]) -> Tensor:
    """A score: vowels less a tenth of the length."""
    return torch.tensor([sum(c in "aeiou" for c in text) - 0.1 * len(text) for text in completions])


class Watching(Silent):
    """Hands what the loop tells to the functions that are given, by the names of `Watch`."""

    def __init__(self, **told: Callable[..., Any]):
        vars(self).update(told)


def run(
    roles: Roles,
    tokenizer: Any,
    section: PPO,
    state: Path,
    score: Callable[[Sequence[Any], Sequence[str]], Tensor] = vowels,
    held_out: Sequence[dict[str, Any]] = (),
    accelerator: Accelerator | None = None,
    seed: int = 3,
    **more: Any,
) -> tuple[Result, Figures]:
    """`train` on PROMPTS; its result and what it logged. begin, show and progress are told what the loop tells."""
    logged: Figures = []
    told = {name: more.pop(name) for name in ("begin", "show", "progress") if name in more}
    result = train(
        accelerator or Accelerator(cpu=True),
        roles,
        tokenizer,
        PROMPTS,
        held_out,
        score,
        section,
        state=state,
        seed=seed,
        watch=Watching(log=logged.append, **told),
        **more,
    )
    return result, logged


def asked(tokenizer: Any, rows: Sequence[PromptRow] = PROMPTS) -> list[Asked]:
    """Prompts as the loop asks them: each once, rendered."""
    return as_asked(tokenizer, rows)


def said(
    roles: Roles,
    tokenizer: Any,
    prompts: Sequence[Asked],
    section: PPO,
    score: Callable[[Sequence[Any], Sequence[str]], Tensor] = vowels,
    step: int = 0,
    seed: int = 1,
) -> list[Episode]:
    """Steps 1 and 2 of the loop."""
    engine = transformers_engine(roles)
    episodes = roll_out(roles, engine, tokenizer, prompts, step, section, seed, {})
    return scored(roles, tokenizer, episodes, score, section, {})


def loop_of(roles: Roles, tokenizer: Any, section: PPO, state: Path) -> Loop:
    """What an iteration takes, for tests of single steps; there is nothing to optimise with."""
    accelerator = Accelerator(cpu=True)
    parts = (accelerator, roles, roles, None, None, transformers_engine(roles), tokenizer, vowels, section, 1)
    return Loop(*parts, asked(tokenizer), [], (), state, "", Silent())


def rows(lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded random tokens and their mask."""
    ids = torch.randint(3, 98, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def unpacked(model: nn.Module) -> Any:
    """The decoder of `model`, which runs padded rows as they are from now on."""
    body: Any = decoder(model)
    body.__class__ = type(body).__mro__[2]
    assert not packs(model)
    return body


def weights(roles: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that is trained."""
    return {name: p.detach().clone() for name, p in roles.named_parameters() if p.requires_grad}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def drawn(p: np.ndarray, u: float) -> int:
    """How a token is drawn from probabilities (V,) by definition: u as two numbers, of its first 26 bits and of the others; the first draws
    one of √V blocks of tokens, the second a token of the block, each the first whose cumulative probability exceeds it."""
    first, second = divmod(u * 2**26, 1.0)
    side = int(np.ceil(np.sqrt(len(p))))
    blocks = [p[i : i + side] for i in range(0, len(p), side)]
    sums = np.cumsum([block.sum() for block in blocks])
    block = int(np.argmax(sums > first / 2**26 * sums[-1]))
    inner = np.cumsum(blocks[block])
    return block * side + int(np.argmax(inner > second * inner[-1]))
