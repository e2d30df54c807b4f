"""Stage compare: is the aligned model better than what it came from, by whose judgement, and at what price?

    python -m pipeline compare recipes/film_reviews.yaml

Samples base, few-shot prompted base, sft and ppo on the same held-out prompts with the same noise, has every judge score them, and
writes report.html, report.json and samples.jsonl.
"""

import gc
import math
from collections.abc import Sequence
from typing import Any

import torch

from data.schema import Demonstration, Prompt
from pipeline import judges, report
from pipeline.artifacts import Gate, Manifest, Run, check, now, parents, write_rows
from pipeline.config import Config
from pipeline.context import accelerator, bar, base_model, closing, demonstrations, prompts
from pipeline.roles import scores
from pipeline.sft import loss
from policies.backbone import decoder, eos_ids, load_causal, load_tokenizer, pick_dtype
from policies.logprobs import completion_logprobs, pack
from policies.rollout import Completion, noise, sample
from policies.template import PromptText, decode_completion, encode_completion, encode_prompt, fingerprint, show_prompt

SEPARATORS = ("\n", "\n---\n")  # between the examples of a few-shot prompt: the first that no example contains
Rows = list[dict[str, Any]]


def run(config: Config, run: Run) -> Manifest:
    place, section = accelerator(), config.compare
    device, dtype = place.device, pick_dtype(config.dtype, place.device)
    tokenizer = load_tokenizer(run.folder("sft"))
    template = fingerprint(tokenizer)
    made_of = {name: run.require(name, tokenizer=template, force=config.force) for name in ("data", "sft", "ppo")}
    if "reward" in parents("compare", config):
        run.require("reward", force=config.force)
    folder = run.start("compare", config)
    held_out = prompts(run, "eval")[: section.prompts]
    examples = demonstrations(run, "train")[: section.few_shot]
    rows_for_perplexity = demonstrations(run, "eval")[: section.perplexity_rows]
    samples: Rows = []
    described: dict[str, dict[str, Any]] = {}
    sources = {
        "base": base_model(config),
        "few_shot": base_model(config),
        "sft": run.folder("sft"),
        "ppo": run.folder("ppo"),
    }
    for source in dict.fromkeys(str(sources[name]) for name in section.models):
        model = load_causal(source, tokenizer, dtype, config.revision if source == config.model else None).to(device)
        for name in [n for n in section.models if str(sources[n]) == source]:
            shots = examples if name == "few_shot" else []
            samples += _sampled(name, model, tokenizer, held_out, shots, config)
            own = [_with_shots(tokenizer, d, shots, config) for d in rows_for_perplexity]
            identity = run.identity(name) if name in ("sft", "ppo") else None
            described[name] = {
                "perplexity": math.exp(loss(model, own, tokenizer, 16)),
                "path": str(sources[name]),
                "sha256": identity,
            }
        if source == str(run.folder("sft")):
            sft = model
        del model
        gc.collect()
    if "sft" not in section.models:
        sft = load_causal(run.folder("sft"), tokenizer, dtype).to(device)
    _kl(samples, sft, tokenizer, config)
    del sft
    gc.collect()
    _judge(samples, held_out, config, run, device)
    provenance = {
        "command": f"python -m pipeline compare RECIPE --run {run.name}",
        "made": now(),
        "data": {kind: made_of["data"].data[kind]["sha256"] for kind in ("prompts.eval", "demonstrations.eval")},
        "seed": config.seed,
        "decoding": {
            "temperature": section.temperature or config.ppo.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "max_new_tokens": _limit(config),
        },
        "score that was optimised": ", ".join(config.ppo.reward_funcs),
        "libraries": made_of["ppo"].libraries,
        "hardware": made_of["ppo"].machine,
        "git commit": made_of["ppo"].git_commit,
    }
    summary = report.summarise(samples, described, config.judges(), provenance=provenance, seed=config.seed)
    made = folder / "made"
    made.mkdir(exist_ok=True)
    report.write(summary, samples, made)
    metrics = {"prompts": float(summary["prompts"])}
    for name, model_figures in summary["models"].items():
        metrics |= {
            f"{name}/{key}": float(value) for key, value in model_figures.items() if isinstance(value, int | float)
        }
    for pair, by_judge in summary["pairs"].items():
        metrics |= {f"{pair}/{judge}/win_rate": outcome["win_rate"] for judge, outcome in by_judge.items()}
    write_rows(made / "metrics.jsonl", [metrics])
    return run.publish(
        "compare",
        config,
        made,
        tokenizer=template,
        model={"base": config.model},
        dtype=str(dtype),
        metrics=metrics,
        gate=_gate(summary, config),
        notes={"verdict": summary["verdict"]},
    )


def summary(manifest: Manifest, run: Run) -> str:
    return (
        closing(manifest, run.folder("compare"), ("prompts",), f"open {run.folder('compare') / 'report.html'}")
        + f"\n{manifest.notes['verdict']}"
    )


def _limit(config: Config) -> int:
    return config.compare.max_new_tokens or config.ppo.response_length


