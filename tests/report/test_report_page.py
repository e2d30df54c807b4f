"""Is the page whole without a network, small however much there is, and is text on it never markup? And the exports?"""

import base64
import csv
import hashlib
import html.parser
import io
import json
from pathlib import Path
from typing import Any

import pytest
from comparison import Page, Sample, browser, changed, healthy, models, opinions, sample, summarise, written

from pipeline.comparison.pairing import Opinion
from pipeline.report import exports, numbers


@pytest.fixture(scope="module")
def healthy_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str]:
    """The page of a healthy run, and its text."""
    folder = tmp_path_factory.mktemp("healthy")
    return written(healthy(), folder), (folder / "report.html").read_text("utf-8")


POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-"


def test_the_page_asks_nothing_of_the_network(healthy_page: tuple[Page, str]) -> None:
    page, text = healthy_page
    assert not {"link", "img", "iframe", "object", "embed", "video", "audio", "base", "form"} & set(page.tags)
    outside = [v for name, v in page.attributes if name in ("src", "href", "action", "srcset") and v and v[0] != "#"]
    assert outside == []
    assert "url(http" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_the_policy_lets_only_our_script_run(healthy_page: tuple[Page, str]) -> None:
    """The hash is reckoned here from the element's text, as a browser does it (CSP level 3)."""
    text = healthy_page[1]
    script = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"{POLICY}{digest}'" in text
    assert "innerHTML" not in script and "insertAdjacent" not in script and "document.write" not in script


def test_the_verdict_comes_first_and_everything_is_on_the_page(tmp_path: Path) -> None:
    rows = changed(healthy(), "ppo", kl=10.5)
    page, result = written(rows, tmp_path), summarise(rows)
    text = page.text[page.text.index("Is the aligned model better?") :]
    parts = [
        "Yes.",
        "the original",
        result.verdict,
        "Quality: who is preferred?\n",
        "Pairs\n",
        "Price: what did it cost?\n",
    ]
    parts += ["Examples\n", "Figures\n", "Details\n", "Judges\n", "Warnings\n", result.warnings[0]]
    parts += ["Provenance\n", "make compare RUN=x", "hash of sft"]
    places = [text.rindex(part) for part in parts]
    assert places == sorted(places)
    for sign in result.signs:
        assert sign.source in page.text
    # each drawing has its numbers in a table under it
    drawn = page.attributes.count(("class", "drawn"))
    assert drawn >= 3 and page.attributes.count(("class", "numbers")) == drawn
    assert "".join(page.text.split()).count("thenumbers") == drawn


def test_the_optimised_reward_is_never_called_better(tmp_path: Path) -> None:
    """It scores ppo higher on every prompt; only judges say better."""
    rows = [row | {"scores": row["scores"] | {"reward": float(row["model"] == "ppo")}} for row in healthy()]
    assert "scores higher" in written(rows, tmp_path).text


NASTY = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\"'&amp; </section></style> {{ 7*7 }}\u2028"


def test_text_of_models_prompts_names_and_provenance_is_never_markup(tmp_path: Path) -> None:
    """Scripts on the page: two of data, one of ours."""
    rows = [row | {"completion": NASTY, "prompt": NASTY, "tag": NASTY, "source": NASTY} for row in healthy()]
    rows = [row | {"prompt": NASTY, "scores": row["scores"] | {NASTY: 1.0}} for row in rows]
    rows += [row | {"model": NASTY} for row in rows if row["model"] == "ppo"]
    given = models("base", "sft", "ppo", NASTY)
    provenance = {"command": NASTY, NASTY: {"deep": [NASTY]}, "note": NASTY}
    judges = [*opinions(), Opinion(NASTY, "independent")]
    result = numbers.summarise(rows, given, judges, provenance=provenance, problems=[NASTY], draws=10)
    exports.write(result, rows, judges, tmp_path)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.tags.count("script") == 3 and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    # no element can end and no comment begin where there is no <, whatever a browser makes of </script x
    assert "<" not in page.data["browser-data"] + page.data["download-data"]
    assert browser(page)["items"][0][2][0][0] == NASTY and browser(page)["prompts"][0]["text"] == NASTY
    assert json.loads(json.loads(page.data["download-data"])["report.json"]) == result.to_json()
    # a pull request shows it as text, too
    for name in ("report.md", "MODEL_CARD.md"):
        lines = (tmp_path / name).read_text("utf-8").split("\n")
        text = "\n".join(line for line in lines if not line.startswith("    ")).replace("\\<", "")  # code is text
        assert "<script" not in text and "<img" not in text


