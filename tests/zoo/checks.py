"""What is asked of every architecture? Each is loaded from a folder as a user's is, and either works in all of this or is refused in a
sentence: logits, sampling, an adapter merged and loaded again, a step of PPO, checkpointing, a score head.

    outcome = check("mistral", folder)     # raises AssertionError where a number differs, and whatever the code raises
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tiny import randomise, run, settings
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.settings.sections import Lora
from pipeline.training.model_folder import save_merged
from policies.adapters import lora_config
from policies.backbone import BackboneError, decoder, init_head, load_causal, new_classifier, output_head
from policies.drawing import noise
from policies.logprobs import completion_logprobs, logits, pack
from policies.quick.packing import packs
from policies.quick.trunk import find_trunk
from policies.roles import POLICY, VALUE, Roles, lora_roles
from policies.rollout import sample, way_of
from policies.seq2seq import START, of_rows, prompt_of, spoken
from policies.tokenizers import load_tokenizer
from policies.trials import output_layer, scored_at
from zoo.build import EOS, PAD, VOCABULARY, save

PREFIX, WINDOW = 17, 8
NEAR = 1e-4  # nats, of sampled log-probabilities to those of training
WAYS = {"generate": "sampling by transformers' generate", "forwards": "sampling by whole forwards"}


@dataclass
class Outcome:
    """What became of an architecture."""

    name: str
    policy: str = "works"  # or "refused: sentence"
    score: str = "works"
    falls_back: list[str] = field(default_factory=list)


def tokens(count: int, seed: int) -> list[int]:
    """Random tokens, none of them special."""
    return torch.randint(4, 98, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def check(name: str, folder: Path, dtype: torch.dtype = torch.float32, pair: bool = False) -> Outcome:
    """Ask everything of the model type `name`, as an encoder–decoder if it is a `pair`, in `folder`, which is made."""
    found = Outcome(name)
    base = save(name, folder / "base", pair)
    tokenizer = load_tokenizer(base)
    found.score = scored(base, tokenizer, dtype)
    try:
        model: Any = load_causal(base, tokenizer, dtype)
        wanted = lora_config(model, Lora(r=4, lora_alpha=8, target_modules="all-linear"), "CAUSAL_LM")
    except BackboneError as error:
        found.policy = f"refused: {sentence(error, base)}"
        return found
    found.falls_back = falls_back(model)
    exact = dtype == torch.float32
    if exact:
        same_logits(model, base)
        same_sampled(model)
    torch.manual_seed(0)
    peft: Any = get_peft_model(model, wanted, adapter_name=POLICY)
    roles = lora_roles(peft, "adapter", None)
    init_head(roles.value_head, seed=5)
    one_step(roles, tokenizer, folder, exact)
    if exact:
        randomise(roles, POLICY)
        same_recomputed(roles)
        same_merged(roles, base, folder, tokenizer)
    return found


def sentence(error: Exception, folder: Path) -> str:
    """What a user would read, without the folder's name; held to be one line."""
    text = str(error).replace(f"{folder}: ", "")
    assert "\n" not in text and len(text) > 20, text
    return text


def scored(folder: Path, tokenizer: Any, dtype: torch.dtype) -> str:
    """A fresh score head: what a row is worth does not depend on the rows beside it."""
    try:
        model: Any = new_classifier(folder, tokenizer, dtype, seed=0)
    except BackboneError as error:
        return f"refused: {sentence(error, folder)}"
    rows = [tokens(19, 1), tokens(12, 2), tokens(3, 3)]
    if scored_at(model) is not None:
        rows = [[*row, EOS] for row in rows]
    together = model(**asked(rows)).logits[:, 0]
    alone = torch.cat([model(**asked([row])).logits[:, 0] for row in rows])
    assert torch.allclose(together, alone, atol=1e-4 if dtype == torch.float32 else 0.1), (together, alone)
    together.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in output_head(model).parameters())
    return "works"


