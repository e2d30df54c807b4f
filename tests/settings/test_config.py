"""Is every mistake in a recipe told at once, where it was made, with its remedy, and is what is right read as it is meant?"""

import re
from pathlib import Path
from typing import Any

import pytest
from recipe_mistakes import told

from pipeline.graph import WALK
from pipeline.settings.config import PPO, Config, ConfigError
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_recipes_parse(path: Path) -> None:
    config = load(path)
    for section in (config.sft, config.reward, config.ppo):
        assert (section.share if isinstance(section, PPO) else section.accumulation)(1) >= 1
    for stage in ("dpo", "rloo", "rft"):
        config.check_stage(stage, 1)
    assert config.ppo.iterations() >= 1


def test_an_empty_recipe_is_the_defaults(recipe: Any) -> None:
    assert load(recipe("")) == Config()
    assert load(recipe("# nothing but a comment\n")) == Config()


@pytest.mark.parametrize("section", [*WALK, "data:\n  reviews", "sft:\n  lora"])
def test_an_empty_section_is_its_defaults(recipe: Any, section: str) -> None:
    """`sft:` with everything below it commented out is null in YAML."""
    assert load(recipe(f"{section}:\n")) == Config()
    assert load(recipe(f"{section}:\n    # a comment\n"), ["seed=0"]) == Config()


def test_null_stays_null_where_a_setting_may_be_null(recipe: Any) -> None:
    assert load(recipe("ppo:\n  missing_eos_score:\n")).ppo.missing_eos_score is None
    assert told(recipe("ppo:\n  gamma:\n")) == ["r.yaml:2: ppo.gamma: takes a number, not None; write gamma: 1.0"]


def test_an_unknown_key_has_its_line_and_a_suggestion(recipe: Any) -> None:
    path = recipe("seed: 1\n\nppo:\n  kl_coeff: 0.1\nsft:\n  batchsize: 8\nlearning_rate: 1\nzzzz: 1\n")
    assert told(path) == [
        "r.yaml:6: sft.batchsize: no such setting; did you mean sft.batch_size?",
        "r.yaml:4: ppo.kl_coeff: no such setting; did you mean ppo.kl_coef?",
        "r.yaml:7: learning_rate: no such setting; did you mean sft.learning_rate?",
        "r.yaml:8: zzzz: no such setting; run: python -m pipeline settings",
    ]


def test_all_mistakes_are_told_together(recipe: Any) -> None:
    """One of each kind: type, range, choice, unknown, twice, across fields, overrides not key=value and unknown."""
    path = recipe(
        "seed: one\ndata:\n  eval_fraction: 2\nsft:\n  tuning: lorra\nsft2: 1\nreward:\n  loss: plackett_luce\n  margin: 1\nseed: 2\n"
    )
    lines = told(path, "ppo", "ppo.gama=1", "seed=x")
    assert [line.split(" ")[0] for line in lines] == [
        "r.yaml:10:",
        "ppo:",
        "ppo.gama=1:",
        "seed=x:",
        "r.yaml:3:",
        "r.yaml:5:",
        "r.yaml:8:",
        "r.yaml:6:",
    ]
    assert lines[0] == "r.yaml:10: seed: given twice; keep one"


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("seed: 1.5", "seed"),
        ("seed: true", "seed"),
        ('seed: "1"', "seed"),
        ("force: 1", "force"),
        ("force: later", "force"),
        ("model: 7", "model"),
        ("data: film_reviews", "data"),
        ("sft: [1]", "sft"),
        ("sft:\n  learning_rate: yes", "sft.learning_rate"),
        ("sft:\n  learning_rate: .inf", "sft.learning_rate"),
        ("ppo:\n  missing_eos_score: .nan", "ppo.missing_eos_score"),
        ("ppo:\n  reward_funcs: reward", "ppo.reward_funcs"),
        ("ppo:\n  reward_weights: [.nan]", "ppo.reward_weights.0"),
        ("ppo:\n  report_to: [excel]", "ppo.report_to.0"),
        ("sft:\n  lora:\n    layers: last 0", "sft.lora.layers"),
        ("sft:\n  lora:\n    layers: first 3", "sft.lora.layers"),
        ("data:\n  source: 2024-01-01", "data.source"),
    ],
)
def test_a_wrong_value_is_refused_not_converted(recipe: Any, text: str, setting: str) -> None:
    lines = told(recipe(text))
    assert len(lines) == 1
    assert re.match(rf"r\.yaml:{len(text.splitlines())}: {re.escape(setting)}: ", lines[0]), lines


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("1E5", 1e5), ("-2e+3", -2e3), (".5", 0.5), ("5.", 5.0), ("1.5e-05", 1.5e-5), ("3", 3.0)],
)
def test_numbers_are_read_as_people_write_them(recipe: Any, written: str, value: float) -> None:
    """YAML 1.1 reads 1e-4 as text."""
    for config in (
        load(recipe(f"ppo:\n  missing_eos_score: {written}")),
        load(recipe(""), [f"ppo.missing_eos_score={written}"]),
    ):
        assert config.ppo.missing_eos_score == value and isinstance(config.ppo.missing_eos_score, float)


