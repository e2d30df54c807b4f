"""One process of the bench: our PPO on one workload, an iteration at a time, whenever it is its turn.

    python -m pipeline.bench.ours '{"model": …}'        # a Spec as JSON; started by pipeline.bench

The roles are those that stage ppo builds from its artifacts: with LoRA one base with adapters for policy, reward and,
for a critic of its own, value; in full fine-tuning separate models. The score is that of a reward model from text,
through reward.model.Scorer.
"""

import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from torch import Tensor, nn

import pipeline.training.roles
from pipeline.artifacts.files import read_rows
from pipeline.bench.turns import Spec, Turns
from pipeline.settings.config import PPO
from pipeline.settings.sections import Lora
from pipeline.training.context import make_accelerator, quiet
from policies.adapters import lora_config
from policies.backbone import decoder, init_head, load_causal, new_classifier
from policies.episodes import prompt_order
from policies.loop import Silent
from policies.precision import pick_dtype
from policies.roles import POLICY, REWARD, Roles, lora_roles
from policies.template import encode_prompt, opening
from policies.tokenizers import load_tokenizer
from policies.trainer import train
from reward.model import Scorer

SEED = 0
VALUE = {"adapter": "adapter", "head": "shared", "full": "adapter"}  # critic -> ppo.value
NEARLY = 0.95  # of a fixed workload's tokens: a random model may say its least likely token; the report tells
Prompts = list[dict[str, Any]]
Score = Callable[[Sequence[Any], Sequence[str]], Tensor]


def fixed_prompts(tokenizer: Any, count: int, length: int, seed: int = SEED) -> Prompts:
    """`count` random prompts {"id", "prompt", "ids"} of exactly `length` tokens that are the same tokens when the text
    is encoded.

    Made of tokens that are words with a space before them, where the vocabulary has enough of them: those do not merge.
    Raises RuntimeError for a tokenizer that merges nearly everything.
    """
    special = set(tokenizer.all_special_ids)
    alone = {i: tokenizer.decode([i]) for i in range(len(tokenizer)) if i not in special}
    words = [i for i, text in alone.items() if text[:1] == " " and text[1:].isalpha() and text.isascii()]
    usable = words if len(words) >= 100 else list(alone)
    begin, generator, rows = opening(tokenizer), np.random.default_rng(seed), Prompts()
    for _ in range(1000 * count):
        if len(rows) == count:
            return rows
        ids = generator.choice(usable, length - len(begin)).tolist()
        text = tokenizer.decode(ids)
        if encode_prompt(tokenizer, text) == [*begin, *ids]:
            rows.append({"id": f"fixed-{len(rows)}", "prompt": text, "ids": [*begin, *ids]})
    raise RuntimeError(f"only {len(rows)} of {count} random prompts stay {length} tokens when encoded")


def natural_prompts(tokenizer: Any, file: Path, count: int) -> Prompts:
    """The first `count` prompts of a data stage's file, again from its first after its last."""
    rows = read_rows(file)
    texts = [rows[i % len(rows)]["prompt"] for i in range(count)]
    return [{"id": f"natural-{i}", "prompt": t, "ids": encode_prompt(tokenizer, t)} for i, t in enumerate(texts)]


def placed(rows: Prompts, seed: int) -> Prompts:
    """`rows` in such an order that the trainer, which deals prompts in an order of its own, uses them as given."""
    out: list[Any] = [None] * len(rows)
    for row, place in zip(rows, prompt_order(len(rows), range(len(rows)), seed), strict=True):
        out[place] = row
    return out


@torch.no_grad()
def unending(tokenizer: Any, model: Any, rows: Prompts) -> Any:
    """A copy of the tokenizer whose EOS is the token that `model` is least likely to say; `model` knows no other end.

    It has to be a token of the vocabulary, since a reward model sees it after a completion that was cut.
    """
    ids = torch.tensor([row["ids"] for row in rows[:4]])
    likely = model(input_ids=ids.to(next(model.parameters()).device), use_cache=False).logits.float().amax((0, 1)).cpu()
    likely[tokenizer.all_special_ids] = torch.inf
    never = copy.deepcopy(tokenizer)
    never.eos_token_id = int(likely[: len(tokenizer)].argmin())
    model.generation_config.eos_token_id = None
    return never


def _last_score(roles: Roles, head: nn.Linear, ids: Tensor, mask: Tensor) -> Tensor:
    return pipeline.training.roles._last_score(roles, head, ids, mask)  # what stage ppo scores by


def with_lora(base: Any, spec: Spec, device: torch.device) -> tuple[Roles, Callable[[Tensor, Tensor], Tensor]]:
    """One base for all roles, and raw scores by its reward adapter (random, not zero) and a fixed random head."""
    torch.manual_seed(SEED)
    lora = Lora(layers=None if spec.lora_layers is None else f"last {spec.lora_layers}")
    policy: Any = get_peft_model(base, lora_config(base, lora, "CAUSAL_LM"), adapter_name=POLICY)
    policy.add_adapter(REWARD, copy.deepcopy(policy.peft_config[POLICY]))
    for name, parameter in policy.named_parameters():
        if f".lora_B.{REWARD}." in name:
            nn.init.normal_(parameter, std=0.01)
    head = nn.Linear(base.config.get_text_config().hidden_size, 1)
    init_head(head, SEED)
    head.requires_grad_(False).to(device)
    policy.to(device)
    roles = lora_roles(policy, VALUE[spec.critic], head)
    return roles, lambda ids, mask: _last_score(roles, head, ids, mask)


