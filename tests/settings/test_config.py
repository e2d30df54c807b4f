"""Is every mistake in a recipe told at once, where it was made, with its remedy, and is what is right read as it is meant?"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipeline.graph import WALK
from pipeline.settings.config import PPO, SFT, Config, ConfigError, Reward
from pipeline.settings.recipe import fields, load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Writes a recipe: recipe("seed: 1") -> its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "r.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def told(path: Path, *overrides: str) -> list[str]:
    """The lines of the ConfigError, the recipe's folder cut from each."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


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
    assert told(recipe("ppo:\n  gamma:\n")) == ["r.yaml:2: ppo.gamma: Input should be a valid number, not None"]


def test_an_unknown_key_has_its_line_and_a_suggestion(recipe: Any) -> None:
    path = recipe("seed: 1\n\nppo:\n  kl_coeff: 0.1\nsft:\n  batchsize: 8\nlearning_rate: 1\nzzzz: 1\n")
    assert told(path) == [
        "r.yaml:6: sft.batchsize: no such setting; did you mean sft.batch_size?",
        "r.yaml:4: ppo.kl_coeff: no such setting; did you mean ppo.kl_coef?",
        "r.yaml:7: learning_rate: no such setting; did you mean sft.learning_rate?",
        "r.yaml:8: zzzz: no such setting; python -m pipeline settings lists all",
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


def test_overrides_replace_the_recipe(recipe: Any) -> None:
    path = recipe("model: a\nsft:\n  lora:\n    r: 4\nppo:\n")
    config = load(
        path,
        ["model=org/name@x=y", "sft.lora.r=8", "sft.lora.lora_alpha=9", "ppo.reward_funcs=[reward, m:f]", "force=true"],
    )
    assert config.model == "org/name@x=y"  # only the first = parts key from value
    assert (config.sft.lora.r, config.sft.lora.lora_alpha) == (8, 9)
    assert config.ppo.reward_funcs == ["reward", "m:f"] and config.force is True
    assert load(path, ["seed=1", "seed=2"]).seed == 2
    assert load(path, ["sft={max_steps: 3}"]).sft == SFT(max_steps=3)
    assert load(path, ["data.source=[broken.jsonl"]).data.source == "[broken.jsonl"
    assert load(path, ["data.source=2024-13-45"]).data.source == "2024-13-45"


@pytest.mark.parametrize("override", ["ppo", "", "=1", "seed", "--force"])
def test_an_override_without_key_or_value_is_told(recipe: Any, override: str) -> None:
    assert told(recipe(""), override) == [f"{override}: not key=value; write for instance ppo.kl_coef=0.1"]


@pytest.mark.parametrize(
    ("override", "rest"),
    [
        ("ppo.kl_coeff=1", "ppo.kl_coeff: no such setting; did you mean ppo.kl_coef?"),
        ("ppo.torch_compile=1", "ppo.torch_compile: no such setting; python -m pipeline settings lists all"),
        ("seed.x=1", "seed.x: no such setting; "),
        ("ppo.=1", "ppo.: no such setting; "),
        ("seed=abc", "seed: Input should be a valid integer, not 'abc'"),
        ("ppo={kl_coef: -1}", "ppo.kl_coef: Input should be greater than or equal to 0, not -1"),
        ("ppo=3", "ppo: Input should be a valid dictionary"),
        ("ppo.batch_size=48", "ppo: total_episodes: 2048 is no multiple of batch_size 48"),
        ("compare.judges=[reward]", "compare.judges: reward is what ppo.reward_funcs maximises"),
    ],
)
def test_a_wrong_override_is_named_itself(recipe: Any, override: str, rest: str) -> None:
    """Also where the recipe sets the same thing on some line, and where the mistake shows only across fields."""
    for text in ("", "seed: 3\nppo:\n  kl_coef: 0.1\n"):
        lines = told(recipe(text), override)
        assert len(lines) == 1 and lines[0].startswith(f"{override}: {rest}"), lines


def test_an_override_below_a_wrong_section_leaves_the_mistake_visible(recipe: Any) -> None:
    assert told(recipe("seed: 1\nppo: 5"), "ppo.gamma=1")[0].startswith("r.yaml:2: ppo: Input should be a valid dict")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("reward:\n  loss: plackett_luce\n  label_smoothing: 0.1",
         ["r.yaml:2: reward: label_smoothing and margin belong to loss k_wise"]),
        ("ppo:\n  reward_weights: [1, 2]", ["r.yaml:2: ppo: reward_weights: 2 for 1 reward_funcs"]),
        ("ppo:\n  reward_funcs: [m:f, m:f]", ["r.yaml:2: ppo: reward_funcs: ['m:f', 'm:f'] names one twice"]),
        ("ppo:\n  missing_eos_penalty: 1.0", ["r.yaml:2: ppo: missing_eos_penalty and missing_eos_score exclude"]),
        ("ppo:\n  num_mini_batches: 3", ["r.yaml:2: ppo: batch_size: 64 is no multiple of num_mini_batches 3"]),
        ("ppo:\n  value: shared\n  total_episodes: 100", ["r.yaml:3: ppo: total_episodes: 100 is no multiple of"]),
        ("ppo:\n  num_mini_batches: 5\n  total_episodes: 100",
         ["r.yaml:2: ppo: batch_size: 64 is no multiple", "r.yaml:3: ppo: total_episodes: 100 is no multiple"]),
        ("ppo:\n  reward_funcs: [vader]", ["r.yaml:2: compare.judges: vader is what ppo.reward_funcs maximises"]),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(recipe: Any, text: str, lines: list[str]) -> None:
    found = told(recipe(text))
    assert len(found) == len(lines)
    for got, wanted in zip(found, lines, strict=True):
        assert got.startswith(wanted)


MIXTURE = (
    "data:\n  mixture:\n    - {source: a.jsonl, weight: 2}\n    - source: b.jsonl\n      tag: code\n      weight: 1\n"
)


def test_a_mixture_is_a_list_of_sources(recipe: Any) -> None:
    data = load(recipe(MIXTURE)).data
    assert [(part.source, part.tag, part.weight, part.name) for part in data.parts()] == [
        ("a.jsonl", None, 2.0, "a.jsonl"),
        ("b.jsonl", "code", 1.0, "code: b.jsonl"),
    ]
    assert [part.task for part in data.parts()] == ["a.jsonl", "code"]
    more = load(recipe(MIXTURE), ["data.prompts=p.jsonl", "data.eval_prompts=e.jsonl"]).data
    assert more.sources() == ["a.jsonl", "b.jsonl", "p.jsonl", "e.jsonl"]
    assert not data.embedded() and Config().data.embedded()
    assert load(recipe(MIXTURE)).judges() == [] != Config().judges()


def test_one_source_is_a_mixture_of_one(recipe: Any) -> None:
    data = load(recipe("data:\n  source: a.csv\n  columns: {prompt: q}\n  reverse: true\n  max_rows: 5")).data
    (part,) = data.parts()
    assert (part.source, part.columns, part.reverse, part.max_rows) == ("a.csv", {"prompt": "q"}, True, 5)
    assert (part.tag, part.weight, part.task, part.name) == (None, None, "a.csv", "a.csv")


@pytest.mark.parametrize(
    ("text", "overrides", "lines"),
    [
        (MIXTURE, ["data.source=x.jsonl"], ["data.source=x.jsonl: data: mixture: it stands beside source; keep"]),
        (MIXTURE.replace("      weight: 1\n", ""), [], ["r.yaml:2: data: mixture: some sources have a weight"]),
        (MIXTURE.replace("a.jsonl", "film_reviews"), [], ["r.yaml:2: data: mixture: film_reviews cannot be mixed"]),
        (MIXTURE.replace("      tag: code\n", "").replace("b.", "a."), [],
         ['r.yaml:2: data: mixture: "a.jsonl" stands twice; keep one, or give each its own tag']),
        (MIXTURE + "  format: preference\n  max_rows: 3\n", [],
         ["r.yaml:7: data: format: it belongs to a single source; write it below each of them",
          "r.yaml:8: data: max_rows: it belongs to a single source; write it below each of them"]),
        (MIXTURE.replace("weight: 1", "wieght: 1"), [], ["r.yaml:6: data.mixture.1.wieght: no such setting"]),
        (MIXTURE.replace("weight: 1", "weight: 0"), [], ["r.yaml:6: data.mixture.1.weight: Input should be greater"]),
        (MIXTURE.replace("tag: code", "tag: ' '"), [], ["r.yaml:5: data.mixture.1.tag: "]),
        ("data:\n  mixture:\n    - tag: code", [], ["r.yaml:3: data.mixture.0.source: Field required"]),
        ("data:\n  demonstrations: d.jsonl\n  axis: safer", [],
         ["r.yaml:3: data: axis: film_reviews has no use for it; leave it out",
          "r.yaml:2: data: demonstrations: film_reviews has no use for it; leave it out"]),
        ("seed: 1", ["data.eval_prompts=e.jsonl"],
         ["data.eval_prompts=e.jsonl: data: eval_prompts: film_reviews has no use for it; leave it out"]),
        ("data:\n  clean:\n    near_duplicates: 1.5\n    decontaminate: 0\n    too_long: cut", [],
         ["r.yaml:3: data.clean.near_duplicates: ", "r.yaml:4: data.clean.decontaminate: ",
          "r.yaml:5: data.clean.too_long: "]),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_meant(recipe: Any, text: str, overrides: list[str], lines: list[str]) -> None:
    found = told(recipe(text), *overrides)
    assert len(found) == len(lines), found
    for got, wanted in zip(found, lines, strict=True):
        assert got.startswith(wanted), got


def test_cleaning_steps_are_switches(recipe: Any) -> None:
    clean = load(
        recipe("data:\n  clean:\n    html: true\n    near_duplicates: 0.8\n    decontaminate: null")
    ).data.clean
    assert (clean.nfc, clean.html, clean.near_duplicates, clean.decontaminate) == (True, True, 0.8, None)


@pytest.mark.parametrize(
    ("section", "world", "steps"),
    [
        (SFT(batch_size=16, per_device_train_batch_size=8), 1, 2),
        (SFT(batch_size=16, per_device_train_batch_size=8), 2, 1),
        (Reward(batch_size=24, per_device_train_batch_size=2), 3, 4),
    ],
)
def test_batch_arithmetic(section: Any, world: int, steps: int) -> None:
    """micro-batches a process and optimizer step = rows of the step / (processes x rows of a micro-batch), by hand."""
    assert section.accumulation(world) == steps


def test_each_process_takes_its_share_of_a_minibatch() -> None:
    assert PPO(batch_size=64).share(1) == 64
    assert PPO(batch_size=64, num_mini_batches=2).share(2) == 16
    assert PPO(batch_size=12, total_episodes=24).share(3) == 4


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^sft\.batch_size: 16 rows .* by 3 process.* of 8; make it a multiple of 24"
    ):
        SFT(batch_size=16, per_device_train_batch_size=8).accumulation(3)
    with pytest.raises(ConfigError, match=r"^reward\.batch_size: 8 .* multiple of 16"):
        Reward().accumulation(4)
    with pytest.raises(ConfigError, match=r"^ppo\.batch_size: a minibatch of 32 episodes .* 3 process.* multiple of 3"):
        PPO(num_mini_batches=2).share(3)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("seed: 1\nmodel: ä".encode("utf-16"), "r.yaml: not UTF-8 (byte 0); save it as UTF-8"),
        ("seed: ä".encode("cp1252"), "r.yaml: not UTF-8 (byte 6); save it as UTF-8"),
        ("seed: 1\nsft: 2".encode("utf-16-le"), "r.yaml:1: not valid YAML: unacceptable character #x0000"),
        ("seed: 1\nmodel: [a, b\nsft:\n", "r.yaml:3: not valid YAML: "),
        ("seed: 1\n\tmodel: a", "r.yaml:2: not valid YAML: "),
        ("model: {a: b", "r.yaml:1: not valid YAML: "),
        ("seed: 1\n---\nseed: 2", "r.yaml:2: not valid YAML: "),
        ("model: !!python/object/apply:os.system [echo]", "r.yaml:1: not valid YAML: could not determine a constructor"),
        ("seed: 2024-13-45", "r.yaml: a value reads as a date or number and is none"),
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


def leaves(model: type[BaseModel], path: str = "") -> set[str]:
    """Dotted names of all settings, from the defaults' JSON rather than from `fields`."""
    found: set[str] = set()

    def walk(value: Any, at: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(inner, f"{at}.{key}" if at else key)
        else:
            found.add(at)

    walk(model().model_dump(), path)
    return found


def test_the_settings_command_lists_every_setting_as_it_can_be_given(recipe: Any) -> None:
    """Each line is an override that leaves the defaults as they are."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "settings"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    overrides = []
    for line in done.stdout.splitlines():
        name, value = line.split("    # ")[0].split(" = ", 1)
        overrides.append(f"{name}={value}")
        yaml.safe_load(value)
    assert {override.partition("=")[0] for override in overrides} == leaves(Config) == set(fields())
    assert load(recipe("seed: 5\nppo:\n  gamma: 0.5\n"), overrides) == Config()


def test_models_of_a_comparison_are_told_together(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    lines = told(recipe("compare:\n  models: [sft, sft, best_of_0, gpt2, rlo, org/name]\n"))
    assert [line.partition("models: ")[2] for line in lines] == [
        '"sft" stands twice; keep one',
        '"best_of_0" is no model of this project; did you mean best_of_16?',
        '"gpt2" is no model of this project; write a folder, or a Hub id as owner/name',
        '"rlo" is no model of this project; did you mean rloo?',
    ]
    models = ["base", "few_shot", "sft", "ppo", "dpo", "rloo", "rft", "best_of_64", "org/name", str(tmp_path / "mine")]
    assert load(recipe(f"compare:\n  models: {models}\n")).compare.foreign() == models[-2:]


def test_best_of_n_needs_its_samples(recipe: Any) -> None:
    (line,) = told(recipe("best_of_n:\n  n: 8\ncompare:\n  models: [sft, best_of_4, best_of_16]\n"))
    assert "best_of_16 need 16 samples of a prompt, and best_of_n.n is 8; raise it" in line
    text = "best_of_n:\n  n: 8\ncompare:\n  models: [sft, best_of_4]\n  samples_per_prompt: "
    assert load(recipe(f"{text}2\n")).best_of_n.n == 8
    (line,) = told(recipe(f"{text}3\n"))
    assert "best_of_4 and compare.samples_per_prompt 3 need 12 samples" in line


def test_a_section_that_may_be_left_out_can_be_set_in_parts(recipe: Any) -> None:
    """compare.llm is null by itself; what is missing of it is named, with what to write, at the override that began it."""
    whole = load(recipe(""), ["compare.llm.model=m", "compare.llm.base_url=http://h/v1"]).compare.llm
    assert whole is not None and (whole.model, whole.base_url, whole.max_calls) == ("m", "http://h/v1", 2000)
    given = recipe("compare:\n  llm:\n    base_url: http://h/v1\n    model: m\n")
    changed = load(given, ["compare.llm.model=other"]).compare.llm
    assert changed is not None and (changed.model, changed.base_url) == ("other", "http://h/v1")
    for override in ("compare.llm.model=m", "compare.llm={model: m}"):
        with pytest.raises(ConfigError) as error:
            load(recipe(""), [override])
        assert str(error.value) == f"{override}: compare.llm.base_url: is needed too; write compare.llm.base_url=…"
    with pytest.raises(
        ConfigError, match=r"r\.yaml:2: compare\.llm\.model: is needed too; write compare\.llm\.model=…"
    ):
        load(recipe("compare:\n  llm: {base_url: x}\n"))
    with pytest.raises(ConfigError, match=r"compare\.llm\.modle: no such setting; did you mean compare\.llm\.model\?"):
        load(recipe(""), ["compare.llm.modle=m"])
    with pytest.raises(ConfigError, match=r"data\.mixture\.source: no such setting"):
        load(recipe(""), ["data.mixture.source=a.jsonl"])  # a list of sections has no one source
