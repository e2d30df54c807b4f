"""What do the contenders say, to the same prompts with the same noise? Sampling, few-shot prompts, KL to sft, perplexity."""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState

from data.schema import Demonstration, Prompt
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import Sibling
from pipeline.comparison import plain_text
from pipeline.comparison.contenders import Contender, described
from pipeline.comparison.pairing import Samples
from pipeline.pages.progress import bar
from pipeline.rows.published import demonstrations, source_of
from pipeline.settings.config import Config
from pipeline.settings.sections import Resolved
from pipeline.training.fine_tuning import row_losses
from pipeline.training.holding import as_published
from pipeline.training.lengths import check_fits, new_tokens
from pipeline.training.sharing import share_of, shared
from pipeline.training.sizes import EVALUATED
from policies.asking import Answers, Machine, answering
from policies.backbone import decoder, load_causal
from policies.drawing import Completion, noise
from policies.logprobs import completion_logprobs, pack
from policies.template import (
    PromptText,
    Turn,
    decode_completion,
    encode_completion,
    encode_prompt,
    read_at_once,
    show_prompt,
)
from policies.tokenizers import eos_ids

SEPARATORS = ("\n", "\n---\n")  # between the examples of a few-shot prompt: the first that no example contains


@dataclass(frozen=True)
class Questions:
    """What every model is asked, and what its perplexity is measured on."""

    held_out: list[Prompt]
    examples: list[Demonstration]  # few_shot is shown them before each prompt
    demonstrations: list[Demonstration]  # held out
    plain_passages: list[Turn]  # text that has nothing to do with the task


def questions(held_out: list[Prompt], tokenizer: Any, config: Config, run: Run) -> Questions:
    """Raises DataError where compare.plain_text cannot be read."""
    section = config.compare
    return Questions(
        held_out,
        demonstrations(run, "train")[: section.few_shot],
        demonstrations(run, "eval")[: section.perplexity_rows],
        plain_text.passages(section.plain_text, tokenizer, config.data.max_length),
    )


def decoding(config: Config) -> Resolved:
    """How every model is decoded."""
    return config.compare.generation.resolved(config.ppo.temperature, config.ppo.response_length)


def check_lengths(models: Sequence[Contender], asked: Questions, config: Config) -> None:
    """Raise ConfigError where a prompt, behind its examples, and its completion are more than a model reads, or a held-out text is."""
    for one in models:
        shots = asked.examples if one.name == "few_shot" else []
        rows = [
            (f"prompt {p.id}", len(encode_prompt(one.tokenizer, few_shot(p.prompt, shots)[0]))) for p in asked.held_out
        ]
        remedy = "lower compare.few_shot, or leave few_shot out of compare.models" if shots else None
        check_fits(
            f"compare: {one.name}",
            one.source,
            rows,
            *new_tokens(config, "compare"),
            revision=one.revision,
            instead=remedy,
        )
        own = [_with_shots(one.tokenizer, d, shots, config) for d in asked.demonstrations] if one.ours else []
        plain = [
            ("a passage of compare.plain_text", read_at_once([*p, *c]))
            for p, c in asked.plain_passages
            if own and not shots
        ]
        texts = [
            (f"demonstration {d.id}", read_at_once([*p, *c]))
            for d, (p, c) in zip(asked.demonstrations if own else (), own, strict=True)
        ]
        check_fits(f"compare: {one.name}", one.source, [*texts, *plain], "data.max_length", revision=one.revision)


def longest(models: Sequence[Contender], asked: Questions, config: Config) -> int:
    """Tokens of the longest prompt that any model is asked, behind its examples, and of a completion."""
    found = 0
    for one in models:
        shots = asked.examples if one.name == "few_shot" else []
        texts = [few_shot(p.prompt, shots)[0] for p in asked.held_out]
        found = max([found, *(len(encode_prompt(one.tokenizer, text)) for text in texts)])
    return found + decoding(config).max_new_tokens


