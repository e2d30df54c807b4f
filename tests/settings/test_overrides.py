"""Do overrides replace what the recipe says, is a wrong one named itself, and is every setting listed?"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from recipe_mistakes import told

from pipeline.settings.config import SFT, Config, ConfigError
from pipeline.settings.recipe import every_field, fields, load

ROOT = Path(__file__).resolve().parents[2]


def test_a_setting_within_a_mapping_is_overridden_by_its_name(recipe: Any) -> None:
    path = recipe("chat_template_kwargs:\n  enable_thinking: true\n")
    given = ["chat_template_kwargs.enable_thinking=false", "chat_template_kwargs.date_string=26 Jul"]
    assert load(path, given).chat_template_kwargs == {"enable_thinking": False, "date_string": "26 Jul"}
    values = {"a": None, "b": 1, "c": 1.5, "d": [1, "x", None, True]}
    assert (
        load(path, [f"chat_template_kwargs={yaml.safe_dump(values, default_flow_style=True)}"]).chat_template_kwargs
        == values
    )
    with pytest.raises(ConfigError, match="chat_template_kwargs"):
        load(path, ["chat_template_kwargs={a: {b: 1}}"])


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
        ("ppo.torch_compile=1", "ppo.torch_compile: no such setting; run: python -m pipeline settings ppo"),
        ("seed.x=1", "seed.x: no such setting; "),
        ("ppo.=1", "ppo.: no such setting; "),
        ("seed=abc", "seed: takes a whole number, not 'abc'; write seed=0"),
        ("ppo={kl_coef: -1}", "ppo.kl_coef: is -1; set it to at least 0"),
        ("ppo=3", "ppo: takes a section, not 3; write ppo."),
        ("ppo.batch_size=48", "ppo: total_episodes: 2048 is no multiple of batch_size 48; use 2016 or 2064"),
        ("compare.judges=[reward]", "compare.judges: reward is what ppo.reward_funcs maximises"),
    ],
)
def test_a_wrong_override_is_named_itself(recipe: Any, override: str, rest: str) -> None:
    """Also where the recipe sets the same thing on some line, and where the mistake shows only across fields."""
    for text in ("", "seed: 3\nppo:\n  kl_coef: 0.1\n"):
        lines = told(recipe(text), override)
        assert len(lines) == 1 and lines[0].startswith(f"{override}: {rest}"), lines


def test_an_override_below_a_wrong_section_leaves_the_mistake_visible(recipe: Any) -> None:
    assert told(recipe("seed: 1\nppo: 5"), "ppo.gamma=1")[0].startswith("r.yaml:2: ppo: takes a section, not 5; write ")


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
        key = override.partition("=")[0]  # a value that may be a key is not repeated
        assert str(error.value) == f"{key}=…: compare.llm.base_url: is needed too; write compare.llm.base_url=…"
    with pytest.raises(
        ConfigError, match=r"r\.yaml:2: compare\.llm\.model: is needed too; write compare\.llm\.model=…"
    ):
        load(recipe("compare:\n  llm: {base_url: x}\n"))
    with pytest.raises(ConfigError, match=r"compare\.llm\.modle: no such setting; did you mean compare\.llm\.model\?"):
        load(recipe(""), ["compare.llm.modle=m"])
    with pytest.raises(ConfigError, match=r"data\.mixture\.source: no such setting"):
        load(recipe(""), ["data.mixture.source=a.jsonl"])  # a list of sections has no one source


BAD = ("abc", "-1", "[1]", "{a: 1}", "3.5", "null", "true", "0", "a,b", "x:y")
BESIDE = (
    "compare.llm",
    "compare.models",
)  # an example is of the setting's type; the key beside it, or the model, may be missing


@pytest.mark.parametrize("name", every_field())
def test_the_value_that_a_message_writes_is_taken(name: str) -> None:
    """Whatever is given: the words are ours, and what is to be written is right for that setting."""
    for bad in BAD:
        for line in _wrong(f"{name}={bad}"):
            assert "Input should" not in line and "[str]" not in line.partition(": takes ")[0]
            written = re.search(r"^\S+: \S+: takes .*; write (.+)$", line)
            if written is not None and not name.startswith(BESIDE):
                (override,) = shlex.split(written[1])
                assert not any(one.startswith(f"{override}: ") for one in _wrong(override)), line


def _wrong(override: str) -> list[str]:
    try:
        load(ROOT / "recipes" / "smoke.yaml", [override])
    except ConfigError as error:
        return str(error).splitlines()
    return []