def test_the_browser_has_all_texts_scores_and_slices(tmp_path: Path) -> None:
    rows = [row | {"tag": "film", "source": "people"} for row in healthy()]
    data = browser(written(rows, tmp_path))
    assert data["models"] == ["base", "sft", "ppo"] and (data["main"], data["reference"]) == ("ppo", "sft")
    assert [(j["name"], j["label"], j["place"]) for j in data["judges"]] == [
        ("vader", "independent", 0),
        ("reward", "optimised", 1),
    ]
    assert data["prompts"][3] == {
        "id": "p03",
        "text": "Opening 3",
        "cut": False,
        "in": ["tag: film", "source: people", "language: Latin script"],
    }
    # text, cut, tokens, ended, scores: ppo's third prompt scores 0.5 and twice that
    assert data["items"][3] == [
        3,
        0,
        [[" base 3", 0, 10, 1, [0.0, 0.0]], [" sft 3", 0, 10, 1, [-0.1, -0.2]], [" ppo 3", 0, 10, 1, [0.5, 1.0]]],
    ]


def test_outcomes_of_a_judge_that_only_compares_reach_the_browser(tmp_path: Path) -> None:
    judges = [*opinions(), Opinion("people", "human", {("ppo", "sft"): {("p01", 0): 1.0, ("p02", 0): 0.5}})]
    rows = healthy()
    exports.write(numbers.summarise(rows, models(), judges, provenance={}, draws=50), rows, judges, tmp_path)
    data = browser(Page((tmp_path / "report.html").read_text("utf-8")))
    (own,) = data["outcomes"]["people"]
    assert own[:2] == ["ppo", "sft"] and own[2][:4] == [None, 1.0, 0.5, None]


def test_chinese_and_broken_unicode_survive(tmp_path: Path) -> None:
    """Half a surrogate pair must reach samples.jsonl as it is, and not break the page."""
    odd = "这部电影很好看。\ud83d\u202e\x00"
    rows = [row | {"prompt": "电影"} for row in changed(healthy(), "ppo", completion=odd)]
    data = browser(written(rows, tmp_path))
    assert data["prompts"][0]["text"] == "电影" and data["items"][0][2][2][0] == odd
    assert "这部电影" in (tmp_path / "samples.jsonl").read_text("utf-8")
    kept = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text("utf-8").split("\n") if line]
    assert kept == rows