def of_models(
    models: Sequence[Contender], asked: Questions, tokenizer: Any, config: Config, run: Run, machine: Machine
) -> tuple[Samples, dict[str, dict[str, Any]], Any]:
    """(samples of all models, name -> what the report says of it beside its figures, the sft model, for its log-probabilities).

    Models from one source are loaded once, and only one source is loaded at a time, by `machine` too.
    """
    device = PartialState().device
    how = as_published(config, device)
    samples: Samples = []
    information: dict[str, dict[str, Any]] = {}
    sft: Any = None
    for source in dict.fromkeys(one.source for one in models):
        together = [one for one in models if one.source == source]
        model: Any = load_causal(source, together[0].tokenizer, how, together[0].revision)
        model.to(device)
        with answering(machine, model, source, together[0].revision) as say:
            for one in together:
                shots = asked.examples if one.name == "few_shot" else []
                said = sampled(one.name, model, say, one.tokenizer, asked.held_out, shots, config)
                samples += said
                information[one.name] = described(one, run)
                information[one.name]["tokens_per_answer"] = sum(row["length"] for row in said) / len(said)
        for one in together:
            shots = asked.examples if one.name == "few_shot" else []
            information[one.name] |= _perplexities(one, model, shots, asked, tokenizer, config)
        if source == str(run.folder("sft")):
            sft = model
        del model
        gc.collect()
    if sft is None:
        sft = load_causal(run.folder("sft"), tokenizer, how)
        sft.to(device)
    return samples, information, sft


def of_other_seeds(
    further: Sequence[Sibling], held_out: list[Prompt], tokenizer: Any, config: Config, run: Run, machine: Machine
) -> Samples:
    """Samples of the models of further training seeds, under the names of their folders."""
    device, found = PartialState().device, Samples()
    for sibling in further:
        model: Any = load_causal(run.folder(sibling.folder), tokenizer, as_published(config, device))
        model.to(device)
        with answering(machine, model, run.folder(sibling.folder)) as say:
            found += sampled(sibling.folder, model, say, tokenizer, held_out, [], config)
        del model
        gc.collect()
    return found


def _perplexities(
    one: Contender, model: Any, shots: Sequence[Demonstration], asked: Questions, tokenizer: Any, config: Config
) -> dict[str, float | None]:
    """On held-out demonstrations and on plain text; None for other tokens, of which it would be another quantity."""
    own = [_with_shots(one.tokenizer, d, shots, config) for d in asked.demonstrations] if one.ours else []
    plain = asked.plain_passages if own and not shots else []
    return {
        "perplexity": _perplexity(model, own, tokenizer, 16),
        "perplexity_plain": _perplexity(model, plain, tokenizer, 8),
    }


def _perplexity(model: Any, rows: Sequence[Turn], tokenizer: Any, batch_size: int) -> float | None:
    sums = shared(rows, lambda mine: row_losses(model, mine, tokenizer, batch_size))
    return math.exp(math.fsum(total for total, _ in sums) / sum(tokens for _, tokens in sums)) if sums else None


def few_shot(prompt: PromptText, examples: Sequence[Demonstration]) -> tuple[PromptText, str | None]:
    """The prompt behind its examples, and the separator that ends a plain-text answer (None: the chat template's own end)."""
    if not examples:
        return prompt, None
    if isinstance(prompt, str):
        texts = [e.prompt + e.completion if isinstance(e.prompt, str) else show_prompt(_dialogue(e)) for e in examples]
        separator = next((s for s in SEPARATORS if not any(s in t for t in texts)), SEPARATORS[-1])
        return separator.join([*texts, prompt]), separator
    shots = [turn for e in examples for turn in _dialogue(e) if turn["role"] != "system"]
    system = [turn for turn in prompt if turn["role"] == "system"]
    return [*system, *shots, *(turn for turn in prompt if turn["role"] != "system")], None


def _dialogue(example: Demonstration) -> list[dict[str, str]]:
    """A demonstration as turns; a text prompt is the user's."""
    asked = example.prompt
    before = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    return [*before, {"role": "assistant", "content": example.completion}]


def _with_shots(
    tokenizer: Any, row: Demonstration, examples: Sequence[Demonstration], config: Config
) -> tuple[list[int], list[int]]:
    prompt, _ = few_shot(row.prompt, examples)
    room = config.data.max_length - len(encode_prompt(tokenizer, row.prompt))
    return encode_prompt(tokenizer, prompt), encode_completion(tokenizer, prompt, row.completion, room)