def with_models(base: Any, spec: Spec, scorers: Any, device: torch.device) -> tuple[Roles, Any]:
    """Models of their own for all roles, as in full fine-tuning; the reward model's head is fixed and random."""
    kind = pick_dtype(spec.dtype, device)
    model: Any = new_classifier(spec.model, scorers, kind, SEED)
    model.to(device, kind).requires_grad_(False)
    policy: Any = base.to(device)
    head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
    init_head(head, SEED)
    critic = copy.deepcopy(decoder(policy))
    roles = Roles(policy, head.to(device), VALUE[spec.critic], reference=copy.deepcopy(policy), critic=critic)
    return roles, lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits[:, 0]


def _facts(model: Any) -> dict[str, Any]:
    kind = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return {"parameters": sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n), "dtype": kind}


def warm_up(roles: Roles, vocabulary: int, device: torch.device) -> None:
    """One forward and backward of the policy on 8 rows of 40 tokens."""
    ids = torch.randint(vocabulary, (8, 40), generator=torch.Generator().manual_seed(SEED)).to(device)
    decoder(roles.policy)(input_ids=ids, use_cache=False).last_hidden_state.float().mean().backward()
    roles.zero_grad()


def settings(spec: Spec) -> PPO:
    """The recipe's ppo section: defaults but for the workload, and no limit that would halt it."""
    more = {} if spec.micro_tokens is None else {"micro_batch_tokens": spec.micro_tokens}
    return PPO.model_validate(
        {
            "tuning": "lora" if spec.lora else "full",
            "total_episodes": spec.batch * spec.iterations,
            "batch_size": spec.batch,
            "num_ppo_epochs": spec.epochs,
            "response_length": spec.response,
            "learning_rate": spec.learning_rate,
            "value": VALUE[spec.critic],
            "missing_eos_score": None,
            "save_steps": 10**6,
            "max_kl": 1e6,
            "max_ratio": 1e6,
            "min_entropy": 0.0,
            "min_length": 0.0,
            "max_sampler_kl": 1e6,
            **more,
        }
    )


def play(base: Any, tokenizer: Any, spec: Spec, rows: Prompts, turns: Turns) -> None:
    """Build the roles on `base`, warm up, then one PPO iteration each time it is our turn. Raises RuntimeError when a
    fixed workload was not the workload, or training halted."""
    accelerator = make_accelerator()
    tokenizer = tokenizer if spec.stops else unending(tokenizer, base, rows)
    scorers = tokenizer if spec.lora else load_tokenizer(spec.model, scores=True)
    roles, forward = (
        with_lora(base, spec, accelerator.device) if spec.lora else with_models(base, spec, scorers, accelerator.device)
    )
    longest_text = max(len(row["ids"]) for row in rows) + spec.response + 1
    scorer = Scorer(forward, scorers, max_length=longest_text, device=accelerator.device, padding=not roles.packed)
    longest = 0

    def score(prompts: Sequence[Any], completions: Sequence[str]) -> Tensor:
        nonlocal longest
        longest = min(max(len(tokenizer(c)["input_ids"]) for c in completions) + 1, spec.response)
        return scorer(prompts, completions)

    class Watching(Silent):
        """Tells the other side of the bench when we are ready, and what each iteration took."""

        def begin(self, step: int) -> None:
            turns.ready(**_facts(roles.causal))

        def log(self, figures: dict[str, float]) -> None:
            length = figures["completions/mean_length"]
            if not spec.stops and length < NEARLY * spec.response:
                raise RuntimeError(f"completions of {length} tokens on average in a workload of {spec.response}")
            phases = {k.removeprefix("time/"): v for k, v in figures.items() if k.startswith("time/")}
            turns.done(phases=phases, mean_length=length, longest=longest if spec.stops else spec.response)

    warm_up(roles, len(tokenizer), accelerator.device)
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            accelerator,
            roles,
            tokenizer,
            [{"id": row["id"], "prompt": row["prompt"]} for row in placed(rows, SEED)],
            [],
            score,
            settings(spec),
            state=Path(folder) / "state",
            seed=SEED,
            watch=Watching(),
        )
    if result.halted:
        raise RuntimeError(result.halted)
    turns.close()


def main() -> None:
    turns, spec = Turns(), Spec.parse(sys.argv[1])
    quiet()
    tokenizer = load_tokenizer(spec.model)
    # in full fine-tuning what is trained is float32, as in stage ppo
    dtype = pick_dtype(spec.dtype, make_accelerator().device) if spec.lora else torch.float32
    play(load_causal(spec.model, tokenizer, dtype), tokenizer, spec, read_rows(Path(spec.prompts)), turns)


if __name__ == "__main__":
    main()
