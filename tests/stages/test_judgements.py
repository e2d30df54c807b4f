"""What becomes of liked and disliked completions in stage data: files of their own, and what the other kinds lack?"""

from pathlib import Path
from typing import Any

import pytest
from own_rows import Stage, checks, preferences, said, write

from data.schema import DataError, Judgement, prompt_key
from pipeline.artifacts.run import Run
from pipeline.rows import published
from pipeline.stages import data as stage_data


def thumbs(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Judgements, every third of them liked, with prompts of their own."""
    return [
        {"id": f"t{n}", "prompt": f"Say {said('t', n)}:", "completion": f" {said('t', n)}!", "label": n % 3 == 0}
        for n in range(first, first + count)
    ]


def test_both_kinds_are_published_and_the_liked_ones_are_demonstrations(stage: Stage) -> None:
    """A fifth of 60 prompts is held out; prompts are those of all judgements, demonstrations those of the liked ones."""
    manifest, files = stage(source=write("mine.jsonl", thumbs(60)), eval_fraction=0.2)
    assert (len(files["judgements.train"]), len(files["judgements.eval"])) == (48, 12)
    for side in ("train", "eval"):
        judged = files[f"judgements.{side}"]
        liked = [row for row in judged if row["liked"]]
        assert {row["liked"] for row in judged} == {True, False}
        assert all(row["liked"] == (int(row["id"][1:]) % 3 == 0) for row in judged)
        assert [(row["id"], row["completion"]) for row in files[f"demonstrations.{side}"]] == [
            (row["id"], row["completion"]) for row in liked
        ]
        assert [row["prompt"] for row in files[f"prompts.{side}"]] == [row["prompt"] for row in judged]
        assert files[f"rankings.{side}"] == []
        assert manifest.data[f"judgements.{side}"]["rows"] == manifest.metrics[f"judgements_{side}"] == len(judged)
        assert published.judgements(Run("r"), side) == [Judgement.from_json(row) for row in judged]
    prompts = [{row["prompt"] for row in files[f"judgements.{side}"]} for side in ("train", "eval")]
    assert not prompts[0] & prompts[1]
    text = Path("runs/r/data/samples.md").read_text()
    assert "format unpaired (judgements)" in text and "- liked: " in text and "- disliked: " in text
    assert "judgements train 48" in stage_data.summary(manifest, Run("r"))


def test_without_any_there_is_no_file_of_them_and_no_word(stage: Stage) -> None:
    manifest, files = stage(source=write("mine.jsonl", preferences("p", 20)))
    kinds = {f"{kind}.{side}" for kind in ("demonstrations", "rankings", "prompts") for side in ("train", "eval")}
    assert set(files) == {*kinds, "metrics"}
    told = Path("runs/r/data/manifest.json").read_text() + stage_data.summary(manifest, Run("r"))
    assert "judgement" not in told
    assert published.judgements(Run("r"), "train") == []


@pytest.mark.parametrize("seed", range(4))
def test_the_liked_ones_are_demonstrations_beside_given_ones(stage: Stage, seed: int) -> None:
    """On both sides, however the few given ones fall; what a given one shows already is shown once, and ids tell sources apart."""
    judged = thumbs(30)
    shown = [{"id": f"d{n}", "prompt": f"Show {said('d', n)}", "completion": " so"} for n in range(3)]
    shown += [{"id": "again", **{name: judged[0][name] for name in ("prompt", "completion")}}]
    shown[0]["id"] = "t3"
    _, files = stage(
        source=write("mine.jsonl", judged), demonstrations=write("shown.jsonl", shown), eval_fraction=0.3, seed=seed
    )
    sides = ("train", "eval")
    for side in sides:
        liked = {row["id"] for row in files[f"judgements.{side}"] if row["liked"]}
        names = {row["id"] for row in files[f"demonstrations.{side}"]}
        assert liked - {"t0"} <= names and liked
    names = [row["id"] for side in sides for row in files[f"demonstrations.{side}"]]
    expected = [*(f"t{n}" for n in range(6, 30, 3)), "mine.jsonl: t3", "data.demonstrations: t3", "d1", "d2", "again"]
    assert sorted(names) == sorted(expected)
    assert {row["id"][0] for side in sides for row in files[f"prompts.{side}"]} >= {"d", "t"}


def test_beside_rankings_the_liked_ones_are_the_demonstrations(stage: Stage) -> None:
    """As a source of a mixture, and where demonstrations are asked for."""
    parts = [
        {"source": write("a.jsonl", preferences("p", 30))},
        {"source": write("b.jsonl", thumbs(30)), "tag": "thumbs"},
    ]
    _, files = stage(mixture=parts)
    assert {row["id"][0] for row in files["demonstrations.train"]} == {"t"}
    assert {row["id"][0] for row in files["prompts.train"]} == {"p"}
    assert {row["tag"] for row in files["judgements.train"]} == {"thumbs"}
    _, files = stage(source="a.jsonl", demonstrations="b.jsonl")
    assert {row["id"][0] for row in files["demonstrations.train"]} == {"t"}
    assert len(files["judgements.train"]) + len(files["judgements.eval"]) == 30


def test_those_of_prompts_that_the_gold_model_judges_leave_training(stage: Stage) -> None:
    """Each ranking's prompt is judged too, written with other spaces; the held-out ones and the demonstrations stay."""
    ranked = preferences("p", 40)
    spaced = [row["prompt"].replace(" ", "  ") for row in ranked]
    judged = [row | {"prompt": prompt} for row, prompt in zip(thumbs(40), spaced, strict=True)]
    parts = [{"source": write("a.jsonl", ranked)}, {"source": write("b.jsonl", judged + thumbs(20, first=40))}]
    _, before = stage(mixture=parts, eval_fraction=0.2)
    manifest, files = stage(mixture=parts, eval_fraction=0.2, gold_fraction=0.5)
    prompts = {name: {prompt_key(row["prompt"]) for row in rows} for name, rows in files.items() if name != "metrics"}
    count = len(files["rankings.gold"])
    assert count >= 10 and not prompts["judgements.train"] & prompts["rankings.gold"]
    left = [row for row in before["judgements.train"] if prompt_key(row["prompt"]) not in prompts["rankings.gold"]]
    assert files["judgements.train"] == left and len(left) == len(before["judgements.train"]) - count
    assert manifest.data["counts"]["judgements_with_gold_prompts"] == count
    assert manifest.data["judgements.train"]["rows"] == manifest.metrics["judgements_train"] == len(left)
    assert f"judgements with gold prompts {count}" in stage_data.summary(manifest, Run("r"))
    same = ("judgements.eval", "demonstrations.train", "demonstrations.eval", "prompts.train")
    assert [files[name] for name in same] == [before[name] for name in same]


def test_they_are_not_taken_for_prompts(stage: Stage) -> None:
    with pytest.raises(DataError, match=r"data\.prompts: it holds judgements; give prompts"):
        stage(source=write("a.jsonl", preferences("p", 30)), prompts=write("b.jsonl", thumbs(30)))


def test_only_disliked_ones_leave_the_demonstrations_to_the_rankings(stage: Stage) -> None:
    disliked = [row | {"label": False} for row in thumbs(30)]
    parts = [{"source": write("a.jsonl", preferences("p", 30))}, {"source": write("b.jsonl", disliked)}]
    manifest, files = stage(mixture=parts)
    assert {row["id"][0] for row in files["demonstrations.train"]} == {"p"}
    assert checks(manifest)["liked or disliked completions, the fewer of a side"] == ("warn", 0)


def test_they_are_cleaned_decontaminated_and_weighed_as_other_kinds(stage: Stage) -> None:
    """Two words in a row of a held-out prompt in a disliked completion; a repetition; a weight of half."""
    rows = thumbs(40)
    rows.append(rows[1] | {"id": "again"})
    held = [{"prompt": f"secret {said('s', 0)} words"}]
    rows[4]["completion"] = f" secret {said('s', 0)} words"
    source = write("mine.jsonl", rows)
    manifest, files = stage(
        source=source, eval_prompts=write("held.jsonl", held), clean={"decontaminate": 3}, eval_fraction=0.2
    )
    counts = manifest.data["counts"]
    assert (counts["judgements_duplicates"], counts["judgements_decontaminated"]) == (1, 1)
    assert "t4" not in {row["id"] for row in files["judgements.train"]}
    parts = [{"source": source, "weight": 1.0}, {"source": write("b.jsonl", thumbs(20, first=100)), "weight": 1.0}]
    _, files = stage(mixture=parts)
    sides = [row["tag"] for row in files["judgements.train"]]
    assert sides.count("mine.jsonl") == sides.count("b.jsonl") == 18
