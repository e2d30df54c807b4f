"""Does stage data mix several sources as asked, and tell the mistakes of all of them?"""

import random
from pathlib import Path
from typing import Any

import pytest
from own_rows import KINDS, Stage, checks, ids, preferences, removed, said, write

from data.schema import DataError, Problem
from pipeline.artifacts.freshness import inputs_of
from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.rows.gather import together
from pipeline.settings.config import Config, Data
from pipeline.stages import data as stage_data


def three() -> dict[str, Any]:
    """Settings for 40, 30 and 10 rankings with the weights 2, 1, 1."""
    parts = [
        {"source": write("a.jsonl", preferences("a", 40)), "tag": "chat", "weight": 2.0},
        {"source": write("b.jsonl", preferences("b", 30)), "weight": 1.0},
        {"source": write("c.jsonl", preferences("c", 10)), "tag": "code", "weight": 1.0},
    ]
    return {"mixture": parts}


def test_a_mixture_has_its_weights_and_says_so(stage: Stage) -> None:
    """A tenth is held out: 4, 3 and 1. Of the 36, 27 and 9 rows for training the last is the scarcest: 18, 9 and 9."""
    manifest, files = stage(**three())
    for kind in KINDS:
        assert manifest.data["mixture"][f"{kind}.train"] == {
            "b.jsonl": {"rows": 9, "share": 0.25},
            "chat": {"rows": 18, "share": 0.5},
            "code": {"rows": 9, "share": 0.25},
        }
        held = {tag: found["rows"] for tag, found in manifest.data["mixture"][f"{kind}.eval"].items()}
        assert held == {"b.jsonl": 3, "chat": 4, "code": 1}
    assert removed(manifest) == {f"{kind}_thinned": 36 for kind in KINDS}
    tags = [row["tag"] for row in files["rankings.train"]]
    assert tags != sorted(tags) and len(set(tags[:9])) > 1 and len(set(tags[-9:])) > 1  # mixed
    assert set(ids(files["demonstrations.train"])) == set(ids(files["rankings.train"]))
    assert checks(manifest)["sources of the mixture without training rows"] == ("pass", 0)


def test_without_weights_all_rows_are_taken(stage: Stage) -> None:
    parts = [{key: value for key, value in part.items() if key != "weight"} for part in three()["mixture"]]
    parts[0]["max_rows"] = 5
    manifest, files = stage(mixture=parts)
    assert {tag: found["rows"] for tag, found in manifest.data["mixture"]["rankings.train"].items()} == {
        "chat": 4, "b.jsonl": 27, "code": 9
    }  # fmt: skip
    assert removed(manifest) == {} and manifest.data["counts"]["read"] == 45


def test_the_mixture_follows_from_the_seed_alone(stage: Stage) -> None:
    """Neither the order of the sources nor that of the rows in their files matters, where rows have ids of their own
    and no two say the same: then only `source`, the line, is another. Without ids a row's line is its id."""
    settings = three()
    manifest, files = stage(**settings)
    assert stage(**settings)[1] == files
    assert stage(mixture=settings["mixture"][::-1])[1] == files
    assert stage(**settings, seed=1)[1] != files
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        lines = Path(name).read_text().splitlines(keepends=True)
        Path(name).write_text("".join(random.Random(name).sample(lines, len(lines))))
    shuffled, moved = stage(**settings)
    for name in files:
        assert [{**row, "source": ""} for row in moved[name]] == [{**row, "source": ""} for row in files[name]], name
    assert shuffled.data["mixture"] == manifest.data["mixture"]


def test_each_kind_is_mixed_for_itself(stage: Stage) -> None:
    """Rankings, demonstrations and prompts from three sources: nothing to weigh one against, so nothing is thinned, and
    what is given is not derived."""
    shown = [{"id": f"d{n}", "prompt": f"Tell {said('d', n)}", "completion": " yes"} for n in range(20)]
    asked = [{"id": f"p{n}", "prompt": f"Ask {said('p', n)}"} for n in range(10)]
    parts = [
        {"source": write("a.jsonl", preferences("a", 30)), "weight": 1.0},
        {"source": write("d.jsonl", shown), "weight": 1.0},
        {"source": write("p.jsonl", asked), "weight": 1.0},
    ]
    manifest, files = stage(mixture=parts)
    sizes = {name: len(rows) for name, rows in files.items() if name != "metrics"}
    assert sizes == {
        "rankings.train": 27, "rankings.eval": 3, "demonstrations.train": 18, "demonstrations.eval": 2,
        "prompts.train": 9, "prompts.eval": 1,
    }  # fmt: skip
    assert {row["tag"] for row in files["prompts.train"]} == {"p.jsonl"}
    assert removed(manifest) == {}


