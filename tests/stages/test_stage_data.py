"""Does stage data account for every row, and pass the film reviews through unchanged?"""

from pathlib import Path
from typing import Any

import pytest
from own_rows import KINDS, Stage, checks, ids, preferences, removed, said, write

from data import reviews
from data.refining.clean import Steps
from data.reviews import Review
from data.schema import DataError
from pipeline.artifacts.run import Run
from pipeline.rows import gather
from pipeline.rows.gather import EVAL, TRAIN
from pipeline.settings.config import Clean
from pipeline.stages import data as prepare

# One source


def test_a_source_becomes_three_kinds_on_two_sides(stage: Stage) -> None:
    """A tenth of 30 prompts is held out; the best completions are the demonstrations; no row has a tag."""
    manifest, files = stage(source=write("mine.jsonl", preferences("a", 30)))
    assert {name: len(rows) for name, rows in files.items()} == {
        **{f"{kind}.train": 27 for kind in KINDS},
        **{f"{kind}.eval": 3 for kind in KINDS},
        "metrics": 1,
    }
    assert removed(manifest) == {} and manifest.data["counts"]["read"] == 30
    order = [int(name.split("-")[1]) for name in ids(files["rankings.train"])]
    assert order == sorted(order)  # as they were read
    for side in ("train", "eval"):
        best = [(r["id"], r["prompt"], r["completions"][0]["text"], r["source"]) for r in files[f"rankings.{side}"]]
        assert [tuple(d.values()) for d in files[f"demonstrations.{side}"]] == best
        assert [tuple(p.values()) for p in files[f"prompts.{side}"]] == [(i, p, s) for i, p, _, s in best]
        for kind in KINDS:
            assert manifest.data[f"{kind}.{side}"]["rows"] == len(files[f"{kind}.{side}"])
    assert "mixture" not in manifest.data
    assert checks(manifest)["prompts seen on both sides"] == ("pass", 0)


def test_what_was_understood_is_said_of_every_source(stage: Stage) -> None:
    rows = preferences("a", 12)
    manifest, _ = stage(
        source=write("mine.jsonl", rows),
        demonstrations=write("shown.jsonl", [{"prompt": f"Q{n}", "completion": "A"} for n in range(4)]),
    )
    source, shown = manifest.data["sources"]
    assert source == {
        "setting": "data.source", "source": "mine.jsonl", "format": "preference", "kind": "rankings",
        "polarity": "chosen is better than rejected", "read": 12, "kept": 12, "rejected": {}, "left_out": {}, "unread": {},
    }  # fmt: skip
    assert shown["setting"] == "data.demonstrations"
    assert (shown["format"], shown["kind"]) == ("prompt_completion", "demonstrations")
    text = Path("runs/r/data/samples.md").read_text()
    assert "- mine.jsonl: format preference (rankings); chosen is better than rejected; 12 rows read, 12 kept" in text
    assert "- shown.jsonl: format prompt_completion (demonstrations); 4 rows read, 4 kept" in text
    assert text.count("## Ranking ") == text.count("## Demonstration ") == 3
    best = next(row for row in rows if f"Ranking {row['id']} (" in text)
    assert f'- rank 0: "{best["prompt"]}{best["chosen"]}<|end|>"' in text