def sampled(
    name: str,
    model: Any,
    say: Answers,
    tokenizer: Any,
    held_out: list[Prompt],
    examples: Sequence[Demonstration],
    config: Config,
) -> Samples:
    """One model's completions, which `say` gives: rows of samples.jsonl without scores, with the model's log-probabilities for now."""
    numbered = [(prompt, n) for prompt in held_out for n in range(config.compare.samples_per_prompt)]
    shown = [few_shot(prompt.prompt, examples) for prompt, _ in numbered]
    completions = _completions(name, model, say, tokenizer, numbered, shown, config)
    stops, rows = eos_ids(model, tokenizer), []
    for (prompt, n), (question, separator), completion in zip(numbered, shown, completions, strict=True):
        text, ended = decode_completion(tokenizer, question, completion.tokens, stops), completion.finished
        if separator is not None and separator in text:
            text, ended = text.split(separator, 1)[0], True
        rows.append(
            {
                "prompt_id": prompt.id,
                "prompt": show_prompt(prompt.prompt),
                "model": name,
                "completion": text,
                "length": len(completion.tokens),
                "eos": ended,
                "seed": n,
                "kl": None,
                "scores": {},
                "tokens": completion.tokens,
                # of the whole distributions along the way; -log π of the tokens would be that only where they are drawn from them
                "entropy": completion.entropies.mean().item() if len(completion.entropies) else 0.0,
                "_prompt": prompt.prompt,
                "_completion": completion,
            }
        )
    return rows


def _completions(
    name: str,
    model: Any,
    say: Answers,
    tokenizer: Any,
    numbered: Sequence[tuple[Prompt, int]],
    shown: Sequence[tuple[PromptText, str | None]],
    config: Config,
) -> list[Completion]:
    """What `model` says to each of `shown`, with the noise of the prompt and the sample's number, whoever speaks."""
    how = decoding(config)
    length, found = how.max_new_tokens, dict[int, Completion]()
    with bar(share_of(len(numbered)), f"compare: {name}", "sample") as progress:
        # What ends an example among texts ends no turn of a conversation.
        for separator in dict.fromkeys(s for _, s in shown):
            picked = [i for i, (_, s) in enumerate(shown) if s == separator]
            stops = eos_ids(model, tokenizer)
            if separator == SEPARATORS[0]:
                stops = sorted({*stops, *_tokens_with(tokenizer, separator)})

            def said(mine: Sequence[int], stops: Sequence[int] = stops) -> list[Completion]:
                return say(
                    [encode_prompt(tokenizer, shown[i][0]) for i in mine],
                    [noise(config.seed, 0, f"compare {p.id}", n, length) for p, n in (numbered[i] for i in mine)],
                    how,
                    eos_ids=stops,
                    pad_id=tokenizer.pad_token_id,
                    batch_size=config.compare.per_device_eval_batch_size or EVALUATED,
                    progress=progress.update,
                )

            found |= dict(zip(picked, shared(picked, said), strict=True))
    return [found[i] for i in range(len(numbered))]


def _tokens_with(tokenizer: Any, text: str) -> list[int]:
    return [i for i in range(len(tokenizer)) if text in tokenizer.decode([i])]


def measure_kl(samples: Samples, measured: set[str], sft: Any, tokenizer: Any, config: Config) -> None:
    """Write into "kl" log π - log π_sft of each whole completion of the `measured` models, nats; 0 for sft itself, None for others: the few-shot
    prompt is another condition, another tokenizer has other tokens."""
    temperature = decoding(config).temperature
    todo = sorted((row for row in samples if row["model"] in measured), key=lambda row: len(row["tokens"]))

    def under_sft(mine: Sequence[dict[str, Any]]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(mine), 32):
            part = mine[start : start + 32]
            batch = pack(
                [encode_prompt(tokenizer, r["_prompt"]) for r in part],
                [r["tokens"] for r in part],
                tokenizer.pad_token_id,
                sft.device,
            )
            found += completion_logprobs(sft, decoder(sft), batch, temperature)[0].sum(1).tolist()
            progress.update(len(part))
        return found

    with torch.no_grad(), bar(share_of(len(todo)), "compare: KL to sft", "sample") as progress:
        for row, reference in zip(todo, shared(todo, under_sft), strict=True):
            completion: Completion = row["_completion"]
            row["kl"] = completion.logprobs.sum().item() - reference
    for row in samples:
        if row["model"] == "sft":
            row["kl"] = 0.0


def name_sources(samples: Samples, held_out: Sequence[Prompt]) -> None:
    """Write into the rows where their prompt comes from and what it is about."""
    known = {prompt.id: prompt for prompt in held_out}
    for row in samples:
        prompt = known[row["prompt_id"]]
        row["source"] = source_of(prompt.source)
        if prompt.tag is not None:
            row["tag"] = prompt.tag
