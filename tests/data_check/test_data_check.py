"""Does data-check say what is in the data, and show strangers' texts as texts?"""

import html.parser
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.__main__ as cli
from data.schema import Completion, Demonstration, Prompt, Ranking
from pipeline.data_check import check as data_check
from pipeline.data_check import figures as data_check_figures
from pipeline.data_check import page as data_check_page
from pipeline.data_check.tally import Tally
from pipeline.settings.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "format", "kind", "read", "kept", "rejected", "errors", "left_out", "polarity", "k", "ties", "annotators",
    "agreement", "lengths", "longer_wins", "duplicates", "near_duplicates", "contradictions", "overlap", "languages",
    "samples",
}  # fmt: skip
PAIRS = [
    {"prompt": "What is two and two?", "chosen": "Four, of course.", "rejected": "Five."},
    {"prompt": "What is two and two?", "chosen": "It is 4.", "rejected": "It is five."},
    {"prompt": "Name a colour of the sky.", "chosen": "Blue.", "rejected": "I would rather not say."},
    {"prompt": "Name a colour of the sky.", "chosen": "Blue.", "rejected": "I would rather not say."},
]
HOSTILE = [
    "<script>alert('x')</script><img src=x onerror=alert(1)>",
    "\u202egnisrever\u202c and \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "👩\u200d👩\u200d👧 family, \x1b[31mred\x1b[0m, \x07bell",
    "long " * 20_000,
    '{{ 7 * 7 }} {% raw %} &lt;b&gt; " onmouseover="x',
]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def checked(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Check rows with the tiny tokenizer, of which a token is a character."""
    monkeypatch.chdir(tmp_path)

    def check(rows: list[Any], *settings: str) -> dict[str, Any]:
        lines(tmp_path / "mine.jsonl", rows)
        return data_check.check(data_check.configured("mine.jsonl", settings), str(tiny_folder))

    return check


def test_the_figures_are_those_of_pencil_and_paper(checked: Callable[..., dict[str, Any]]) -> None:
    """Lengths in characters: prompts 20, 20, 25, 25; completions with EOS 17, 6, 9, 12, 6, 24, 6, 24.

    Sorted 6 6 6 9 12 17 24 24: median 10.5, 95% up to the eighth. The longer one is better in the first pair only.
    At 40 tokens 20 + 24 and 25 + 24 do not fit but 20 + 17 does: two completions lose their end.
    """
    found = checked(PAIRS, "max_length=40")
    assert found.keys() >= KEYS and found["sound"]
    assert (found["format"], found["kind"], found["read"], found["kept"]) == ("preference", "rankings", 4, 4)
    assert "chosen is better" in found["polarity"]
    assert found["k"] == {"2": 4} and found["ties"] == {"rankings": 0, "pairs": 0, "of_pairs": 4}
    lengths = found["lengths"]
    assert (lengths["prompt"]["median"], lengths["prompt"]["p95"], lengths["prompt"]["max"]) == (22.5, 25, 25)
    assert lengths["prompt"]["histogram"] == [[16, 31, 4]]
    assert (lengths["completion"]["median"], lengths["completion"]["p95"]) == (10.5, 24)
    assert lengths["completion"]["histogram"] == [[4, 7, 3], [8, 15, 2], [16, 31, 3]]
    assert (lengths["cut"], lengths["completions"], lengths["no_room"], lengths["refused"]) == (2, 8, 0, 0)
    wins = found["longer_wins"]
    assert (wins["longer"], wins["pairs"], wins["win_rate"]) == (1, 4, 0.25)
    assert found["duplicates"] == {"rows": 1, "of": 4, "prompts": 2, "prompts_again": 2}
    assert found["contradictions"] == {"rejected": 0, "between_annotators": 0}
    assert found["sample"] == {"rows": 4, "of": 4, "seed": 0}
    assert found["samples"][0]["texts"][0] == {
        "what": "rank 0",
        "tokens": 37,
        "text": "What is two and two?Four, of course.<|end|>",
    }


def test_reverse_turns_the_pairs_round(checked: Callable[..., dict[str, Any]]) -> None:
    found = checked(PAIRS, "reverse=true")
    assert found["longer_wins"]["win_rate"] == 0.75 and "reversed by request" in found["polarity"]
    assert found["samples"][0]["texts"][0]["text"] == "What is two and two?Five.<|end|>"


def test_a_prompt_without_room_and_answers_alike_after_the_cut_are_counted(
    checked: Callable[..., dict[str, Any]],
) -> None:
    """max_length 16 leaves a prompt 14, a token and EOS taken off. Beside 12 tokens only "same" is seen of both."""
    rows = [
        {"prompt": "x" * 15, "chosen": "a", "rejected": "b"},
        {"prompt": "y" * 14, "chosen": "a", "rejected": "b"},
        {"prompt": "z" * 12, "chosen": "same, yes", "rejected": "same, no"},
    ]
    lengths = checked(rows, "max_length=16")["lengths"]
    assert (lengths["no_room"], lengths["equal_after_cut"], lengths["cut"]) == (1, 1, 4)


def test_where_nothing_usable_is_left_it_is_not_sound(checked: Callable[..., dict[str, Any]]) -> None:
    """Two ties leave no ranking; of two prompts with room for neither nothing can be trained; one that fits is enough."""
    tie = {"question": "q", "answer_0": "a", "answer_1": "b", "score_0": 0, "score_1": 0}
    found = checked([tie, tie])
    assert (found["kept"], found["left_out"], found["sound"]) == (0, {"tie": 2}, False)
    assert [(error["field"], error["problem"]) for error in found["errors"]] == [
        ("rows", "none is left of 2 (2 × tie)")
    ]
    rows = [{"prompt": letter * 15, "chosen": "a", "rejected": "b"} for letter in "xy"]
    found = checked(rows, "max_length=16")
    assert not found["sound"] and "none of 2 leaves room within max_length 16" in found["errors"][0]["problem"]
    assert "none of 2 leaves room" in data_check_page.text(found)
    assert checked([*rows, {"prompt": "z", "chosen": "a", "rejected": "b"}], "max_length=16")["sound"]


def test_ties_annotators_and_agreement(checked: Callable[..., dict[str, Any]]) -> None:
    """Two people on one item: A: 0 > 1 = 2, B: 0 > 1 > 2: two pairs alike, one tied."""
    row = {"prompt": "Which is best?", "completions": ["one", "two", "three"]}
    rows = [
        row | {"ranking": [[0], [1, 2]], "annotator": "A"},
        row | {"ranking": [[0], [1], [2]], "annotator": "B"},
        {"prompt": "other", "completions": ["y", "z"], "ranking": [[0], [1]]},
    ]
    found = checked(rows)
    assert found["k"] == {"2": 1, "3": 2}
    assert found["ties"] == {"rankings": 1, "pairs": 1, "of_pairs": 7}
    assert found["annotators"]["annotators"] == 2 and found["annotators"]["rows_without"] == 1
    assert found["annotators"]["busiest"] == {"A": 1, "B": 1}
    assert (found["agreement"]["items"], found["agreement"]["pairwise"], found["agreement"]["tied"]) == (1, 1.0, 1)
    told = data_check_page.text(found)
    assert "100.0% of pairs put in the same order, 1 tied ones aside" in told


def test_contradictions_are_rejected_and_counted(checked: Callable[..., dict[str, Any]]) -> None:
    turned = {"prompt": PAIRS[0]["prompt"], "chosen": PAIRS[0]["rejected"], "rejected": PAIRS[0]["chosen"]}
    found = checked([*PAIRS, turned])
    assert not found["sound"] and found["contradictions"]["rejected"] == 1
    assert (found["read"], found["kept"], sum(found["rejected"].values())) == (5, 4, 1)
    assert [error["line"] for error in found["errors"]] == [5]
    assert found["k"] == {"2": 4}


def test_the_same_id_twice_is_no_contradiction(checked: Callable[..., dict[str, Any]]) -> None:
    found = checked([row | {"id": "same"} for row in PAIRS[:2]])
    assert found["contradictions"]["rejected"] == 0 and found["kept"] == 1


def test_near_duplicates_and_languages(checked: Callable[..., dict[str, Any]]) -> None:
    english = "Could you please tell me how the weather is going to be in the mountains tomorrow"
    chinese = "请你告诉我明天山里的天气会怎么样，我们打算一大早就出发去爬山，需要带雨伞吗？"
    rows = [
        {"prompt": f"{english}?", "completion": "Sunny."},
        {"prompt": f"{english}!", "completion": "Sunny."},
        {"prompt": chinese, "completion": "晴。"},
    ]
    found = checked(rows)
    assert found["k"] == {} and found["ties"] is found["agreement"] is found["longer_wins"] is None
    near = found["near_duplicates"]
    assert (near["prompts"]["near"], near["prompts"]["different"], near["prompts"]["largest"]) == (1, 3, 2)
    assert near["examples"] and near["rows"]["near"] == 1
    assert found["languages"]["prompts"] == {"en": 2, "zh": 1}
    assert found["languages"]["completions"] == {"too short to tell": 3}


def test_held_out_prompts_that_training_resembles_are_counted(checked: Callable[..., dict[str, Any]]) -> None:
    """Forty prompts that differ by a digit or two: whatever the split holds out has its like in training, unless it is
    told to keep what is alike together."""
    words = "a question about the colour of the sky on a fine day in the month of may, number"
    rows = [{"prompt": f"{words} {n}?"} for n in range(40)]
    apart = checked(rows, "split_similarity=null", "eval_fraction=0.25")["overlap"]
    assert apart["train_prompts"] + apart["eval_prompts"] == 40 and apart["eval_prompts"] == 10
    assert apart["exact"] == 0 and apart["near"] == 10 and len(apart["examples"]) == 3


def test_rows_beside_the_source_are_checked_too(checked: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    lines(tmp_path / "demos.jsonl", [{"prompt": "Hello?", "completion": "Hi."}, {"prompt": "Hello?"}])
    found = checked(PAIRS, "demonstrations=demos.jsonl")
    assert not found["sound"] and found["rejected"] == {}
    beside = found["beside"]["demonstrations"]
    assert (beside["format"], beside["read"], beside["kept"]) == ("prompt_completion", 2, 1)
    assert found["errors"][0]["file"] == "demos.jsonl" and found["errors"][0]["line"] == 2
    assert found["overlap"]["train_prompts"] + found["overlap"]["eval_prompts"] == 3


def test_rows_of_the_wrong_kind_beside_the_source_are_a_problem(
    checked: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    lines(tmp_path / "demos.jsonl", PAIRS)
    found = checked(PAIRS, "demonstrations=demos.jsonl")
    assert [error["field"] for error in found["errors"]] == ["data.demonstrations"] and not found["sound"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("formt=shp", "did you mean data.format?"),
        ("max_length=short", "max_length"),
        ("columns=[1]", "columns"),
        ("reverse", "not key=value"),
    ],
)
def test_a_wrong_setting_is_told(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        data_check.configured("mine.jsonl", [setting])


def test_settings_are_those_of_the_data_section() -> None:
    config = data_check.configured('my "own".jsonl', ["columns={prompt: question}", "data.max_length=64", "seed=3"])
    assert config.data.source == 'my "own".jsonl' and config.data.columns == {"prompt": "question"}
    assert (config.data.max_length, config.seed) == (64, 3)


# Through the command line


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.app(["data-check", *arguments])
    return int(left.value.code or 0)


def test_sound_data_leave_with_0_and_are_written(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", PAIRS)
    assert call("mine.jsonl", "--model", str(tiny_folder), "--json", "out/a.json", "--page", "out/a.html") == 0
    told = capsys.readouterr()
    assert told.err == ""
    for part in ("preference (rankings)", "chosen is better", "4 read", "<|end|>", "token counts by", "out/a.html"):
        assert part in told.out
    written = json.loads(Path("out/a.json").read_text())
    assert written["kept"] == 4 and written.keys() >= KEYS


def test_bad_rows_leave_with_2_and_everything_is_written_all_the_same(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """30 rows without an answer: 20 sentences, then one line with the count of the rest. skip_bad has no say."""
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", [*PAIRS, *[{"prompt": "x", "chosen": "y", "rejected": ""}] * 30])
    assert call("mine.jsonl", "skip_bad=true", "--model", str(tiny_folder), "--json", "a.json", "--page", "a.html") == 2
    told = capsys.readouterr().out
    assert told.count("mine.jsonl:") == 20 + 3 and "10 × rejected: it is blank" in told
    assert "mine.jsonl:5: rejected: it is blank; " in told
    written = json.loads(Path("a.json").read_text())
    assert written["rejected"] == {"rejected: it is blank": 30} and len(written["errors"]) == 30
    assert written["errors"][0] == {
        "file": "mine.jsonl",
        "line": 5,
        "field": "rejected",
        "problem": "it is blank",
        "fix": "write a text or take the row out",
    }
    assert "it is blank" in Path("a.html").read_text()


def test_without_a_file_it_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pipeline.__main__ import app\n"
        "try: app(['data-check', 'nowhere.jsonl', '--json', 'a.json', '--page', 'a.html'])\n"
        "except SystemExit as left: print(left.code, 'torch' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.endswith("2 False\n"), done.stderr
    assert "nowhere.jsonl: file: there is no such file" in done.stdout
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["read"], written["kept"], written["format"]) == (0, 0, "") and len(written["errors"]) == 1
    assert "no such file" in (tmp_path / "a.html").read_text()


def test_a_model_without_a_tokenizer_is_told_beside_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", PAIRS)
    assert call("mine.jsonl", "--model", "./nowhere", "--page", "a.html") == 2
    told = capsys.readouterr().out
    assert "./nowhere: no tokenizer to be had there" in told and "1 of 4 rows say what a row before says" in told
    assert "no tokenizer" in Path("a.html").read_text()


def test_without_the_embedded_model_the_tokenizer_is_the_tiny_one_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", PAIRS)
    assert call("mine.jsonl") == 0
    told = capsys.readouterr().out
    assert "token counts by tiny-random" in told and "is not in runs/.cache" in told


EXAMPLES = sorted((ROOT / "tests/data/forms/examples").glob("*.json*"))
NEEDED = {"pku_saferlhf": ["axis=safer"]}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_formats_example_is_understood(example: Path, tiny_folder: Path) -> None:
    """Right format, polarity and counts: every row is rejected (none), left out by design, or used."""
    found = data_check.check(data_check.configured(str(example), NEEDED.get(example.stem, [])), str(tiny_folder))
    assert found["format"] == example.stem and found["sound"] and found["kept"] > 0
    assert found["read"] == found["used"] + sum(found["left_out"].values())
    assert found["polarity"] or found["kind"] != "rankings"
    assert bool(found["k"]) == (found["kind"] == "rankings")
    assert sum(found["k"].values()) == (found["kept"] if found["k"] else 0)
    assert data_check_page.text(found) and data_check_page.html(found)


# Hostile texts


class Tags(html.parser.HTMLParser):
    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def hostile(checked: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Each text as prompt, completion and annotator of a sound row, and as role and content of a bad one."""
    sound = [
        {"prompt": text, "completions": [f"{text} yes", "no"], "ranking": [[0], [1]], "annotator": text[:50]}
        for text in HOSTILE
    ]
    bad = [
        {"prompt": [{"role": text[:5000], "content": text}], "completions": ["a", "b"], "ranking": [[0], [1]]}
        for text in HOSTILE
    ]
    return checked([*sound, *bad])


def test_hostile_texts_are_texts_on_the_page(hostile: dict[str, Any]) -> None:
    assert hostile["kept"] == len(HOSTILE) and len(hostile["errors"]) >= len(HOSTILE)
    page = data_check_page.html(hostile)
    assert len(page.encode("utf-8", "replace")) < 1_000_000
    seen = Tags(page)
    assert not seen.tags.keys() & {"script", "img", "link", "iframe", "object", "b"}
    assert not {name for name in seen.attributes if name.startswith("on")} and "href" not in seen.attributes
    shown = "".join(seen.words)
    assert "<script>alert('x')</script>" in shown and "{{ 7 * 7 }}" in shown and "&lt;b&gt;" in shown
    assert "\x1b" not in shown and "\u202e" not in shown and "\\u202e" in shown
    assert "http" not in page.replace("http-equiv", "")


def test_hostile_texts_cannot_steer_the_terminal(hostile: dict[str, Any]) -> None:
    told = data_check_page.text(hostile)
    assert not [c for c in told if c != "\n" and not c.isprintable() and c not in "\u200d\u200c\u3000\xa0"]
    assert "\\u001b[31m" in told and "\\u202e" in told
    assert len(told) < 60_000


def test_what_is_written_is_json_and_utf8_whatever_comes(tmp_path: Path, tiny_folder: Path) -> None:
    found = data_check.configured("x", [])
    result = data_check.check(found, str(tiny_folder)) | {"source": "half a pair \ud800"}
    assert data_check_page.html(result).encode("utf-8", "replace")
    assert json.loads(data_check.to_json(result).encode("utf-8", "backslashreplace"))["source"] == "half a pair \ud800"
    assert "\\ud800" in data_check_page.text(result)


# The tally


def rankings() -> st.SearchStrategy[list[Ranking]]:
    def made(which: list[tuple[int, list[int], str | None]]) -> list[Ranking]:
        rows = []
        for number, (prompt, ranks, who) in enumerate(which):
            completions = tuple(Completion(f"c{n}", f"text {n}") for n in range(len(ranks)))
            tiers = tuple(tuple(f"c{n}" for n, own in enumerate(ranks) if own == rank) for rank in sorted(set(ranks)))
            rows.append(Ranking(f"r{number}", f"prompt {prompt}", completions, tiers, f"f:{number}", who))
        return rows

    one = st.tuples(
        st.integers(0, 3), st.lists(st.integers(0, 2), min_size=2, max_size=4), st.sampled_from([None, "A", "B"])
    )
    return st.lists(one, max_size=12).map(made)


@given(rankings(), st.sets(st.integers(0, 11)))
def test_counts_are_those_of_a_list(rows: list[Ranking], dropped: set[int]) -> None:
    """With some rows dropped at the end, and records written and read in parts of three."""
    import pipeline.data_check.tally as module

    tally = Tally()
    before = module.WAITING, module.CHUNK
    module.WAITING, module.CHUNK = 2, 3
    try:
        for number, row in enumerate(rows):
            tally.take(number, row)
        for number in dropped & set(range(len(rows))):
            tally.drop(number, contradiction=True)
        kept = [row for number, row in enumerate(rows) if number not in dropped]
        assert tally.kept == len(kept) and tally.sample() == kept
        assert tally.contradictions == len(rows) - len(kept)
        assert tally.completions() == Counter(len(row.completions) for row in kept)
        pairs = [[a == b for n, a in enumerate(row.ranks()) for b in row.ranks()[:n]] for row in kept]
        assert tally.ties() == {
            "rankings": sum(any(one) for one in pairs),
            "pairs": sum(map(sum, pairs)),
            "of_pairs": sum(map(len, pairs)),
        }
        said = {(row.prompt, row.annotator, tuple(map(frozenset, row.ranking))) for row in kept}
        assert tally.repeated("said") == len(kept) - len(said)
        assert tally.repeated("prompt") == len(kept) - len({row.prompt for row in kept})
        assert tally.annotators()["busiest"] == Counter(row.annotator for row in kept if row.annotator)
        assert tally.judged() == ([row for row in kept if row.annotator], True)
        assert tally.first() == [row for number, row in enumerate(rows[:30]) if number not in dropped][:3]
    finally:
        module.WAITING, module.CHUNK = before
        tally.close()


def drawn(seed: int, count: int = 60, size: int = 20) -> list[int]:
    tally = Tally(size=size, seed=seed)
    for number in range(count):
        tally.take(number, Prompt(str(number), f"p{number}", f"f:{number}"))
    tally.close()
    return [int(row.id) for row in tally.sample()]


def test_a_sample_is_fair_ordered_and_the_same_for_a_seed() -> None:
    """Each of 60 rows is in a sample of 20 with a chance of 1/3: of 900 samples in 300, standard deviation 14."""
    assert drawn(1) == drawn(1) == sorted(drawn(1)) and len(set(drawn(1))) == 20
    assert drawn(1) != drawn(2)
    counts = Counter(number for seed in range(900) for number in drawn(seed))
    assert len(counts) == 60 and all(230 < count < 370 for count in counts.values())


def test_of_many_items_some_are_kept_with_all_their_rankings() -> None:
    """Of 31 places 30 are filled by ten items; what was left out before must not take the last in part."""
    tally = Tally(size=31, seed=0)
    completions = (Completion("a", "x"), Completion("b", "y"))
    for number in range(300):
        who = f"person {number // 100}"
        tally.take(number, Ranking(str(number), f"p{number % 100}", completions, (("a",), ("b",)), "f:1", who))
    found, complete = tally.judged()
    tally.close()
    assert not complete and len(found) == 30
    assert set(Counter(row.prompt for row in found).values()) == {3}


def test_one_item_ranked_by_everybody_does_not_fill_the_memory() -> None:
    tally = Tally(size=10, seed=0)
    completions = (Completion("a", "x"), Completion("b", "y"))
    for number in range(50):
        tally.take(number, Ranking(str(number), "p", completions, (("a",), ("b",)), "f:1", str(number)))
    found, complete = tally.judged()
    tally.close()
    assert len(found) == 10 and not complete


# Figures


def test_a_distribution_by_hand() -> None:
    """Of 1 to 20 the nineteenth is the smallest that 95% do not exceed."""
    found = data_check_figures.distribution(list(range(20, 0, -1)))
    assert found == {
        "median": 10.5,
        "p95": 19,
        "max": 20,
        "histogram": [[1, 1, 1], [2, 3, 2], [4, 7, 4], [8, 15, 8], [16, 31, 5]],
    }
    assert data_check_figures.distribution([0, 0]) == {"median": 0.0, "p95": 0, "max": 0, "histogram": [[0, 0, 2]]}
    assert data_check_figures.distribution([]) is None


def test_pairs_tied_or_equally_long_do_not_count_as_longer() -> None:
    """Ranks 0 1 1 and lengths 5 5 9: the tied pair is left out, 5 against 5 is equal, the longer 9 loses to 5."""
    completions = tuple(Completion(f"c{n}", "x") for n in range(3))
    row = Ranking("r", "p", completions, (("c0",), ("c1", "c2")), "f:1")
    found = data_check_figures.longer_wins([row], [data_check_figures.Lengths(3, (5, 5, 9), False)])
    assert (found["longer"], found["pairs"], found["equal_length"], found["win_rate"]) == (0, 1, 1, 0.0)


def test_a_text_too_long_to_show_keeps_both_ends() -> None:
    text = "a" * 5000 + "b" * 5000
    shown = data_check_figures.cut(text)
    assert shown.startswith("aaa") and shown.endswith("bbb") and "8,800 characters left out" in shown
    assert data_check_figures.cut("short") == "short"


def test_the_same_data_give_the_same_figures(checked: Callable[..., dict[str, Any]]) -> None:
    random_ = random.Random(5)
    rows = [{"prompt": f"q {random_.random()}", "completion": f"a {random_.random()}"} for _ in range(50)]
    assert checked(rows) == checked(rows)


def test_a_demonstration_and_a_prompt_are_shown_too(tiny_tokenizer: Any) -> None:
    shown = data_check_figures.samples(
        [Demonstration("d", "Hi", " there", "f:1"), Prompt("p", "Hi", "f:2")], tiny_tokenizer
    )
    assert [one["texts"] for one in shown] == [
        [{"what": "demonstration", "tokens": 9, "text": "Hi there<|end|>"}],
        [{"what": "prompt", "tokens": 2, "text": "Hi"}],
    ]
