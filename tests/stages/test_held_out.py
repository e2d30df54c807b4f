"""Does stage data keep every prompt, and what resembles it, on one side?"""

from typing import Any

import pytest
from own_rows import Stage, checks, ids, preferences, removed, said, write

from data.schema import Demonstration, Prompt
from pipeline.artifacts.run import Run
from pipeline.rows import portions
from pipeline.rows.gather import EVAL, TRAIN, Portion
from pipeline.settings.config import Clean, Data
from pipeline.stages import data as prepare


def test_near_duplicates_of_a_prompt_stand_on_its_side(stage: Stage) -> None:
    """Ten prompts, each in five spellings: a tenth of 50 is five, which is one prompt in all its spellings."""
    texts = [f"{said('p', n)} {said('q', n)} {said('r', n)} {said('s', n)}" for n in range(10)]
    rows = [
        {"id": f"{n}-{end}", "prompt": text + end, "chosen": " yes", "rejected": " no"}
        for n, text in enumerate(texts)
        for end in ("", ".", "!", "?", ":")
    ]
    source = write("mine.jsonl", rows)
    _, files = stage(source=source)
    sides = [{name.split("-")[0] for name in ids(files[f"rankings.{side}"])} for side in ("train", "eval")]
    assert not sides[0] & sides[1] and len(sides[1]) == 1
    exact = stage(source=source, split_similarity=None, clean=Clean(decontaminate=None))[1]
    sides = [{name.split("-")[0] for name in ids(exact[f"rankings.{side}"])} for side in ("train", "eval")]
    assert sides[0] & sides[1]