def test_a_row_of_two_sources_is_taken_once_and_equal_ids_are_told_apart(stage: Stage) -> None:
    a, b = preferences("a", 10), preferences("b", 10)
    for n, row in enumerate([*a, *b]):
        row["id"] = str(n % 10)
    parts = [{"source": write("a.jsonl", a)}, {"source": write("b.jsonl", [*b, a[0] | {"id": "ten"}]), "tag": "two"}]
    manifest, files = stage(mixture=parts)
    names = ids(files["rankings.train"] + files["rankings.eval"])
    assert sorted(names) == sorted(f"{source}: {n}" for source in ("a.jsonl", "two: b.jsonl") for n in range(10))
    assert removed(manifest) == {"rankings_duplicates": 1}


def test_a_source_that_has_nothing_left_to_train_on_is_told(stage: Stage) -> None:
    """All of b's rows repeat a's."""
    a = preferences("a", 20)
    parts = [
        {"source": write("a.jsonl", a), "weight": 1.0},
        {"source": write("b.jsonl", [row | {"id": f"b{n}"} for n, row in enumerate(a)]), "weight": 1.0},
    ]
    manifest, files = stage(mixture=parts)
    assert checks(manifest)["sources of the mixture without training rows"] == ("warn", 1)
    assert len(files["rankings.train"]) == 18


def test_the_mistakes_of_all_sources_are_told_together(stage: Stage) -> None:
    write("a.jsonl", [*preferences("a", 3), {"prompt": "x", "chosen": "y", "rejected": None}])
    parts = [{"source": "a.jsonl"}, {"source": "nowhere.jsonl"}, {"source": write("c.jsonl", preferences("c", 3))}]
    with pytest.raises(DataError) as caught:
        stage(mixture=parts, demonstrations=write("asked.jsonl", [{"prompt": "a"}]), prompts="c.jsonl")
    found = [(p.file, p.line, p.field) for p in caught.value.problems]
    assert found == [
        ("a.jsonl", 4, "rejected"),
        ("nowhere.jsonl", None, "file"),
        ("asked.jsonl", None, "data.demonstrations"),
        ("c.jsonl", None, "data.prompts"),
    ]


def test_no_source_hides_the_mistakes_of_another() -> None:
    """Of two sources with 30 mistakes of a kind and 3, three of the one and all of the other are shown, the others counted."""
    many = DataError([Problem("a", n, "x", "it is wrong", "mend it") for n in range(30)], {"x: more": 5})
    few = DataError([Problem("b", n, "y", "it is bad", "mend it") for n in range(3)])
    lines = str(together([many, few])).splitlines()
    assert [line[0] for line in lines[:6]] == ["a"] * 3 + ["b"] * 3
    assert lines[6:] == ["and 32 more:", "  27 × x: it is wrong", "  5 × x: more"]
    assert together([many]) is many
    some = DataError(many.problems[:16])
    assert together([some, few]).problems == some.problems + few.problems


@pytest.mark.parametrize("where", ["mixture", "eval_prompts", "pattern"])
def test_not_up_to_date_when_an_input_file_changed(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text("one")
    named: dict[str, dict[str, Any]] = {
        "mixture": {"mixture": [{"source": "mine.jsonl"}]},
        "eval_prompts": {"source": "org/name", "eval_prompts": "mine.jsonl"},
        "pattern": {"source": "*.jsonl"},
    }
    config = Config(data=Data(**named[where]))
    before = inputs_of(Run("r"), "data", config)
    assert inputs_of(Run("r"), "data", config) == before
    Path("mine.jsonl").write_text("two")
    assert inputs_of(Run("r"), "data", config) != before


def test_bad_rows_end_with_the_command_that_sets_them_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = write("a.jsonl", [*preferences("a", 3), {"prompt": "x", "chosen": "y", "rejected": None}])
    call = Call("r.yaml", "a", (f"data.source={source}",), asked="all", caller="make")
    with pytest.raises(DataError) as caught:
        stage_data._own(Config(data=Data(source=source)), Run("a", call=call))
    assert str(caught.value).splitlines()[-1] == (
        "set data.skip_bad=true to set this 1 of 4 rows aside; run: make all RECIPE=r.yaml RUN=a DATA=a.jsonl SET=data.skip_bad=true"
    )
