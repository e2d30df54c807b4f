"""Are two results of a stage equal? Weights, metrics.jsonl, samples, the figures of the manifest; all but what is measured in seconds."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from pipeline.running import run_stage
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "smoke.yaml")
CLOSE = 1e-6  # weights, and figures; of figures above 1 their millionth
OF_SUMS = (
    8e-6  # kto's kl: a difference of log-probabilities of whole completions near -100, of which float32 keeps this much
)
STRAY, FAR = 1e-4, 2e-4
"""Of a file's weights so many may be further apart than CLOSE, and none further than this, a fifth of the tests' learning rate: where a gradient is nothing
but rounding, Adam divides it by its own size, and sums in another order turn such a weight another way. Seen: 7 of 139,648, where the median
is 1e-9 apart and losses are equal to 1e-7. Figures of such models are held to ten times CLOSE."""
ROWS = ("metrics.jsonl", "samples.jsonl")


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of JSON, with its place."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, f"{name}/{key}")
    else:
        yield name, value


def told(folder: Path) -> dict[str, Any]:
    """What a published folder tells, but for seconds."""
    found = {name: [json.loads(row) for row in (folder / name).open()] for name in ROWS if (folder / name).is_file()}
    found["metrics"] = json.loads((folder / "manifest.json").read_text())["metrics"]
    if (folder / "evaluation.json").is_file():
        found["evaluation"] = json.loads((folder / "evaluation.json").read_text())
    return {
        name: of
        for name, of in leaves(found)
        if not any(word in name for word in ("/time/", "step_time", "second", "runtime"))
    }


def equal(one: Path, other: Path, close: float = CLOSE) -> None:
    """Raise AssertionError where two published folders of a stage are further apart than `close`."""
    names = [{str(path.relative_to(at)) for path in at.rglob("*.safetensors")} for at in (one, other)]
    assert names[0] == names[1]
    figures = close
    for name in sorted(names[0]):
        ours, theirs = load_file(one / name), load_file(other / name)
        assert ours.keys() == theirs.keys(), name
        apart = {key: (ours[key].float() - theirs[key].float()).abs() for key in ours}
        worst = max(apart, key=lambda key: apart[key].max().item())
        beyond = sum(int((one > close).sum()) for one in apart.values())
        stray = close == CLOSE and beyond <= STRAY * sum(one.numel() for one in apart.values())
        assert apart[worst].max().item() <= (FAR if stray else close), (other, name, worst, apart[worst].max(), beyond)
        figures = max(figures, 10 * close) if beyond else figures
    ours, theirs = told(one), told(other)
    assert ours.keys() == theirs.keys()
    apart = {}
    for name, value in ours.items():
        limit = OF_SUMS if re.fullmatch(r"/metrics\.jsonl/\d+/kl", name) else figures
        limit = 10 * close if re.search(r"score|eval/kl", name) else limit  # of texts that stand in other batches
        if isinstance(value, float) and abs(theirs[name] - value) > limit * max(1.0, abs(value)):
            apart[name] = (value, theirs[name])
        elif not isinstance(value, float) and theirs[name] != value:
            apart[name] = (value, theirs[name])
    assert not apart, (other, apart)


def made(run: Path, stage: str, settings: Sequence[str]) -> None:
    """Make a stage as each process does, one alone too."""
    run_stage(stage, load(RECIPE, settings), run.name)
