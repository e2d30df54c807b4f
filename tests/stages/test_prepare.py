"""Does stage data keep its promises: every row accounted for, no prompt on both sides, mixtures as asked?"""

import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data import reviews
from data.refining.clean import Steps
from data.reviews import Review
from data.schema import DataError, Demonstration, Problem, Prompt
from pipeline.artifacts.freshness import inputs_of
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.rows import gather, portions
from pipeline.rows.gather import EVAL, TRAIN, Portion, together
from pipeline.settings.config import Clean, Config, Data
from pipeline.stages import data as prepare

KINDS = ("demonstrations", "rankings", "prompts")


def said(kind: str, number: int) -> str:
    """Eight letters that no other (kind, number) has."""
    return "".join(random.Random(f"{kind}{number}").choices(string.ascii_letters, k=8))


def preferences(kind: str, count: int, **more: Any) -> list[dict[str, Any]]:
    """Rows with ids and prompts of their own."""
    texts = [said(kind, n) for n in range(count)]
    return [
        {"id": f"{kind}-{n}", "prompt": f"Say {text}:", "chosen": f" {text}!", "rejected": " no"} | more
        for n, text in enumerate(texts)
    ]


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return name


Made = tuple[Manifest, dict[str, list[dict[str, Any]]]]
Stage = Callable[..., Made]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Stage:
    """Runs stage data in an empty folder, one token a character: stage(source=…) -> manifest, rows by file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "base_model", lambda config: str(tiny_folder))

    def make(seed: int = 0, **settings: Any) -> Made:
        manifest = prepare.run(Config(seed=seed, data=Data(**settings)), Run("r"))
        files = {path.stem: path for path in Path("runs/r/data").glob("*.jsonl")}
        return manifest, {n: [json.loads(line) for line in p.read_text().splitlines()] for n, p in files.items()}

    return make


def checks(manifest: Manifest) -> dict[str, tuple[str, float]]:
    return {check["name"]: (check["result"], check["figure"]) for check in manifest.gate["checks"]}


def removed(manifest: Manifest) -> dict[str, int]:
    """Counts that are not zero and say more than what was read and kept."""
    counts = manifest.data["counts"]
    return {name: count for name, count in counts.items() if count and not name.endswith(("read", "kept"))}


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


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
        "polarity": "chosen is better than rejected", "read": 12, "kept": 12, "rejected": {}, "left_out": {},
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


# What is held out


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


# Several sources


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
    """Of two sources with 30 mistakes and 3, ten of the one and all of the other are shown, twenty counted."""
    many = DataError([Problem("a", n, "x", "it is wrong", "mend it") for n in range(30)], {"x: more": 5})
    few = DataError([Problem("b", n, "y", "it is bad", "mend it") for n in range(3)])
    lines = str(together([many, few])).splitlines()
    assert [line[0] for line in lines[:13]] == ["a"] * 10 + ["b"] * 3
    assert lines[13:] == ["and 25 more:", "  20 × x: it is wrong", "  5 × x: more"]
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
