"""Stage data: raw files to validated, cleaned, split and fingerprinted demonstrations, rankings and prompts.

    python -m pipeline data recipes/film_reviews.yaml

Split comes before any ranking is built or any default is derived, so nothing of the evaluation is seen in training.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from data import clean, formats, reviews, split
from data.schema import DataError, Demonstration, Problem, Prompt, Ranking, prompt_key
from pipeline.artifacts import Gate, Manifest, Run, check, write_rows
from pipeline.config import EMBEDDED_REVIEWS, Config
from pipeline.context import base_model, closing
from pipeline.embedded import reviews_archive


@dataclass
class Sides:
    """Rows of one kind on both sides of the split."""

    train: list[Any] = field(default_factory=list)
    eval: list[Any] = field(default_factory=list)


def run(config: Config, run: Run) -> Manifest:
    from policies.backbone import load_tokenizer
    from policies.template import fingerprint

    folder = run.start("data", config)
    tokenizer = load_tokenizer(base_model(config), config.revision)
    if config.data.source == EMBEDDED_REVIEWS:
        kinds, counts, notes = _film_reviews(config)
    else:
        kinds, counts, notes = _own(config)
    kinds, fitted = _fit(kinds, tokenizer, config)
    counts |= fitted
    made = folder / "made"
    made.mkdir(exist_ok=True)
    data: dict[str, Any] = {"counts": counts}
    metrics: dict[str, float] = {}
    for kind, sides in kinds.items():
        for side in ("train", "eval"):
            rows = getattr(sides, side)
            write_rows(made / f"{kind}.{side}.jsonl", [row.to_json() for row in rows])
            data[f"{kind}.{side}"] = {"rows": len(rows), "sha256": split.fingerprint(rows)}
            metrics[f"{kind}_{side}"] = len(rows)
    metrics |= {f"{key}": float(value) for key, value in counts.items()}
    if rejected := notes.pop("rejects", []):
        write_rows(made / "rejects.jsonl", rejected)
    (made / "samples.md").write_text(_samples(kinds, tokenizer, notes), encoding="utf-8")
    gate = _gate(kinds, config)
    write_rows(made / "metrics.jsonl", [metrics])
    return run.publish(
        "data",
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": config.model, "revision": config.revision},
        dtype="none",
        metrics=metrics,
        gate=gate,
        data=data,
        notes=notes,
    )


def summary(manifest: Manifest, run: Run) -> str:
    figures = ("demonstrations_train", "rankings_train", "rankings_eval", "prompts_train", "prompts_eval", "rejected")
    return closing(manifest, run.folder("data"), figures, f"make sft RUN={run.name}")


def _film_reviews(config: Config) -> tuple[dict[str, Sides], dict[str, int], dict[str, Any]]:
    settings = config.data.reviews
    built = reviews.build(
        reviews.load(reviews_archive()),
        k=settings.k,
        tie_gap=settings.tie_gap,
        opening_words=settings.opening_words,
        prompt_words=settings.prompt_words,
        max_words=settings.max_words,
        eval_fraction=config.data.eval_fraction,
        seed=config.seed,
    )
    kinds = {
        "demonstrations": Sides(built.demonstrations_train, built.demonstrations_eval),
        "rankings": Sides(built.rankings_train, built.rankings_eval),
        "prompts": Sides(built.prompts_train, built.prompts_eval),
    }
    return kinds, dict(built.counts), {"format": EMBEDDED_REVIEWS}


def _own(config: Config) -> tuple[dict[str, Sides], dict[str, int], dict[str, Any]]:
    """Read what the user has; what is not given is derived on each side of the split from the rankings or demonstrations there."""
    settings = config.data
    wanted = {"source": settings.source, "demonstrations": settings.demonstrations, "prompts": settings.prompts}
    loaded: dict[str, formats.Loaded] = {}
    problems: list[Problem] = []
    notes: dict[str, Any] = {}
    for name, source in wanted.items():
        if source is None:
            continue
        try:
            loaded[name] = formats.to_rows(
                source, settings.format if name == "source" else None, skip_bad=settings.skip_bad
            )
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    for name in ("demonstrations", "prompts"):
        if name in loaded and loaded[name].kind != name:
            problems.append(
                Problem(
                    str(wanted[name]),
                    None,
                    f"data.{name}",
                    f"holds {loaded[name].kind}",
                    f"give {name}, or leave the setting out",
                )
            )
    if problems:
        raise DataError(problems)
    counts = {"read": sum(item.read for item in loaded.values())}
    counts["rejected"] = sum(len(item.rejects) for item in loaded.values())
    notes["format"] = ", ".join(f"{wanted[name]}: {item.format} ({item.kind})" for name, item in loaded.items())
    notes["rejects"] = [r.to_json() for item in loaded.values() for r in item.rejects]
    kinds = {"demonstrations": Sides(), "rankings": Sides(), "prompts": Sides()}
    for item in loaded.values():
        cleaned, changed = clean.clean(item.rows)
        for key, value in changed.items():
            counts[f"{item.kind}_{key}"] = counts.get(f"{item.kind}_{key}", 0) + value
        train, held_out = split.split_by(
            cleaned, lambda row: prompt_key(row.prompt), settings.eval_fraction, config.seed
        )
        kinds[item.kind].train += train
        kinds[item.kind].eval += held_out
    for side in ("train", "eval"):
        ranked: list[Ranking] = getattr(kinds["rankings"], side)
        if not getattr(kinds["demonstrations"], side):
            setattr(kinds["demonstrations"], side, [_best(ranking) for ranking in ranked])
        if not getattr(kinds["prompts"], side):
            source_rows = ranked or getattr(kinds["demonstrations"], side)
            distinct = {prompt_key(row.prompt): Prompt(row.id, row.prompt, row.source) for row in reversed(source_rows)}
            setattr(kinds["prompts"], side, list(reversed(distinct.values())))
    return kinds, counts, notes


def _best(ranking: Ranking) -> Demonstration:
    best = ranking.ranking[0][0]
    text = next(c.text for c in ranking.completions if c.id == best)
    return Demonstration(ranking.id, ranking.prompt, text, ranking.source)


def _fit(kinds: dict[str, Sides], tokenizer: Any, config: Config) -> tuple[dict[str, Sides], dict[str, int]]:
    """Check lengths in tokens: a prompt must leave room for a completion; what is equal after truncation is no preference."""
    from policies.template import encode_completion, encode_prompt

    limit, room = config.data.max_length, config.data.min_completion_tokens + 1
    problems, counts = [], {"too_long": 0, "equal_after_truncation": 0}
    for sides in kinds.values():
        for side in ("train", "eval"):
            kept = []
            for row in getattr(sides, side):
                try:
                    length = len(encode_prompt(tokenizer, row.prompt))
                except ValueError as error:
                    file, _, line = row.source.rpartition(":")
                    problems.append(
                        Problem(
                            file or row.source,
                            int(line) if line.isdigit() else None,
                            "prompt",
                            str(error),
                            "or set another model",
                        )
                    )
                    continue
                if length == 0 or length > limit - room:
                    file, _, line = row.source.rpartition(":")
                    what = (
                        "has no tokens"
                        if length == 0
                        else f"is {length} tokens long and leaves no room within max_length {limit}"
                    )
                    problems.append(
                        Problem(
                            file or row.source,
                            int(line) if line.isdigit() else None,
                            "prompt",
                            what,
                            "shorten it, raise data.max_length, or set data.skip_bad=true",
                        )
                    )
                else:
                    kept.append(row)
            setattr(sides, side, kept)
    if problems and not config.data.skip_bad:
        raise DataError(problems)
    counts["too_long"] = len(problems)
    for side in ("train", "eval"):
        kept, dropped = clean.equal_after_truncation(
            getattr(kinds["rankings"], side),
            lambda p, c: encode_prompt(tokenizer, p) + encode_completion(tokenizer, c),
            limit,
        )
        setattr(kinds["rankings"], side, kept)
        counts["equal_after_truncation"] += dropped
    return kinds, counts


def _gate(kinds: dict[str, Sides], config: Config) -> Gate:
    keys = {side: {prompt_key(row.prompt) for row in getattr(kinds["prompts"], side)} for side in ("train", "eval")}
    leaked = len(keys["train"] & keys["eval"])
    if config.data.source == EMBEDDED_REVIEWS:  # openings are shared by design; whole reviews are not
        texts = {
            side: {f"{d.prompt}{d.completion}" for d in getattr(kinds["demonstrations"], side)}
            for side in ("train", "eval")
        }
        leaked += len(texts["train"] & texts["eval"])
    elif kinds["rankings"].train:
        both = {
            side: {prompt_key(row.prompt) for row in getattr(kinds["rankings"], side)} for side in ("train", "eval")
        }
        leaked += len(both["train"] & both["eval"])
    prompts, held_out, ranked = len(keys["train"]), len(keys["eval"]), len(kinds["rankings"].eval)
    return Gate(
        [
            check("training prompts", prompts, "at least 1, better 100", fail=prompts == 0, warn=prompts < 100),
            check(
                "held-out prompts",
                held_out,
                "at least 1, better 50",
                fail=held_out == 0,
                warn=held_out < 50,
                why="raise data.eval_fraction or add rows",
            ),
            check(
                "held-out rankings",
                ranked,
                "at least 1 where there are rankings",
                fail=ranked == 0 and bool(kinds["rankings"].train),
                warn=ranked < 30,
            ),
            check("prompts seen on both sides", leaked, "0", fail=leaked > 0),
        ]
    )


def _samples(kinds: dict[str, Sides], tokenizer: Any, notes: dict[str, Any]) -> str:
    """Three rows as the model will see them, for people to look at."""
    from policies.template import encode_completion, encode_prompt

    parts = [f"Format: {notes['format']}. Best first: rank 0 is preferred.\n"]
    for ranking in kinds["rankings"].train[:3]:
        parts.append(f"## Ranking {ranking.id} ({ranking.source})\n")
        ranks = ranking.ranks()
        for rank, completion in sorted(zip(ranks, ranking.completions, strict=True), key=lambda pair: pair[0]):
            ids = encode_prompt(tokenizer, ranking.prompt) + encode_completion(tokenizer, completion.text)
            parts.append(f"- rank {rank}: {json.dumps(tokenizer.decode(ids), ensure_ascii=False)}")
    for demonstration in kinds["demonstrations"].train[:3]:
        ids = encode_prompt(tokenizer, demonstration.prompt) + encode_completion(tokenizer, demonstration.completion)
        parts.append(
            f"\n## Demonstration {demonstration.id} ({demonstration.source})\n\n- {json.dumps(tokenizer.decode(ids), ensure_ascii=False)}"
        )
    return "\n".join(parts) + "\n"