def _few_shot(prompt: PromptText, examples: Sequence[Demonstration]) -> tuple[PromptText, str | None]:
    """The prompt behind its examples, and the separator that ends a plain-text answer (None: the chat template's own end)."""
    if not examples:
        return prompt, None
    if isinstance(prompt, str):
        texts = [f"{show_prompt(e.prompt)}{e.completion}" for e in examples]
        separator = next((s for s in SEPARATORS if not any(s in t for t in texts)), SEPARATORS[-1])
        return separator.join([*texts, prompt]), separator
    shots = [
        m
        for e in examples
        if isinstance(e.prompt, list)
        for m in (*(t for t in e.prompt if t["role"] != "system"), {"role": "assistant", "content": e.completion})
    ]
    system = [m for m in prompt if m["role"] == "system"]
    return [*system, *shots, *(m for m in prompt if m["role"] != "system")], None


def _with_shots(
    tokenizer: Any, row: Demonstration, examples: Sequence[Demonstration], config: Config
) -> tuple[list[int], list[int]]:
    prompt, _ = _few_shot(row.prompt, examples)
    room = config.data.max_length - len(encode_prompt(tokenizer, row.prompt))
    return encode_prompt(tokenizer, prompt), encode_completion(tokenizer, row.completion, room)


def _sampled(
    name: str, model: Any, tokenizer: Any, held_out: list[Prompt], examples: Sequence[Demonstration], config: Config
) -> Rows:
    """One model's completions: rows of samples.jsonl without scores, with the sampler's log-probabilities for now."""
    section = config.compare
    numbered = [(prompt, n) for prompt in held_out for n in range(section.samples_per_prompt)]
    shown = [_few_shot(prompt.prompt, examples) for prompt, _ in numbered]
    stops = eos_ids(model, tokenizer)
    separator = next((s for _, s in shown if s is not None), None)
    if separator is not None:
        stops = sorted({*stops, *_tokens_with(tokenizer, separator[0])}) if separator == SEPARATORS[0] else stops
    with bar(len(numbered), f"compare: {name}", "sample") as progress:
        completions = sample(
            model,
            [encode_prompt(tokenizer, text) for text, _ in shown],
            [noise(config.seed, 0, f"compare {p.id}", n, _limit(config)) for p, n in numbered],
            eos_ids=stops,
            pad_id=tokenizer.pad_token_id,
            temperature=section.temperature or config.ppo.temperature,
            batch_size=section.per_device_eval_batch_size,
            progress=progress.update,
        )
    rows = []
    for (prompt, n), completion in zip(numbered, completions, strict=True):
        text, ended = decode_completion(tokenizer, completion.tokens), completion.finished
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
                "_prompt": prompt.prompt,
                "_completion": completion,
            }
        )
    return rows


def _tokens_with(tokenizer: Any, text: str) -> list[int]:
    return [i for i in range(len(tokenizer)) if text in tokenizer.decode([i])]


def _kl(samples: Rows, sft: Any, tokenizer: Any, config: Config) -> None:
    """log π - log π_sft of each whole completion, nats; 0 for sft itself, None for the few-shot prompt, which is another condition."""
    temperature = config.compare.temperature or config.ppo.temperature
    todo = sorted((row for row in samples if row["model"] in ("base", "ppo")), key=lambda row: len(row["tokens"]))
    with torch.no_grad(), bar(len(todo), "compare: KL to sft", "sample") as progress:
        for start in range(0, len(todo), 32):
            part = todo[start : start + 32]
            batch = pack(
                [encode_prompt(tokenizer, r["_prompt"]) for r in part],
                [r["tokens"] for r in part],
                tokenizer.pad_token_id,
                sft.device,
            )
            under_sft = completion_logprobs(sft, decoder(sft), batch, temperature)[0].sum(1).tolist()
            for row, reference in zip(part, under_sft, strict=True):
                completion: Completion = row["_completion"]
                row["kl"] = sum(completion.logprobs) - reference
            progress.update(len(part))
    for row in samples:
        if row["model"] == "sft":
            row["kl"] = 0.0


def _judge(samples: Rows, held_out: list[Prompt], config: Config, run: Run, device: torch.device) -> None:
    """Scores by the score that was optimised and by every judge, into each row; working columns go."""
    asked, said = [row["_prompt"] for row in samples], [row["completion"] for row in samples]
    score = scores(config, run, device)
    with bar(len(samples), "compare: reward", "sample") as progress:
        for start in range(0, len(samples), 256):
            values = score(asked[start : start + 256], said[start : start + 256]).tolist()
            for row, value in zip(samples[start : start + 256], values, strict=True):
                row["scores"]["reward"] = value
            progress.update(len(values))
    for name in config.judges():
        for row, value in zip(samples, judges.load(name)(asked, said), strict=True):
            row["scores"][name] = value
    for row in samples:
        del row["_prompt"], row["_completion"]


def _gate(summary: dict[str, Any], config: Config) -> Gate:
    """A comparison does not fail for what it finds; it warns where its own footing is weak."""
    return Gate(
        [
            check("held-out prompts", summary["prompts"], "at least 20, better 200", warn=summary["prompts"] < 200),
            check("independent judges", len(config.judges()), "at least 1", warn=not config.judges()),
            check("warnings in the report", len(summary["warnings"]), "0", warn=bool(summary["warnings"])),
        ]
    )
