"""Who judges a comparison, and what did they say? From settings to judges, from judges to their opinions.

A judge that fails takes nothing else with it: the report names it among its warnings and goes on with the others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data.schema import DataError, Prompt
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.comparison.pairing import Opinion, Samples, paired, pairs_of
from pipeline.graph import FROM_RANKINGS
from pipeline.judges import llm, sentiment, votes
from pipeline.judges.judge import Judge, JudgeError, gold, independent, no_columns, optimised
from pipeline.language import phrase
from pipeline.rows.published import columns_of
from pipeline.settings.config import CHINESE_SENTIMENT, Config
from pipeline.training.seen import check_seen
from policies.backbone import BackboneError
from policies.precision import Held
from reward.functions import RewardFunction
from reward.rendering import ScoringError


def called(config: Config, run: Run) -> list[Judge]:
    """The judges that need no samples to be made; called before any is drawn, so that a wrong name or a missing key is
    told at once. An LLM judge's answers are kept in the run's folder. Raises JudgeError."""
    if (folder := config.compare.gold) is not None:
        if Path(folder).resolve() in _maximised(config, run):
            raise JudgeError(
                f"compare.gold: {folder} is what training maximised, so it cannot be gold; "
                "give a reward model of another run, learned from other rankings"
            )
    columns = columns_of(run) if run.manifest("data") is not None else no_columns
    named = {
        name: sentiment.judge(run) if name == CHINESE_SENTIMENT else independent(name, columns)
        for name in config.judges()
    }
    # what training maximised judges too where it checks the answers themselves
    functions = [
        name for name in config.ppo.reward_funcs if ":" in name and not Path(name).exists() and name not in named
    ]
    maximised = [independent(name, columns) for name in functions]
    found = [*named.values(), *(judge for judge in maximised if judge.label == "verifier")]
    if (section := config.compare.llm) is not None:
        endpoint = llm.Endpoint(**section.model_dump())
        found.append(llm.judge(endpoint, run.root / run.name / "llm_judge.jsonl"))
    return found


def seated(
    config: Config,
    score: RewardFunction,
    already: Sequence[Judge],
    samples: Samples,
    how: torch.dtype | Held,
    device: torch.device,
    run: Run | None = None,
) -> tuple[list[Judge], list[str]]:
    """The optimised score, those `already` called, a gold model and people's votes; and a sentence for what cannot be had.

    The gold model is the one that compare.gold names, else that of stage gold of `run`, where it is finished.
    """
    section = config.compare
    found, problems = [optimised(score), *already], []
    late: list[tuple[str, Callable[[], Judge]]] = []
    if (folder := section.gold) is not None:
        late.append(("gold", lambda: gold(folder, how, device, config.chat_template_kwargs)))
    elif run is not None and run.manifest("gold") is not None:
        late.append(("gold", lambda: _own_gold(config, run, how, device)))
    if section.votes:
        late.append(("people", lambda: votes.load(section.votes, samples)))
    for name, make in late:
        try:
            found.append(make())
        except (JudgeError, DataError, BackboneError, ScoringError, ArtifactError) as error:
            problems.append(_left_out(name, error))
    named: dict[str, Judge] = {}
    for judge in found:
        name = judge.name if judge.name not in named else f"{judge.name} ({judge.label})"
        named[name] = replace(judge, name=name)
    return list(named.values()), problems


def check_gold(config: Config, run: Run, held_out: Sequence[Prompt]) -> None:
    """Raise ConfigError where a prompt alone fills what the gold model reads. One that cannot be had is left out later, with a sentence."""
    path = config.compare.gold or (run.folder("gold") if run.manifest("gold") is not None else None)
    if path is not None:
        with suppress(BackboneError, ScoringError, OSError):
            check_seen("compare", config, held_out, [("gold", path)])


def cut(counted: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A sentence for each judge that read only a part of some texts, from what it counted, by its name."""
    found = []
    for name, counts in counted.items():
        texts, short = (counts.get(f"scored/{what}", counts.get(what, 0)) for what in ("texts", "cut"))
        if short:
            found.append(
                phrase(
                    "The judge {name} read only a part of {short:.0f} of {texts:.0f} texts, as they are longer than it reads.",
                    **{"name": name, "short": short, "texts": texts},
                )
            )
    return found


