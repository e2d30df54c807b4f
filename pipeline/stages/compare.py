"""Stage compare: is the aligned model better than what it came from, by whose judgement, and at what price?

    python -m pipeline compare recipes/film_reviews.yaml

Samples base, few-shot prompted base, sft, ppo and whatever else compare.models names on the same held-out prompts with the same
noise, has every judge score them, and writes report.html, report.json and samples.jsonl.
"""

import gc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from data.schema import Demonstration, Prompt
from pipeline.artifacts import reproduce, seeds
from pipeline.artifacts.files import write_rows
from pipeline.artifacts.freshness import parents, read_by
from pipeline.artifacts.gate import Gate, check
from pipeline.artifacts.manifest import Manifest, now
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.comparison import plain_text
from pipeline.comparison.contenders import best_of_rows, check_prompts, common_prompts, contenders, described
from pipeline.comparison.pairing import Samples
from pipeline.judges import panel
from pipeline.judges.judge import Judge
from pipeline.judges.over_training import over_training
from pipeline.pages.progress import bar
from pipeline.report import exports, numbers, seed_spread
from pipeline.report.slices import source_of
from pipeline.rows.published import demonstrations, prompts
from pipeline.settings.config import Config, best_of
from pipeline.settings.sections import Decoding, Resolved
from pipeline.training.context import closing, make_accelerator
from pipeline.training.fine_tuning import loss
from pipeline.training.roles import scores
from policies.backbone import decoder, eos_ids, load_causal, load_tokenizer, pick_dtype
from policies.decoding import decode
from policies.logprobs import completion_logprobs, pack
from policies.rollout import Completion, noise
from policies.template import PromptText, decode_completion, encode_completion, encode_prompt, fingerprint, show_prompt

SEPARATORS = ("\n", "\n---\n")  # between the examples of a few-shot prompt: the first that no example contains


def run(config: Config, run: Run) -> Manifest:
    accelerator, section = make_accelerator(), config.compare
    device, dtype = accelerator.device, pick_dtype(config.dtype, accelerator.device)
    tokenizer = load_tokenizer(run.folder("sft"))
    template = fingerprint(tokenizer)
    manifests = {
        name: run.require(name, tokenizer=None if name == "reward" else template, force=config.force)
        for name in parents("compare", config)
    }
    last = list(manifests.values())[-1]
    models = contenders(config, run, tokenizer)
    called = panel.called(config, run)  # a wrong name or a missing key is told before anything is sampled
    folder = working_folder(run, "compare", config)
    wanted = prompts(run, "eval")[: section.prompts]
    held_out = common_prompts(config, run, wanted)
    check_prompts(models, held_out)
    if len(held_out) < len(wanted):
        print(f"compare: {_few_prompts(len(held_out), len(wanted))}", flush=True)
    examples = demonstrations(run, "train")[: section.few_shot]
    rows_for_perplexity = demonstrations(run, "eval")[: section.perplexity_rows]
    plain_passages = plain_text.passages(section.plain_text, tokenizer, config.data.max_length)
    samples: Samples = []
    information: dict[str, dict[str, Any]] = {}
    for source in dict.fromkeys(one.source for one in models):
        together = [one for one in models if one.source == source]
        model = load_causal(source, together[0].tokenizer, dtype, together[0].revision).to(device)
        for one in together:
            shots = examples if one.name == "few_shot" else []
            said = _sampled(one.name, model, one.tokenizer, held_out, shots, config)
            own = [_with_shots(one.tokenizer, d, shots, config) for d in rows_for_perplexity] if one.ours else []
            samples += said
            information[one.name] = described(one, run) | {
                # of other tokens it would be another quantity
                "perplexity": math.exp(loss(model, own, tokenizer, 16)) if own else None,
                "perplexity_plain": math.exp(loss(model, plain_passages, tokenizer, 8)) if own and not shots else None,
                "tokens_per_answer": sum(row["length"] for row in said) / len(said),
            }
        if source == str(run.folder("sft")):
            sft = model
        del model
        gc.collect()
    if "sft" not in section.models:
        sft = load_causal(run.folder("sft"), tokenizer, dtype).to(device)
    further = seeds.further(run, config)
    if left := seeds.strays(run, config):
        print(f"compare: without {', '.join(left)}: made with other settings or from other models than now", flush=True)
    of_other_seeds: Samples = []
    for sibling in further:
        run.require(sibling.folder, tokenizer=template, force=True)  # whatever its gate said, see seeds.siblings
        model = load_causal(run.folder(sibling.folder), tokenizer, dtype).to(device)
        of_other_seeds += _sampled(sibling.folder, model, tokenizer, held_out, [], config)
        del model
        gc.collect()
    _kl(samples, {one.name for one in models if one.has_kl}, sft, tokenizer, config)
    _kl(of_other_seeds, {sibling.folder for sibling in further}, sft, tokenizer, config)
    del sft
    gc.collect()
    for name in section.models:
        if best_of(name) is not None:
            said, information[name] = best_of_rows(name, config, run, held_out)
            samples += said
    information = {name: information[name] for name in section.models}
    _place([*samples, *of_other_seeds], held_out)
    opinions, problems, training, between = _judge(
        samples, of_other_seeds, information, config, run, called, dtype, device
    )
    provenance = {
        **_command(manifests, further, config, run),
        "made": now(),
        "data": {kind: manifests["data"].data[kind]["sha256"] for kind in ("prompts.eval", "demonstrations.eval")},
        "seed": config.seed,
        "decoding": _decoding(config, over_training=training is not None),
        "score that was optimised": ", ".join(config.ppo.reward_funcs),
        "libraries": last.libraries,
        "hardware": last.machine,
        "git commit": last.git_commit,
    }
    problems += [f"{one.folder} failed its gate, and counts among the seeds." for one in further if one.gate == "fail"]
    if further:
        provenance["training seeds"] = seed_spread.provenance(run, config, of_other_seeds)
    if len(held_out) < len(wanted):
        provenance["prompts"] = _few_prompts(len(held_out), len(wanted))
    summary = numbers.summarise(
        samples,
        information,
        opinions,
        provenance=provenance,
        training=training,
        problems=problems,
        seeds=between,
        seed=config.seed,
    )
    made = folder / "made"
    made.mkdir(exist_ok=True)
    exports.write(summary, samples, opinions, made)
    if of_other_seeds:
        exports.write_samples(made / "samples.seeds.jsonl", of_other_seeds)
    metrics = {"prompts": float(summary["prompts"])}
    for name, model_figures in summary["models"].items():
        metrics |= {
            f"{name}/{key}": float(value) for key, value in model_figures.items() if isinstance(value, int | float)
        }
    for pair, by_judge in summary["pairs"].items():
        metrics |= {f"{pair}/{judge}/win_rate": outcome["win_rate"] for judge, outcome in by_judge.items()}
    write_rows(made / "metrics.jsonl", [metrics])
    return publish(
        run,
        "compare",
        config,
        made,
        tokenizer=template,
        model={"base": config.model},
        dtype=str(dtype),
        metrics=metrics,
        gate=_gate(summary),
        notes={"verdict": summary["verdict"]},
    )