@pytest.mark.parametrize(("prompts", "length", "said"), [(40, 20_000, "cut after"), (1000, 300, "cut after 1")])
def test_the_page_stays_below_two_megabytes(tmp_path: Path, prompts: int, length: int, said: str) -> None:
    """Seven models; the worst text: each character takes six bytes once escaped for a script, and is nothing to a zip."""
    names = ("base", "few_shot", "sft", "ppo", "dpo", "rloo", "best_of_16")
    rows = [
        sample(name, i, (i * place) % 7, kl=None, prompt_id=f"p{i:04}", completion="<" * length)
        | {"prompt": "&" * length}
        for place, name in enumerate(names)
        for i in range(prompts)
    ]
    result = numbers.summarise(rows, models(*names), opinions(), provenance={}, draws=2)
    exports.write(result, rows, opinions(), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert said in page.text and "samples.jsonl has everything" in page.text
    assert browser(page)["prompts"][0]["cut"] is True
    if prompts == 1000:
        assert "of 1000 samples of each model are here" in page.text and len(browser(page)["items"]) > 100


def test_a_thousand_samples_of_seven_models_keep_their_texts(tmp_path: Path) -> None:
    """Film reviews are some 80 characters long: all 7,000 fit uncut."""
    names = ("base", "few_shot", "sft", "ppo", "dpo", "rloo", "best_of_16")
    words = "a taut and intelligent film that never quite finds what it was looking for, though"
    rows = [
        sample(name, i, (i * place) % 7 / 3, kl=None, prompt_id=f"p{i:04}", completion=f"{words} {i}")
        for place, name in enumerate(names)
        for i in range(1000)
    ]
    exports.write(
        numbers.summarise(rows, models(*names), opinions(), provenance={}, draws=2), rows, opinions(), tmp_path
    )
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    data = browser(Page((tmp_path / "report.html").read_text("utf-8")))
    assert len(data["items"]) == 1000 and not any(said[1] for item in data["items"] for said in item[2])


def test_a_comparison_without_ppo_still_has_a_page(tmp_path: Path) -> None:
    rows = [row for row in healthy() if row["model"] != "ppo"]
    assert "By vader, sft shows no difference from base" in written(rows, tmp_path).text
    only = [row for row in healthy() if row["model"] == "base"]
    alone = written(only, tmp_path / "alone")
    assert "No verdict" in alone.text and "form no pair" in alone.text
    assert not (tmp_path / "alone" / "comparator.json").exists()


# Exports


def test_the_table_is_one_row_a_pair_and_judge(tmp_path: Path) -> None:
    result = summarise(healthy())
    rows = list(csv.DictReader(io.StringIO(exports.table(result))))
    assert len(rows) == 3 * 2
    assert (rows[0]["pair"], rows[0]["judge"], rows[0]["wins"], rows[0]["win_rate"]) == (
        "ppo vs base",
        "vader",
        "36",
        "0.9",
    )
    assert rows[1]["label"] == "optimised" and rows[0]["reading"] == "better"


def test_a_name_is_no_formula_of_a_spreadsheet() -> None:
    rows: list[Sample] = [row | {"model": "=cmd()"} if row["model"] == "ppo" else row for row in healthy()]
    found = list(csv.DictReader(io.StringIO(exports.table(summarise(rows)))))
    assert found[0]["pair"] == "'=cmd() vs base"


def test_the_summary_for_a_pull_request_is_a_table_of_markdown() -> None:
    text = exports.markdown(summarise(changed(healthy(), "ppo", kl=10.5)))
    assert text.startswith("## Is the aligned model better?")
    assert "- **Warning:** The KL of ppo to sft is 10.5 nats" in text
    assert "| ppo vs base | reward (optimised) | 90.0% |" in text
    assert "few\\_shot" in exports.markdown(summarise(healthy() + [sample("few_shot", i, 0.0) for i in range(40)]))
    header, rule = [line for line in text.splitlines() if line.startswith(("| model", "|---"))][:2]
    assert header.count("|") == rule.count("|")


def test_the_card_is_one_of_hugging_face(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    written(healthy(), tmp_path)
    card = ModelCard.load(tmp_path / "MODEL_CARD.md")
    assert "# ppo: aligned with rankings\n" in card.text and "    make compare RUN=x\n" in card.text
    unaligned = exports.card(summarise([row for row in healthy() if row["model"] != "ppo"]))
    assert "# sft\n" in unaligned and "aligned with" not in unaligned
    assert card.data.library_name == "transformers" and "ppo" in card.data.tags
    assert "hash of ppo" in card.text and "is better than" in card.text and "| ppo vs sft |" in card.text


def test_comparator_has_the_fields_of_pair_s_format() -> None:
    """As its README lists them: github.com/PAIR-code/llm-comparator. Scores run from -1.5 to 1.5; ppo loses on p00."""
    rows = [row | {"tag": "film"} for row in healthy()]
    found: Any = exports.comparator(summarise(rows), rows, opinions())
    assert set(found) == {"metadata", "models", "examples"}
    assert [model["name"] for model in found["models"]] == ["ppo", "sft"]
    schema = {field["name"]: field["type"] for field in found["metadata"]["custom_fields_schema"]}
    assert set(schema.values()) <= {
        "number", "category", "text", "string", "per_model_boolean", "per_model_number", "per_model_category",
    }  # fmt: skip
    first = found["examples"][0]
    assert set(first) == {
        "input_text", "tags", "output_text_a", "output_text_b", "score", "individual_rater_scores", "custom_fields",
    }  # fmt: skip
    assert (first["input_text"], first["output_text_a"], first["tags"]) == ("Opening 0", " ppo 0", ["film"])
    assert [one["score"] for one in found["examples"][:2]] == [-1.5, 1.5]
    assert all(set(one["custom_fields"]) == set(schema) for one in found["examples"])
    assert len(first["custom_fields"]["tokens"]) == 2


def test_pages_are_read_as_a_browser_reads_them() -> None:
    """The checks above hang on this: a script that closes early would be seen as another element."""
    page = Page('<script type="application/json" id="x">"</script><img src=y>"</script>')
    assert "img" in page.tags and isinstance(page, html.parser.HTMLParser)