def _own_gold(config: Config, run: Run, how: torch.dtype | Held, device: torch.device) -> Judge:
    """The reward model of stage gold, if nothing that is compared can have learned from its rankings. Raises JudgeError and
    ArtifactError."""
    manifest, folder = run.require("gold", force=config.force), run.folder("gold")
    if folder.resolve() in _maximised(config, run):
        raise JudgeError("training maximised it, so it cannot be gold")
    for stage in FROM_RANKINGS:
        other = run.manifest(stage) if stage in parents("compare", config) else None
        if other is not None and _data_of(other) != _data_of(manifest):
            raise JudgeError(
                f"stage {stage} was made from other data than stage gold, so it may have seen the rankings set aside; "
                f"{run.remedy(stage, 'gold', 'compare')}"
            )
    rows = phrase(
        "{count:.0f} rankings of this run that the optimised reward never saw", count=manifest.metrics["rankings"]
    )
    judge = gold(folder, how, device, config.chat_template_kwargs)
    return replace(judge, summary=lambda: {**judge.summary(), "trained on": rows})


def _maximised(config: Config, run: Run) -> list[Path]:
    return [path.resolve() for path in (run.folder("reward"), *map(Path, config.ppo.reward_funcs))]


def _data_of(manifest: Manifest) -> list[str]:
    return [parent["sha256"] for parent in manifest.parents if parent["role"] == "data"]


def _left_out(name: str, error: Exception) -> str:
    return phrase("The judge {name} gave no judgement and is left out: {error}", name=name, error=str(error))


def opinions(samples: Samples, panel: Sequence[Judge], models: Iterable[str]) -> tuple[list[Opinion], list[str]]:
    """What the judges say of all samples, and a sentence for each judge that failed.

    samples: rows with their prompt as it was given under "_prompt"; scores are written into their "scores". A judge that
    only compares is asked about the pairs of `numbers.pairs_of`, the most important first, so that one whose calls run
    out has judged those. The optimised score may not fail.
    """
    rows = paired(samples, dict.fromkeys(models, {}))
    asked = [row["_prompt"] for row in samples]
    said = [row["completion"] for row in samples]
    found: list[Opinion] = []
    problems = []
    for judge in panel:
        try:
            if judge.scores is not None:
                for row, value in zip(samples, judge.scores(asked, said), strict=True):
                    row["scores"][judge.name] = value
                found.append(Opinion(judge.name, judge.label, None, judge.summary(), judge.positive))
                continue
            outcomes = {}
            for a, b in pairs_of(list(rows)):
                left, right = list(rows[a].values()), list(rows[b].values())
                judged = judge.outcomes(
                    [row["_prompt"] for row in left],
                    [row["completion"] for row in left],
                    [row["completion"] for row in right],
                )
                own = {key: float(value) for key, value in zip(rows[a], judged, strict=True) if not np.isnan(value)}
                outcomes[a, b] = own
            found.append(Opinion(judge.name, judge.label, outcomes, judge.summary()))
        except JudgeError as error:
            if judge.label == "optimised":
                raise
            for row in samples:
                row["scores"].pop(judge.name, None)
            problems.append(_left_out(judge.name, error))
    return found, problems


def scored(rows: Samples, panel: Sequence[Judge], opinions: Sequence[Opinion]) -> tuple[list[str], list[str]]:
    """The judges with an opinion that score, their scores written into `rows` of further samples; and a sentence for each that
    failed. Those that only compare are not asked: every question costs."""
    names, problems = [], []
    sitting = {one.name for one in opinions}
    asked, said = [row["_prompt"] for row in rows], [row["completion"] for row in rows]
    for judge in panel if rows else ():
        if judge.scores is None or judge.name not in sitting:
            continue
        try:
            for row, value in zip(rows, judge.scores(asked, said), strict=True):
                row["scores"][judge.name] = value
            names.append(judge.name)
        except JudgeError as error:
            problems.append(
                phrase(
                    "The judge {name} gave no judgement of the further training seeds: {error}",
                    **{"name": judge.name, "error": str(error)},
                )
            )
    return names, problems