def asked(rows: list[list[int]]) -> dict[str, Tensor]:
    """Rows of tokens as a model is asked, padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


@torch.no_grad()
def same_logits(model: Any, folder: Path) -> None:
    """Our logits are those of plain transformers, for rows longer than a window, together and alone."""
    plain = plainly(model, folder)
    rows = [parted(model, tokens(n, seed)) for n, seed in ((26, 1), (19, 2), (5, 3))]
    ask = asked(rows) | {"use_cache": False}
    real = spoken(ask["input_ids"], ask["attention_mask"])
    ours = logits(model, decoder(model)(**ask).last_hidden_state[real])
    assert torch.allclose(ours, plain(**ask).logits[real], atol=NEAR)
    alone = torch.cat(
        [plain(**asked([row]), use_cache=False).logits[0][real[i, : len(row)]] for i, row in enumerate(rows)]
    )
    assert torch.allclose(ours, alone, atol=NEAR), (ours - alone).abs().max()


def parted(model: Any, row: list[int]) -> list[int]:
    """A row of tokens as `model` reads one: an encoder–decoder's with START in it."""
    return [*row[: len(row) // 3], START, *row[len(row) // 3 :]] if of_rows(model) else row


def plainly(model: Any, folder: Path) -> Any:
    """What plain transformers says of rows: by its own model, or by its own encoder–decoder, of which each row's halves are given by hand."""
    if not of_rows(model):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return ByHalves(AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval())


class ByHalves:
    """An encoder–decoder, or peft's model of one, that is asked row by row with an encoder's and a decoder's tokens."""

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> Any:
        out = torch.zeros(*input_ids.shape, VOCABULARY)
        for i, (row, count) in enumerate(zip(input_ids.tolist(), attention_mask.sum(1).tolist(), strict=True)):
            at = row.index(START)
            said = torch.tensor([[self.model.config.decoder_start_token_id, *row[at + 1 : count]]])
            out[i, at:count] = self.model(input_ids=torch.tensor([row[:at]]), decoder_input_ids=said).logits[0]
        return SimpleNamespace(logits=out)


@torch.no_grad()
def same_sampled(model: Any) -> None:
    """Log-probabilities of a rollout are those of a training pass: prompts that share a beginning, of several lengths, rows that end
    early, sequences longer than a window."""
    shared = tokens(PREFIX, 4)
    prompts = [prompt_of(model, shared + tokens(n, 5 + n)) for n in (1, 9, 4, 4, 2)]
    said = sample(
        model,
        prompts,
        [noise(1, 0, str(i), 0, 10) for i in range(5)],
        eos_ids=list(range(1, VOCABULARY, 5)),
        pad_id=PAD,
        temperature=0.8,
        batch_size=5,
    )
    lengths = [len(c.tokens) for c in said]
    assert min(lengths) < max(lengths) and PREFIX + max(lengths) > WINDOW
    batch = pack(prompts, [list(map(int, c.tokens)) for c in said], PAD)
    trained = completion_logprobs(model, decoder(model), batch, 0.8)[0]
    for row, c in enumerate(said):
        gap = (trained[row, : len(c.tokens)] - torch.as_tensor(c.logprobs)).abs().max().item()
        assert gap <= NEAR, f"row {row}: {gap:.2g} nats a token"


def one_step(roles: Roles, tokenizer: Any, folder: Path, exact: bool) -> None:
    """An iteration of PPO moves policy and critic, from a ratio of 1 and a KL of 0."""
    before = {n: p.detach().clone() for n, p in roles.named_parameters() if p.requires_grad}
    section = settings(total_episodes=8, num_ppo_epochs=1, response_length=5, importance_cap=2.0)
    result, figures = run(roles, tokenizer, section, folder / "state")
    assert result.halted is None and len(figures) == 1
    near = 1e-3 if exact else 0.1
    assert abs(figures[0]["objective/kl"]) <= near and abs(figures[0]["val/ratio"] - 1.0) <= near, figures[0]
    moved = {n for n, p in roles.named_parameters() if p.requires_grad and not torch.equal(p, before[n])}
    assert any(".lora_B.policy." in n for n in moved) and any(f".lora_B.{VALUE}." in n for n in moved), sorted(moved)[
        :5
    ]
    assert any("value_head" in n for n in moved)


def same_recomputed(roles: Roles) -> None:
    """Values and gradients with checkpointing are those without, and no dropout comes with it."""
    prompts = [prompt_of(roles.causal, tokens(n, seed)) for n, seed in ((12, 1), (3, 2))]
    completions = [tokens(6, 3), tokens(9, 4)]
    batch, found = pack(prompts, completions, PAD), []
    for on in (False, True):
        roles.zero_grad()
        roles.checkpointing = on
        logprobs, _, values = roles(batch, 1.0)
        (logprobs.sum() + values.sum()).backward()
        found.append((logprobs.detach(), values.detach(), {n: p.grad for n, p in roles.trainable().items()}))
    roles.checkpointing = False
    (a, b, without), (c, d, recomputed) = found
    assert torch.allclose(a, c, atol=1e-6) and torch.allclose(b, d, atol=1e-6)
    for name, grad in without.items():
        other = recomputed[name]
        assert (grad is None) == (other is None), name
        assert grad is None or torch.allclose(grad, other, atol=1e-5 * max(1.0, grad.abs().max().item())), name


def same_merged(roles: Roles, base: Path, folder: Path, tokenizer: Any) -> None:
    """What is sampled from, what is published, and the adapter on its base, as plain transformers and peft load them, say what the
    policy in training says."""
    ask = asked([parted(roles.causal, tokens(n, seed)) for n, seed in ((14, 1), (6, 2))]) | {"use_cache": False}
    real = spoken(ask["input_ids"], ask["attention_mask"])
    with torch.no_grad():
        with roles.playing(POLICY):
            policy = roles.causal(**ask).logits[real]
        assert torch.allclose(roles.sampler()(**ask).logits[real], policy, atol=1e-3)
        roles.forget_sampler()
        reference = plainly(roles.causal, base)
        assert not torch.allclose(reference(**ask).logits[real], policy, atol=1e-2)  # the adapter matters
        save_merged(folder / "merged", roles.policy, tokenizer, POLICY)
        assert torch.allclose(plainly(roles.causal, folder / "merged")(**ask).logits[real], policy, atol=1e-3)
        inner = reference.model if isinstance(reference, ByHalves) else reference
        adapted: Any = PeftModel.from_pretrained(inner, str(folder / "merged" / "adapter")).eval()
        adapted = ByHalves(adapted) if isinstance(reference, ByHalves) else adapted
        assert torch.allclose(adapted(**ask).logits[real], policy, atol=1e-3)


def falls_back(model: Any) -> list[str]:
    """Which quick paths a model does not take."""
    told = [] if packs(model) else ["padding is computed"]
    if (way := way_of(model)) != "cached":
        told.append(WAYS[way])
    if output_layer(model).scale is None:
        told.append("logits by its own forward")
    if find_trunk(decoder(model), 1) is None:
        told.append("no trunk")
    if not any(isinstance(module, GradientCheckpointingLayer) for module in model.modules()):
        told.append("nothing is recomputed")
    return told
