"""Are people's votes counted as they were cast, is a ballot blind, and is every mistake told with its line?"""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.schema import DataError
from pipeline.judges import votes
from pipeline.judges.judge import JudgeError
from pipeline.judges.votes import Vote

NAN = float("nan")


def sample(prompt_id: str, model: str, completion: str, seed: int = 0, prompt: str | None = None) -> dict[str, Any]:
    shown = f"prompt {prompt_id}" if prompt is None else prompt
    return {"prompt_id": prompt_id, "prompt": shown, "model": model, "seed": seed, "completion": completion}


SAMPLES = [sample(p, model, f"{model} says {p}") for p in ("p1", "p2", "p3") for model in ("sft", "ppo", "base")]


def write(folder: Path, *rows: dict[str, Any], name: str = "votes.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vote(prompt_id: str, winner: str, a: str = "ppo", b: str = "sft", **more: Any) -> dict[str, Any]:
    return {"prompt_id": prompt_id, "a": a, "b": b, "winner": winner, **more}


def problems(path: Path, samples: list[dict[str, Any]] = SAMPLES) -> list[str]:
    with pytest.raises(DataError) as error:
        votes.read([path], samples)
    return [str(problem).replace(f"{path.parent}/", "") for problem in error.value.problems]


def outcomes(paths: list[Path], samples: list[dict[str, Any]], a: str, b: str, ids: tuple[str, ...]) -> list[float]:
    judge = votes.load(paths, samples)
    assert (judge.name, judge.label, judge.scores) == ("people", "human", None)
    texts = {(row["prompt_id"], row["model"]): row["completion"] for row in samples}
    prompts = [f"prompt {one}" for one in ids]
    found = judge.outcomes(prompts, [texts[one, a] for one in ids], [texts[one, b] for one in ids])
    assert found.dtype == np.float64
    return found.tolist()


def test_votes_are_averaged_by_pair(tmp_path: Path) -> None:
    """p1: two for ppo, one against, one tie: 2.5 / 4. p2: sft named first and it wins. p3: nobody."""
    path = write(
        tmp_path,
        vote("p1", "a"),
        vote("p1", "b", a="sft", b="ppo"),
        vote("p1", "b"),
        vote("p1", "tie", annotator="ann"),
        vote("p2", "A ", a="sft", b="ppo"),
    )
    assert outcomes([path], SAMPLES, "ppo", "sft", ("p1", "p2")) == [0.625, 0.0]
    assert outcomes([path], SAMPLES, "sft", "ppo", ("p1", "p2")) == [0.375, 1.0]
    assert np.isnan(outcomes([path], SAMPLES, "ppo", "sft", ("p3",)))
    assert np.isnan(outcomes([path], SAMPLES, "ppo", "base", ("p1",)))
    assert votes.load([path], SAMPLES).summary() == {"votes": 5, "annotators": 1, "pairs": 2}


def test_a_pair_is_known_by_its_texts(tmp_path: Path) -> None:
    """base wrote what sft did, so a vote on ppo against sft says the same of base; equal texts can only tie."""
    samples = [sample("p1", "ppo", "x"), sample("p1", "sft", "y"), sample("p1", "base", "y")]
    path = write(tmp_path, vote("p1", "a"), vote("p1", "a", a="base", b="sft"))
    assert outcomes([path], samples, "ppo", "base", ("p1",)) == [1.0]
    assert outcomes([path], samples, "sft", "base", ("p1",)) == [0.5]


def test_messages_are_known_by_the_text_they_show(tmp_path: Path) -> None:
    samples = [sample("p1", model, model, prompt="user: Why?") for model in ("ppo", "sft")]
    judge = votes.load([write(tmp_path, vote("p1", "a"))], samples)
    assert judge.outcomes([[{"role": "user", "content": "Why?"}]], ["ppo"], ["sft"]).tolist() == [1.0]


def test_csv_arrays_and_several_files_are_read_alike(tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text("\ufeffprompt_id,a,b,winner,annotator,seed\r\np1,ppo,sft,a,ann,0\r\np2,ppo,sft,tie,,\r\n")
    array = tmp_path / "two.json"
    array.write_text(json.dumps([vote("p3", "b", annotator=None, seed=0, comment="dull")]))
    assert votes.read([table, array], SAMPLES) == [
        Vote("p1", 0, "ppo", "sft", 1.0, "ann"),
        Vote("p2", 0, "ppo", "sft", 0.5),
        Vote("p3", 0, "ppo", "sft", 0.0),
    ]


def test_a_vote_is_on_the_first_sample_unless_it_says_which(tmp_path: Path) -> None:
    samples = [sample("p1", model, f"{model}{n}", seed=n) for model in ("ppo", "sft") for n in (2, 5)]
    found = votes.read([write(tmp_path, vote("p1", "a"), vote("p1", "b", seed=5), vote("p1", "b", seed="5"))], samples)
    assert [(one.seed, one.outcome) for one in found] == [(2, 1.0), (5, 0.0), (5, 0.0)]
    judge = votes.judge(found, samples)
    assert judge.outcomes(["prompt p1"] * 2, ["ppo2", "ppo5"], ["sft2", "sft5"]).tolist() == [1.0, 0.0]


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    good = vote("p1", "a", annotator="ann")
    path = write(
        tmp_path,
        good,
        vote("p9", "a"),
        vote("p1", "a", a="pppo"),
        vote("p1", "tie", b="ppo"),
        vote("p2", "left"),
        vote("p2", "sft"),
        vote("p2", ""),
        {"prompt_id": "p2", "a": "ppo", "b": "sft"},
        vote("p2", "a", anotator="ann"),
        vote("p2", "a", seed=7),
        vote("p2", "a", seed="x"),
        vote("p2", "a") | {"prompt_id": 2},
        vote("p1", "b", a="sft", b="ppo", annotator="ann"),
    )
    with path.open("a") as file:
        file.write("{broken\n")
    assert problems(path) == [
        'votes.jsonl:2: prompt_id: no prompt "p9" was sampled; there are p1, p2, p3',
        'votes.jsonl:3: a: no model "pppo" was sampled; did you mean "ppo"?',
        'votes.jsonl:4: b: "ppo" is compared with itself; name two models',
        'votes.jsonl:5: winner: "left" is no winner; write "a", "b" or "tie"',
        'votes.jsonl:6: winner: "sft" is no winner; write "b" for it',
        'votes.jsonl:7: winner: it is empty; write "a", "b" or "tie", or take the row out',
        "votes.jsonl:8: winner: it is missing; give every row the fields prompt_id, a, b, winner",
        'votes.jsonl:9: anotator: there is no such field; did you mean "annotator"?',
        "votes.jsonl:10: seed: the prompt has no sample with seed 7; it has 0",
        "votes.jsonl:11: seed: it is not a whole number; give the seed as samples.jsonl has it",
        'votes.jsonl:12: prompt_id: it is not a text; put it in "quotes"',
        f'votes.jsonl:13: annotator: "ann" votes on this pair again, first at {path}:1; keep one of the two'.replace(
            f"{path.parent}/", ""
        ),
        "votes.jsonl:14: line: not JSON at column 2; mend it (Expecting property name enclosed in double quotes)",
    ]


def test_mistakes_of_several_files_come_together(tmp_path: Path) -> None:
    one, two = write(tmp_path, vote("p9", "a")), write(tmp_path, vote("p1", "x"), name="more.jsonl")
    with pytest.raises(DataError) as error:
        votes.read([one, two], SAMPLES)
    assert [(Path(p.file).name, p.field) for p in error.value.problems] == [
        ("votes.jsonl", "prompt_id"),
        ("more.jsonl", "winner"),
    ]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.csv: file: there is no such file"):
        votes.read([tmp_path / "none.csv"], SAMPLES)


# Ballots


def form_rows(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.splitlines()]


def fill(path: Path, choose: Any, to: Path | None = None) -> Path:
    """Somebody fills in the form: `choose(row)` gives what they write into it."""
    rows = [row | choose(row) for row in form_rows(path)]
    to = to or path
    if to.suffix == ".csv":
        with to.open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        to.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return to


def prefer(word: str) -> Any:
    return lambda row: {"winner": "A" if word in row["A"] else "B"}


MANY = [sample(f"p{n}", model, f"{word} {n}") for n in range(40) for model, word in (("ppo", "cats"), ("sft", "dogs"))]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_ballot_comes_back_as_votes(tmp_path: Path, ending: str) -> None:
    """Whoever prefers cats votes for ppo, wherever it stood; p3 was left blank, p4 is a tie."""
    ballot = votes.write_ballot(MANY, "ppo", "sft", tmp_path / f"form{ending}", seed=3)
    assert (ballot.items, ballot.identical) == (40, 0)
    odd = {"prompt p3": {"winner": " "}, "prompt p4": {"winner": "Tie", "comment": "hm"}}
    filled = fill(ballot.form, lambda row: {"comment": ""} | odd.get(row["prompt"], prefer("cats")(row)))
    found = outcomes([filled], MANY, "ppo", "sft", tuple(f"p{n}" for n in range(40)))
    assert np.isnan(found[3]) and found[4] == 0.5
    assert found[:3] + found[5:] == [1.0] * 38


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_form_says_nothing_of_the_models(tmp_path: Path, ending: str) -> None:
    ballot = votes.write_ballot(MANY, "ppo", "sft", tmp_path / f"form{ending}", seed=3)
    text = ballot.form.read_text(encoding="utf-8")
    assert "ppo" not in text and "sft" not in text and '"p1"' not in text
    rows = form_rows(ballot.form)
    assert [row["item"] for row in rows] == [str(n + 1) for n in range(40)]
    first = sum("cats" in row["A"] for row in rows)
    assert 10 <= first <= 30
    shown = [row["prompt"] for row in rows]
    assert shown not in ([f"prompt p{n}" for n in range(40)], sorted(shown))
    assert json.loads(ballot.key.read_text())["models"] == ["ppo", "sft"]


def test_a_ballot_hangs_on_its_seed_alone(tmp_path: Path) -> None:
    forms = [
        votes.write_ballot(samples, "ppo", "sft", tmp_path / f"{n}.csv", seed).form.read_bytes()
        for n, (samples, seed) in enumerate([(MANY, 3), (MANY[::-1], 3), (MANY, 4)])
    ]
    assert forms[0] == forms[1] != forms[2]


def test_several_people_fill_in_copies(tmp_path: Path) -> None:
    """ann prefers cats, ben dogs and cyd cats: ppo has two of three votes on every prompt."""
    ballot = votes.write_ballot(MANY, "ppo", "sft", tmp_path / "form.csv", seed=3)
    (tmp_path / "for.key.json").write_text("a key whose name fits too, but less")
    copies = [
        fill(ballot.form, prefer(word), tmp_path / f"form_{name}")
        for name, word in (("ann.csv", "cats"), ("ben.jsonl", "dogs"), ("cyd.csv", "cats"))
    ]
    assert outcomes(copies, MANY, "ppo", "sft", ("p0", "p39")) == [pytest.approx(2 / 3)] * 2
    assert votes.load(copies, MANY).summary() == {"votes": 120, "annotators": 0, "pairs": 40}


def test_pasted_forms_need_names(tmp_path: Path) -> None:
    ballot = votes.write_ballot(MANY[:2], "ppo", "sft", tmp_path / "form.jsonl", seed=3)
    row = form_rows(ballot.form)[0] | {"winner": "A"}
    path = write(tmp_path, row, row | {"annotator": "ann"}, row | {"annotator": "ben"}, name="form.jsonl")
    assert len(votes.read([path], MANY)) == 3
    path = write(tmp_path, row, row, row | {"annotator": "ann"}, row | {"annotator": "ann"}, name="form.jsonl")
    assert problems(path, MANY) == [
        'form.jsonl:2: item: item "1" stands here again, first on line 1; keep one, or name the annotators',
        f'form.jsonl:4: annotator: "ann" votes on this pair again, first at {path}:3; keep one of the two'.replace(
            f"{path.parent}/", ""
        ),
    ]


def test_equal_completions_need_nobody(tmp_path: Path) -> None:
    samples = [*MANY[:2], sample("same", "ppo", "x"), sample("same", "sft", "x")]
    ballot = votes.write_ballot(samples, "ppo", "sft", tmp_path / "form.csv", seed=0)
    assert (ballot.items, ballot.identical, len(form_rows(ballot.form))) == (1, 1, 1)
    with pytest.raises(JudgeError, match="wrote the same for every prompt"):
        votes.write_ballot(samples[2:], "ppo", "sft", tmp_path / "other.csv", seed=0)


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@pytest.mark.parametrize(
    "text",
    ['=LINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", " =1", '["a"]', '{"a": "b"}', 'a "b", c\nd']
    + ["\r\n", "nul\0", "half \ud800", "", "é 汉"],
)
def test_any_text_goes_through_a_form_and_is_no_formula(tmp_path: Path, ending: str, text: str) -> None:
    samples = [sample("p1", "ppo", text, prompt=text), sample("p1", "sft", "other", prompt=text)]
    ballot = votes.write_ballot(samples, "ppo", "sft", tmp_path / f"form{ending}", seed=0)
    if ending == ".csv":
        cells = [cell for row in form_rows(ballot.form) for cell in row.values()]
        assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in cells)
    filled = fill(ballot.form, prefer("other"))
    assert votes.load([filled], samples).outcomes([text], ["other"], [text]).tolist() == [1.0]


def test_a_form_is_never_written_over(tmp_path: Path) -> None:
    ballot = votes.write_ballot(MANY, "ppo", "sft", tmp_path / "new" / "form.csv", seed=3)
    ballot.form.write_text("filled in with care")
    with pytest.raises(JudgeError, match="is there already and may hold votes"):
        votes.write_ballot(MANY, "ppo", "sft", ballot.form, seed=3)
    ballot.form.unlink()
    with pytest.raises(JudgeError, match="form.key.json is there already"):
        votes.write_ballot(MANY, "ppo", "sft", ballot.form, seed=3)


@pytest.mark.parametrize(
    ("samples", "b", "name", "said"),
    [
        (MANY, "stf", "form.csv", "no samples of model 'stf'; did you mean \"sft\""),
        (MANY, "sft", "form.xlsx", "must end in .csv or .jsonl"),
        (MANY[:-1], "sft", "form.csv", r"not sampled alike: only one has prompt, seed \('p39', 0\)"),
    ],
)
def test_a_ballot_that_cannot_be_is_one_sentence(
    tmp_path: Path, samples: list[dict[str, Any]], b: str, name: str, said: str
) -> None:
    with pytest.raises(JudgeError, match=said):
        votes.write_ballot(samples, "ppo", b, tmp_path / name, seed=0)
    assert not list(tmp_path.iterdir())


def test_mistakes_in_a_form_are_told_together(tmp_path: Path) -> None:
    ballot = votes.write_ballot(MANY[:6], "ppo", "sft", tmp_path / "form.jsonl", seed=3)
    one, two, three = form_rows(ballot.form)
    path = write(
        tmp_path,
        one | {"winner": "left"},
        two | {"winner": "A", "item": "9"},
        {name: value for name, value in two.items() if name != "winner"},
        three | {"winner": 1},
        three | {"winner": "B", "annotater": "x"},
        name="form.jsonl",
    )
    assert problems(path, MANY) == [
        'form.jsonl:1: winner: "left" is no winner; write A, B or tie',
        'form.jsonl:2: item: there is no item "9" in form.key.json; leave the column item as it was',
        "form.jsonl:3: winner: it is missing; give every row the fields item, winner",
        'form.jsonl:4: winner: it is not a text; put it in "quotes"',
        'form.jsonl:5: annotater: there is no such field; did you mean "annotator"?',
    ]


def test_votes_on_other_texts_are_refused(tmp_path: Path) -> None:
    """The models were sampled anew after the form was written: its votes say nothing of the new texts."""
    ballot = votes.write_ballot(MANY, "ppo", "sft", tmp_path / "form.csv", seed=3)
    filled = fill(ballot.form, prefer("cats"))
    samples = [
        row | {"completion": "new"} if row["prompt_id"] == "p7" and row["model"] == "sft" else row for row in MANY
    ]
    (problem,) = problems(filled, samples)
    assert "item: the models have written other texts since" in problem
    (problem,) = problems(filled, [row for row in MANY if row["prompt_id"] != "p7"])
    assert "item: the models have written other texts since" in problem


@pytest.mark.parametrize(
    "content", ["nonsense", "[]", "{}", '{"items": []}', '{"items": {"1": {}}}', '{"items": {"1": 7}}']
)
def test_a_damaged_key_is_told(tmp_path: Path, content: str) -> None:
    ballot = votes.write_ballot(MANY, "ppo", "sft", tmp_path / "form.csv", seed=3)
    ballot.key.write_text(content)
    assert problems(ballot.form, MANY) == [
        "form.key.json: key: it is not the key of a ballot; copy it again; without it the votes have no models"
    ]
