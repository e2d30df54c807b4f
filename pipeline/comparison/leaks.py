"""Did a model of another run see, while it was trained, what it is asked here? Its own data may have been split otherwise."""

from collections.abc import Sequence

from data.schema import Prompt, prompt_key
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.language import phrase
from pipeline.rows.published import demonstrations, prompts, rankings


def seen_elsewhere(run: Run, name: str, held_out: Sequence[Prompt]) -> str | None:
    """A sentence for the report's warnings where the model `name` of another run (other_runs.py) was trained on some of the held-out
    prompts that no model of this run was trained on, or where that can no longer be known; None where it was not."""
    other, folder = run.at(name)
    manifest = other.manifest(folder)
    assert manifest is not None
    trained_on = next(parent["sha256"] for parent in manifest.parents if parent["role"] == "data")
    if _identity(run) == trained_on:
        return None
    if _identity(other) != trained_on:
        return phrase(
            "{name} was made of data that is no longer in {folder}, so it may have seen the held-out prompts.",
            **{"name": name, "folder": str(other.root / other.name)},
        )
    seen = _trained_on(other) - _trained_on(run)
    count = sum(prompt_key(prompt.prompt) in seen for prompt in held_out)
    if not count:
        return None
    return phrase(
        "{name} was trained on {count} of the {all} held-out prompts, which were not held out in run {run}.",
        **{"name": name, "count": count, "all": len(held_out), "run": other.name},
    )


def _trained_on(run: Run) -> set[str]:
    """The prompts of the training rows. Some may be among the held-out ones too, where rows and not prompts are held out."""
    rows = [row.prompt for row in prompts(run, "train")]
    rows += [row.prompt for row in demonstrations(run, "train")]
    rows += [row.prompt for row in rankings(run, "train")]
    return {prompt_key(one) for one in rows}


def _identity(run: Run) -> str | None:
    try:
        return run.identity("data")
    except ArtifactError:  # not there, or not readable
        return None
