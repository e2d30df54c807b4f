"""Which model do people prefer, by all votes that count, those on prompts of their own too? Bradley–Terry, with 95% intervals over prompts.

The figures are those of pipeline/report/ranking_models.py. In a report only the votes on its own answers count; here every vote does in
which no answer said a model's name, and of a person's votes on the same two answers the first.
"""

from collections.abc import Sequence
from typing import Any

from data.schema import prompt_key
from pipeline.people.export import votes_of
from pipeline.people.store import Event
from pipeline.report.ranking_models import Match, bradley_terry

FEWEST = 5  # prompts below which drawing them again says nothing
OUTCOMES = {"a": 1.0, "b": 0.0, "tie": 0.5}


def strengths(events: Sequence[Event]) -> dict[str, Any]:
    """The models that people voted on, the best first: {"models": [{"name", "score" (log-odds, mean 0), "low", "high", "votes"}], "votes",
    "people", "prompts", "linked"}. `low` and `high` are None below FEWEST prompts, and where `linked` is false: some models never won
    or lost against the others, and then the distances are not known either."""
    rows = votes_of(events)
    matches = [Match(prompt_key(r["prompt"]), r["a"]["model"], r["b"]["model"], OUTCOMES[r["winner"]]) for r in rows]
    told: dict[str, Any] = {"votes": len(rows), "people": len({row["annotator"] for row in rows})}
    if not matches:
        return {"models": [], **told, "prompts": 0, "linked": False}
    found = bradley_terry(matches)
    enough = found["prompts"] >= FEWEST
    models = [
        {
            "name": name,
            **(own if enough else own | {"low": None, "high": None}),
            "votes": sum(name in (one.a, one.b) for one in matches),
        }
        for name, own in found["models"].items()
    ]
    return {"models": models, **told, "prompts": found["prompts"], "linked": len(found["groups"]) == 1}