def test_a_leak_fails_the_gate(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The split is broken on purpose: one held-out row of each portion is trained on as well."""
    right = portions._parted

    def leaking(rows: Any, held_out: Any) -> Any:
        train, held = right(rows, held_out)
        return [*train, *held[:1]], held

    monkeypatch.setattr(portions, "_parted", leaking)
    source = write("mine.jsonl", preferences("a", 30))
    manifest, _ = stage(source=source, clean=Clean(decontaminate=None))
    assert manifest.gate["result"] == "fail"
    assert checks(manifest)["prompts seen on both sides"] == ("fail", 1)
    # Beside given prompts, the leak is among the rankings alone.
    own = write("prompts.jsonl", [{"prompt": f"Ask {said('own', n)}"} for n in range(30)])
    monkeypatch.setattr(
        portions, "_parted", lambda rows, h: (right if isinstance(rows[0], Prompt) else leaking)(rows, h)
    )
    manifest, _ = stage(source=source, prompts=own, clean=Clean(decontaminate=None))
    assert checks(manifest)["prompts seen on both sides"] == ("fail", 1)
    # Decontamination is a second net.
    assert checks(stage(source=source)[0])["prompts seen on both sides"] == ("pass", 0)


def test_training_rows_that_say_an_evaluation_prompt_go(stage: Stage) -> None:
    """Nothing of the split tells that a training row quotes a held-out prompt of 13 words; the words do."""
    long = [" ".join(said(f"w{n}", m) for m in range(13)) for n in range(10)]
    rows = [{"id": str(n), "prompt": text, "chosen": " yes", "rejected": " no"} for n, text in enumerate(long)]
    source = write("mine.jsonl", rows)
    held = ids(stage(source=source)[1]["rankings.eval"])
    assert len(held) == 1
    quote = f" He said: {long[int(held[0])].upper()}!"
    rows.append({"id": "quoting", "prompt": "Go on", "chosen": quote, "rejected": " no"})
    source = write("mine.jsonl", rows)
    manifest, files = stage(source=source)
    assert ids(files["rankings.eval"]) == held
    assert "quoting" not in ids(files["rankings.train"]) + ids(files["demonstrations.train"])
    assert removed(manifest) == {"rankings_decontaminated": 1}
    share = checks(manifest)["share of training rows that repeated held-out prompts"]
    assert share == ("pass", pytest.approx(1 / 10))
    assert "rankings decontaminated 1" in prepare.summary(manifest, Run("r"))
    assert "quoting" in ids(stage(source=source, clean=Clean(decontaminate=None))[1]["rankings.train"])
    many = [{"id": f"q{n}", "prompt": f"Go {n}", "chosen": quote, "rejected": " no"} for n in range(3)]
    manifest, files = stage(source=write("mine.jsonl", [*rows, *many]))
    assert checks(manifest)["share of training rows that repeated held-out prompts"][0] == "warn"


def test_contaminated_rows_go_from_the_portion_that_holds_them() -> None:
    """One in each of two portions, between them the evaluation's own, which stays."""
    shown = [[Demonstration(f"{name}{n}", f"{said(name, n)}", "x", "f:1") for n in range(3)] for name in ("a", "b")]
    asked = [Prompt("e0", shown[0][0].prompt, "f:1"), Prompt("e1", shown[1][1].prompt, "f:1")]
    made, counts = portions.decontaminated(
        [
            Portion("a", "a", "demonstrations", shown[0], TRAIN),
            Portion("e", "e", "prompts", asked, EVAL),
            Portion("b", "b", "demonstrations", shown[1], TRAIN),
        ],
        13,
    )
    assert [[row.id for row in portion.rows] for portion in made] == [["a1", "a2"], ["e0", "e1"], ["b0", "b2"]]
    assert counts == {"demonstrations_decontaminated": 2, "prompts_decontaminated": 0}


def test_evaluation_prompts_of_ones_own_are_the_held_out_ones(stage: Stage) -> None:
    """Prompt 7 is ranked and prompt 8 is among those for training; both are evaluation prompts, one in other words."""
    rows = preferences("a", 30)
    asked = [{"id": f"p{n}", "prompt": row["prompt"]} for n, row in enumerate(preferences("b", 20))]
    evaluation = [{"id": "e0", "prompt": rows[7]["prompt"]}, {"id": "e1", "prompt": asked[8]["prompt"]}]
    evaluation += [{"id": f"e{n}", "prompt": row["prompt"]} for n, row in enumerate(preferences("c", 5), 2)]
    source, prompts = write("mine.jsonl", rows), write("asked.jsonl", asked)
    manifest, files = stage(source=source, eval_prompts=write("eval.jsonl", evaluation))
    assert ids(files["prompts.eval"]) == [row["id"] for row in evaluation]
    assert len(files["rankings.eval"]) == 3 and "a-7" in ids(files["rankings.eval"])
    assert len(files["prompts.train"]) == 27
    assert checks(manifest)["prompts seen on both sides"] == ("pass", 0)
    manifest, files = stage(source=source, prompts=prompts, eval_prompts="eval.jsonl")
    assert ids(files["prompts.eval"]) == [row["id"] for row in evaluation]
    assert ids(files["prompts.train"]) == [row["id"] for n, row in enumerate(asked) if n != 8]
    assert removed(manifest) == {"prompts_duplicates": 1}
    similar = [row | {"prompt": f"{row['prompt']} Now go on and write all that you know of it."} for row in asked]
    close = [{"id": "e", "prompt": similar[8]["prompt"] + "."}]
    manifest, files = stage(
        source=source, prompts=write("asked.jsonl", similar), eval_prompts=write("eval.jsonl", close),
        clean=Clean(decontaminate=None),
    )  # fmt: skip
    assert removed(manifest) == {"prompts_like_evaluation": 1} and "p8" not in ids(files["prompts.train"])


def test_texts_without_prompts_are_split_by_what_they_say() -> None:
    rows = [Demonstration(str(n), "", f"{said('t', n)} {said('u', n)}", f"f:{n}") for n in range(20)]
    made, _ = portions.halved([Portion("t", "t", "demonstrations", rows)], Data(source="t"), 0)
    assert [(portion.side, len(portion.rows)) for portion in made] == [(TRAIN, 18), (EVAL, 2)]
    assert portions.rows_of(portions.completed(made, TRAIN), "prompts", TRAIN) == []  # nothing is asked in them


def test_what_people_called_bad_is_none_to_imitate(stage: Stage) -> None:
    """The order counts, the prompt is asked, but the best of bad answers is no demonstration, and the closing line says how many."""
    rows = [
        {
            "id": str(n),
            "prompt": said("p", n),
            "completions": [f" {said('a', n)}", f" {said('b', n)}"],
            "ranking": [[0], [1]],
            "all_bad": n % 3 == 0,
        }
        for n in range(30)
    ]
    manifest, files = stage(source=write("mine.jsonl", rows), format="ranking")
    for side in ("train", "eval"):
        ranked = files[f"rankings.{side}"]
        bad = {row["id"] for row in ranked if row.get("all_bad")}
        assert ids(files[f"demonstrations.{side}"]) == [name for name in ids(ranked) if name not in bad]
        assert set(ids(files[f"prompts.{side}"])) == set(ids(ranked))
    assert (
        manifest.metrics["rankings_all_bad"]
        == 10
        == 30 - len([*files["demonstrations.train"], *files["demonstrations.eval"]])
    )
    assert "rankings all bad 10" in prepare.summary(manifest, Run("demo"))