def test_rows_left_out_by_design_are_told_by_reason(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_rule.py").write_text("def only_even(row):\n    return row if row['n'] % 2 == 0 else None\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows = [row | {"n": n} for n, row in enumerate(preferences("a", 20))]
    manifest, _ = stage(source=write("mine.jsonl", rows), map="their_rule:only_even")
    reason = "left out by their_rule:only_even"
    assert manifest.data["sources"][0]["left_out"] == {reason: 10}
    assert removed(manifest) == {f"left_out ({reason})": 10}
    line = prepare.summary(manifest, Run("r"))
    _, warned, *_, last = line.splitlines()
    assert warned.startswith("data: warning: training prompts ") and warned.endswith(
        " (at least 1, better 100): add rows"
    )
    assert "; gate warn; next: " in last and "warning" not in last
    assert f"left out ({reason.replace('_', ' ')}) 10" in line and "rejected 0" in line and "too long" not in line


def test_each_cleaning_step_is_a_switch_and_is_counted(stage: Stage) -> None:
    rows = preferences("a", 12)
    rows[0] |= {"chosen": " <b>caf&eacute;</b>"}
    rows[1] |= {"chosen": " schÃ¶n"}
    rows[2] |= {"chosen": " x\x07"}
    rows[3] |= {"chosen": " e\u0301"}
    rows.append(rows[4] | {"id": "again"})
    rows.append(rows[5] | {"id": "nearly", "chosen": rows[5]["chosen"] + "!"})
    source = write("mine.jsonl", rows)
    manifest, files = stage(source=source)
    counts = {"rankings_control_characters": 1, "rankings_nfc": 1, "rankings_duplicates": 1}
    assert removed(manifest) == counts and len(ids(files["rankings.train"] + files["rankings.eval"])) == 13
    assert "rankings duplicates 1" in prepare.summary(manifest, Run("r"))
    everything = Clean(html=True, mojibake=True, near_duplicates=0.6)
    assert removed(stage(source=source, clean=everything)[0]) == counts | {
        "rankings_html": 1,
        "rankings_mojibake": 1,
        "rankings_near_duplicates": 1,
    }
    nothing = Clean(nfc=False, control_characters=False, duplicates=False)
    assert removed(stage(source=source, clean=nothing)[0]) == {}


def test_a_prompt_without_room_stops_the_stage_or_is_set_aside(stage: Stage) -> None:
    """One token a character: 19 and EOS leave no room for one more and EOS in 20; 18 do."""
    rows = preferences("a", 12)
    rows[3]["prompt"], rows[7]["prompt"] = "x" * 19, "y" * 18
    source = write("mine.jsonl", rows)
    with pytest.raises(DataError) as caught:
        stage(source=source, max_length=20)
    assert [(p.line, p.field) for p in caught.value.problems] == [(4, "prompt")]
    assert "19 tokens long" in str(caught.value) and "data.clean.too_long=drop" in str(caught.value)
    for settings in ({"clean": Clean(too_long="drop")}, {"skip_bad": True}):
        manifest, files = stage(source=source, max_length=20, **settings)
        assert removed(manifest) == {"too_long": 1}
        assert "too long 1" in prepare.summary(manifest, Run("r"))
        kept = files["rankings.train"] + files["rankings.eval"]
        assert len(kept) == 11 and "a-7" in ids(kept)
        (reject,) = files["rejects"]
        assert (reject["row"]["id"], reject["file"], reject["line"]) == ("a-3", "mine.jsonl", 4)
        assert "19 tokens long" in reject["reason"]


def test_messages_that_the_template_refuses_are_no_matter_of_length(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import policies.template

    right = policies.template.encode_prompt

    def refusing(tokenizer: Any, prompt: Any) -> list[int]:
        if not isinstance(prompt, str):
            raise ValueError("the tokenizer's chat template refuses the messages")
        return right(tokenizer, prompt)

    monkeypatch.setattr(policies.template, "encode_prompt", refusing)
    rows = preferences("a", 12)
    rows[5] |= {"prompt": [{"role": "user", "content": "Hi"}]}
    rows[5] |= {key: [{"role": "assistant", "content": rows[5][key]}] for key in ("chosen", "rejected")}
    source = write("mine.jsonl", rows)
    for settings in ({}, {"clean": Clean(too_long="drop")}):
        with pytest.raises(DataError, match=r"mine.jsonl:6: prompt: the tokenizer's chat template refuses"):
            stage(source=source, **settings)
    manifest, files = stage(source=source, skip_bad=True)
    assert removed(manifest) == {"refused": 1} and files["rejects"][0]["line"] == 6


def test_completions_that_are_equal_once_cut_are_no_preference(stage: Stage) -> None:
    """Prompt of 13 characters, 20 tokens in all: what follows the seventh character of a completion is not seen."""
    rows = preferences("a", 12)
    rows[2] |= {"chosen": " same as x", "rejected": " same as y"}
    manifest, _ = stage(source=write("mine.jsonl", rows), max_length=20)
    assert removed(manifest) == {"equal_after_truncation": 2, "rankings_equal_after_truncation": 1}
    assert "rankings equal after truncation 1" in prepare.summary(manifest, Run("r"))


# The film reviews


def test_film_reviews_pass_through_unchanged(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reviews.build makes is what is written, though cleaning is on and openings stand on both sides."""
    words = ("The", "A", "So", "But")
    made = [
        Review(str(n), f"{words[n % 4]} film {said('v', n % 100)} {said('w', n)} end", (n % 9 - 4, 1))
        for n in range(120)
    ]
    monkeypatch.setattr(gather, "reviews_archive", lambda: Path("none"))
    monkeypatch.setattr(reviews, "load", lambda archive: made)
    manifest, files = stage(eval_fraction=0.2)
    built = reviews.build(made, max_words=None, eval_fraction=0.2, seed=0)
    for kind in KINDS:
        for side in (TRAIN, EVAL):
            assert files[f"{kind}.{side}"] == [row.to_json() for row in getattr(built, f"{kind}_{side}")]
            assert files[f"{kind}.{side}"]
    assert {row["prompt"] for row in files["rankings.train"]} & {row["prompt"] for row in files["rankings.eval"]}
    assert checks(manifest)["prompts seen on both sides"] == ("pass", 0)
    counts = manifest.data["counts"]
    assert {name: counts[name] for name in built.counts} == built.counts
    assert not any(counts[name] for name in counts if name not in built.counts and not name.endswith(("read", "kept")))
    assert "film_reviews: format film_reviews" in Path("runs/r/data/samples.md").read_text()


def test_a_film_review_on_both_sides_fails_the_gate(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Review(str(n), f"The film {said('v', n)} is {said('w', n)}", (n % 9 - 4,)) for n in range(60)]
    monkeypatch.setattr(gather, "reviews_archive", lambda: Path("none"))
    monkeypatch.setattr(reviews, "load", lambda archive: made)
    right = reviews.split_by

    def leaking(*arguments: Any) -> Any:
        train, held = right(*arguments)
        return [*train, *held[:1]], held

    monkeypatch.setattr(reviews, "split_by", leaking)
    monkeypatch.setattr(prepare, "steps", lambda settings: Steps(duplicates=False))
    manifest, _ = stage()
    assert checks(manifest)["prompts seen on both sides"][0] == "fail"