def summary(manifest: Manifest, run: Run) -> str:
    return (
        closing(manifest, run.folder("compare"), ("prompts",), f"open {run.folder('compare') / 'report.html'}")
        + f"\n{manifest.notes['verdict']}"
    )


def _command(
    manifests: Mapping[str, Manifest], further: Sequence[seeds.Sibling], config: Config, run: Run
) -> dict[str, str]:
    """How the comparison and the stages that it reads were made; nothing where no command line was there."""
    if run.command is None:
        return {}
    gold = run.manifest("gold") if "gold" in read_by(run, "compare", config) else None
    made: dict[str, tuple[dict[str, Any], int]] = {}
    for stage, manifest in (dict(manifests) | ({} if gold is None else {"gold": gold})).items():
        count = max((one.seed - manifest.seed + 1 for one in further if one.stage == stage), default=1)
        made[stage] = ((manifest.command or run.command) | {"seeds": count}, manifest.world_size)
    return {"command": reproduce.commands(run.name, made | {"compare": (run.command, 1)})}


def _few_prompts(count: int, wanted: int) -> str:
    return f"all models on {count} of {wanted} held-out prompts, those of stage best_of_n; for more raise best_of_n.prompts"


def _settled(config: Config) -> Resolved:
    return config.compare.generation.resolved(config.ppo.temperature, config.ppo.response_length)


def _decoding(config: Config, over_training: bool) -> dict[str, Any]:
    """How all models were decoded: in words, every setting that acted, and what the figures beside the texts are of."""
    how = _settled(config)
    told: dict[str, Any] = {"in words": how.words(), **how.acting()}
    told["KL and entropy"] = f"of the whole distribution at temperature {how.temperature}, at the tokens that were said"
    in_training = Decoding().resolved(config.ppo.temperature, config.ppo.response_length).words()
    if over_training and in_training != how.words():
        told["over training"] = f"otherwise, as the trainer evaluates: {in_training}"
    return told


def _few_shot(prompt: PromptText, examples: Sequence[Demonstration]) -> tuple[PromptText, str | None]:
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
    prompt, _ = _few_shot(row.prompt, examples)
    room = config.data.max_length - len(encode_prompt(tokenizer, row.prompt))
    return encode_prompt(tokenizer, prompt), encode_completion(tokenizer, row.completion, room)