def test_text_that_begins_like_a_number_stays_text(recipe: Any) -> None:
    for text in ("1e4x", "e4", "4e", "1.2.3", "+e5"):
        assert load(recipe(f"revision: '{text}'")).revision == text
        assert load(recipe(""), [f"model={text}"]).model == text


@pytest.mark.parametrize(
    ("text", "line"),
    [("seed: 1\nseed: 2", "r.yaml:2: seed: given twice; keep one"),
     ("sft:\n  lora:\n    r: 1\n    r: 1", "r.yaml:4: sft.lora.r: given twice; keep one"),
     ("sft:\n  max_steps: 1\nppo:\nsft:\n  warmup_steps: 1", "r.yaml:4: sft: given twice; keep one")],
)  # fmt: skip
def test_a_key_given_twice_is_refused(recipe: Any, text: str, line: str) -> None:
    assert told(recipe(text)) == [line]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("seed: 1\nmodel: ä".encode("utf-16"), "r.yaml:1: not UTF-8 (byte 0); save it as UTF-8"),
        ("seed: ä".encode("cp1252"), "r.yaml:1: not UTF-8 (byte 6); save it as UTF-8"),
        ("seed: 1\nsft: 2".encode("utf-16-le"), "r.yaml:1: not valid YAML: unacceptable character #x0000"),
        ("seed: 1\nmodel: [a, b\nsft:\n", "r.yaml:3: not valid YAML: "),
        ("seed: 1\n\tmodel: a", "r.yaml:2: not valid YAML: "),
        ("model: {a: b", "r.yaml:1: not valid YAML: "),
        ("seed: 1\n---\nseed: 2", "r.yaml:2: not valid YAML: "),
        ("model: !!python/object/apply:os.system [echo]", "r.yaml:1: the tag 'tag:yaml.org,2002:python/object/apply:os.system' names a type"),
        ("seed: 2024-13-45", "r.yaml:1: a value reads as a date or number and is none"),
        ("- seed: 1", "r.yaml:1: a recipe is a mapping of settings"),
        ("[]", "r.yaml:1: a recipe is a mapping of settings"),
        ("just words", "r.yaml:1: a recipe is a mapping of settings"),
        ("0", "r.yaml:1: a recipe is a mapping of settings"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_told_in_one_sentence(recipe: Any, content: bytes | str, line: str) -> None:
    found = told(recipe(content))
    assert len(found) == 1 and found[0].startswith(line), found


def test_a_byte_order_mark_is_passed_over(recipe: Any) -> None:
    assert load(recipe(b"\xef\xbb\xbfseed: 4\r\nforce: true\r\n")).seed == 4


def test_a_missing_recipe_names_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such recipe; shipped: .*recipes/film_reviews.yaml"):
        load("nowhere.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such recipe; shipped: none here"):
        load(tmp_path)