def _sampled(
    name: str, model: Any, tokenizer: Any, held_out: list[Prompt], examples: Sequence[Demonstration], config: Config
) -> Samples:
    """One model's completions: rows of samples.jsonl without scores, with the sampler's log-probabilities for now."""
    section, how = config.compare, _settled(config)
    numbered = [(prompt, n) for prompt in held_out for n in range(section.samples_per_prompt)]
    shown = [_few_shot(prompt.prompt, examples) for prompt, _ in numbered]
    completions: dict[int, Completion] = {}
    with bar(len(numbered), f"compare: {name}", "sample") as progress:
        # What ends an example among texts ends no turn of a conversation.
        for separator in dict.fromkeys(s for _, s in shown):
            picked = [i for i, (_, s) in enumerate(shown) if s == separator]
            stops = eos_ids(model, tokenizer)
            if separator == SEPARATORS[0]:
                stops = sorted({*stops, *_tokens_with(tokenizer, separator)})
            sampled = decode(
                model,
                [encode_prompt(tokenizer, shown[i][0]) for i in picked],
                [
                    noise(config.seed, 0, f"compare {p.id}", n, how.max_new_tokens)
                    for p, n in (numbered[i] for i in picked)
                ],
                how,
                eos_ids=stops,
                pad_id=tokenizer.pad_token_id,
                batch_size=section.per_device_eval_batch_size,
                progress=progress.update,
            )
            completions |= dict(zip(picked, sampled, strict=True))
    rows = []
    for i, (prompt, n) in enumerate(numbered):
        completion, separator = completions[i], shown[i][1]
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
                # of the whole distributions along the way; -log π of the tokens would be that only where they are drawn from them
                "entropy": sum(completion.entropies) / max(1, len(completion.entropies)),
                "_prompt": prompt.prompt,
                "_completion": completion,
            }
        )
    return rows


def _tokens_with(tokenizer: Any, text: str) -> list[int]:
    return [i for i in range(len(tokenizer)) if text in tokenizer.decode([i])]


def _kl(samples: Samples, measured: set[str], sft: Any, tokenizer: Any, config: Config) -> None:
    """log π - log π_sft of each whole completion of the `measured` models, nats; 0 for sft itself, None for others: the few-shot
    prompt is another condition, another tokenizer has other tokens."""
    temperature = _settled(config).temperature
    todo = sorted((row for row in samples if row["model"] in measured), key=lambda row: len(row["tokens"]))
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


def _place(samples: Samples, held_out: Sequence[Prompt]) -> None:
    """Where each prompt comes from and what it is about, into its rows."""
    known = {prompt.id: prompt for prompt in held_out}
    for row in samples:
        prompt = known[row["prompt_id"]]
        row["source"] = source_of(prompt.source)
        if prompt.tag is not None:
            row["tag"] = prompt.tag


def _judge(
    samples: Samples,
    of_other_seeds: Samples,
    information: dict[str, Any],
    config: Config,
    run: Run,
    called: Sequence[Judge],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[list[numbers.Opinion], list[str], dict[str, Any] | None, dict[str, Any]]:
    """What every judge says, a sentence for each that failed, the scores over ppo's training, and how far training seeds are
    apart by those that score, from what the models of further seeds said (`of_other_seeds`); working columns go."""
    score = scores(config, run, device)

    def in_parts(asked: Sequence[PromptText], said: Sequence[str]) -> list[float]:
        values: list[float] = []
        with bar(len(said), "compare: reward", "sample") as progress:
            for start in range(0, len(said), 256):
                values += score(list(asked[start : start + 256]), list(said[start : start + 256])).tolist()
                progress.update(len(said[start : start + 256]))
        return values

    judges, absent = panel.seated(config, in_parts, called, samples, dtype, device, run)
    opinions, problems = panel.opinions(samples, judges, information)
    scored, more = panel.scored(of_other_seeds, judges, opinions)
    references = {name: numbers.reference_of(information, name) for name in information}
    trained = seed_spread.trained(run, references, samples, of_other_seeds)
    between = seed_spread.block(trained, scored, seed=config.seed)
    for row in [*samples, *of_other_seeds]:
        del row["_prompt"]
        row.pop("_completion", None)
    training = None
    if "ppo" in information:
        sitting = {one.name for one in opinions}
        heard = [judge for judge in judges if judge.name in sitting]
        training = over_training(run.folder("ppo"), prompts(run, "eval"), heard, seed=config.seed)
    return opinions, absent + problems + more, training, between


def _gate(summary: dict[str, Any]) -> Gate:
    """A comparison does not fail for what it finds; it warns where its own footing is weak."""
    return Gate(
        [
            check("held-out prompts", summary["prompts"], "at least 20, better 200", warn=summary["prompts"] < 200),
            check("independent judges", len(summary["judges"]), "at least 1", warn=not summary["judges"]),
            check("warnings in the report", len(summary["warnings"]), "0", warn=bool(summary["warnings"])),
        ]
    )
