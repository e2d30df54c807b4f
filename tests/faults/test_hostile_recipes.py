"""What does a stranger's recipe, or a hostile key=value, do? It is refused in one sentence with its line, in time, and nothing is run."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.settings.limited_yaml import LARGEST
from pipeline.settings.recipe import ConfigError, load

PATIENCE = 5.0  # seconds of a case, on a machine that is shared
RAN = "CANARY_RAN"
LAUGHS = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 9)}]\n" for n in range(1, 30))

# what is in the recipe: (bytes or text, its line, words of the sentence)
RECIPES: dict[str, tuple[str | bytes, int, str]] = {
    "billion laughs": (LAUGHS, 5, "more than 20000 values"),
    "merge keys that multiply": (MERGES, 9, "more than 20000 values"),
    "a list in itself": ("model: &a [*a]\n", 1, "an alias stands inside of what it stands for"),
    "a mapping in itself": ("seed: 1\ndata: &a\n  clean: *a\n", 2, "an alias stands inside"),
    "an alias of nothing": ("seed: *a\n", 1, "undefined alias"),
    "lists 20,000 deep": ("seed: " + "[" * 20_000 + "]" * 20_000, 1, "nested more than 32 deep"),
    "mappings 1,000 deep": ("".join(" " * n + "a:\n" for n in range(300)), 32, "nested more than 32 deep"),
    "flow mappings deep": ("seed: " + "{a: " * 5000 + "1" + "}" * 5000, 1, "nested more than 32 deep"),
    "lists of dashes": ("- " * 5000 + "1\n", 1, "nested more than 32 deep"),
    "keys that are asked for": ("? " * 2000 + "a\n", 1, "nested more than 32 deep"),
    "python/object/apply": (f"model: !!python/object/apply:os.putenv [{RAN}, x]\n", 1, "names a type"),
    "python/object/new": ("\nmodel: !!python/object/new:os.system [touch ran]\n", 2, "names a type"),
    "python/name": ("model: !!python/name:os.system\n", 1, "names a type"),
    "python/module": ("model: !!python/module:os\n", 1, "names a type"),
    "a tag of one's own": ("model: !Ref x\n", 1, "names a type"),
    "the tag of nothing": ("model: ! x\n", 1, "names a type"),
    "!!binary": ("model: !!binary aGk=\n", 1, "names a type"),
    "!!timestamp of nonsense": ("model: !!timestamp x\n", 1, "names a type"),
    "!!bool of nonsense": ("force: !!bool x\n", 1, "names a type"),
    "!!int of nothing": ('seed: !!int ""\n', 1, "names a type"),
    "!!set": ("model: !!set {a, b}\n", 1, "names a type"),
    "a tag on a key": ("!!str seed: 1\n", 1, "names a type"),
    "a key twice": ("seed: 1\nsft:\n  lora: {r: 1, r: 2}\n", 3, "sft.lora.r: given twice"),
    "a section twice": ("sft: {}\nseed: 1\nsft: {}\n", 3, "sft: given twice"),
    "a list as a key": ("seed: 1\n[1, 2]: 3\n", 2, "unhashable key"),
    "NUL": (b"seed: 1\nmodel: a\0b\n", 2, "special characters are not allowed"),
    "an escape for a terminal": ("seed: 1\nmodel: \x1b[2J\n", 2, "special characters are not allowed"),
    "tabs": ("sft:\n\tbatch_size: 8\n", 2, "cannot start any token"),
    "not UTF-8": (b"seed: 1\nmodel: \xff\n", 2, "not UTF-8"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), 1, "not UTF-8"),
    "half a surrogate pair": (b"seed: 1\nmodel: \xed\xa0\x80\n", 2, "not UTF-8"),
    "a number of 10^5 digits": ("seed: " + "9" * 100_000, 1, "a number of 100000 characters"),
    "a number of 100 digits": ("seed: 1\nppo:\n  kl_coef: " + "9" * 100, 3, "a number of 100 characters"),
    "a hexadecimal number of 10^5": ("seed: 0x" + "f" * 100_000, 1, "a number of 100002 characters"),
    "1e999": ("ppo:\n  kl_coef: 1e999\n", 2, "finite"),
    ".inf": ("ppo:\n  kl_coef: .inf\n", 2, "finite"),
    ".nan": ("ppo:\n  kl_coef: .nan\n", 2, "finite"),
    "a number counted in sixties": ("seed: 1:30\n", 1, "counted in 60s"),
    "a number counted in eights": ("seed: 010\n", 1, "counted in 8s"),
    "a date": ("model: 2024-01-01\n", 1, "takes a text"),
    "a date that is none": ("seed: 1\nmodel: 2024-13-45\n", 2, "reads as a date or number and is none"),
    "two documents": ("seed: 1\n---\nseed: 2\n", 2, "another document"),
    "a directive": ("%YAML 9.9\n---\nseed: 1\n", 1, "incompatible"),
    "a list": ("- 1\n", 1, "a recipe is a mapping"),
    "a text": ("hello\n", 1, "a recipe is a mapping"),
    "a JSON array cut off": ('{"seed": [1, 2', 1, "not valid YAML"),
    "a quote without end": ('model: "' + "a" * 1000, 1, "end of stream"),
    "a key of 20,000 characters": ("a" * 20_000 + ": 1\n", 1, "mapping values are not allowed"),
    "a quoted key of 900": ('"' + "ab" * 450 + '": 1\n', 1, "no such setting"),
    "a key with line ends": ('"seed\\nerror: ok": 1\n', 1, r"seed\nerror: ok: no such setting"),
    "a key that writes on the terminal": ('"\\e[2J": 1\n', 1, r"\x1b[2J: no such setting"),
    "a text of 20,000 for a number": ("seed: '" + "x" * 20_000 + "'\n", 1, "takes a whole number"),
    "a list of 3,000 for a number": ("seed: [" + "1," * 3_000 + "]\n", 1, "takes a whole number"),
}


def refused(recipe: Path, overrides: tuple[str, ...] = ()) -> str:
    began = time.monotonic()
    with pytest.raises(ConfigError) as error:
        load(recipe, overrides)
    assert time.monotonic() - began < PATIENCE, "it hung"
    assert RAN not in os.environ and not Path("ran").exists(), "it was run"
    said = str(error.value)
    assert len(said) < 2000 and all(line.isprintable() for line in said.splitlines()), said[:300]
    return said


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_recipes(tally: Callable[[str], Any], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    with tally("hostile") as cases:
        for name, (content, line, words) in RECIPES.items():
            with cases(name):
                recipe.write_bytes(content if isinstance(content, bytes) else content.encode())
                said = refused(recipe)
                assert said.startswith(f"{recipe}:{line}:") and words in said, said[:300]


def test_files_that_are_no_recipe(tally: Callable[[str], Any], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    with tally("hostile") as cases:
        with cases("larger than any recipe"):
            recipe.write_text("a: 1\n" * (LARGEST // 5 + 1))
            assert "more than 256 KB" in refused(recipe)
        with cases("sparse, 10 GB"):
            with recipe.open("wb") as file:
                file.truncate(10 << 30)
            assert "more than 256 KB" in refused(recipe)
        recipe.unlink()
        os.mkfifo(recipe)
        for name, path in (("a pipe", recipe), ("a device", Path("/dev/zero")), ("a folder", tmp_path)):
            with cases(name):
                assert "no such recipe" in refused(path)
        with cases("a link to itself"):
            (tmp_path / "l.yaml").symlink_to("l.yaml")
            assert "no such recipe" in refused(tmp_path / "l.yaml")


def test_a_byte_order_mark_is_none_of_these(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfseed: 7\n")
    assert load(tmp_path / "r.yaml").seed == 7


def test_aliases_that_are_few_are_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("sft: &s {max_steps: 3}\nreward:\n  <<: *s\n  batch_size: 16\n")
    config = load(tmp_path / "r.yaml")
    assert (config.sft.max_steps, config.reward.max_steps, config.reward.batch_size) == (3, 3, 16)


OVERRIDES = {
    "seed=" + "9" * 100_000: "a number of 100000 characters",
    "seed=[" * 1 + "[" * 3000: "nested more than 32 deep",
    "model=&a [*a]": "an alias stands inside",
    "data.ignore=[&a [x,x,x,x,x,x,x,x,x,x]"
    + "".join(f",&a{n} [{','.join([f'*a{n}' if False else '*a'] * 300)}]" for n in range(9))
    + "]": "more than 20000 values",  # fmt: skip
    f"model=!!python/object/apply:os.putenv [{RAN}, x]": "names a type",
    "ppo.kl_coef=.inf": "finite",
    "ppo.kl_coef=1e999": "finite",
    "seed=1:30": "counted in 60s",
    "seed=\x1b[2J": "takes a whole number",
    "\x1b[2J=1": "no such setting",
    "seed\nerror=1": "no such setting",
    "a." * 20_000 + "b=1": "no such setting",
    "x" * 20_000 + "=1": "no such setting",
    "x" * 100_000: "not key=value",
    "=": "not key=value",
    "sft=" + "{a: " * 2000: "nested more than 32 deep",
    "seed=\ud800": "takes a whole number",
}


def test_overrides(tally: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("seed: 1\n")
    with tally("hostile") as cases:
        for override, words in OVERRIDES.items():
            with cases(ascii(override[:50])):
                said = refused(tmp_path / "r.yaml", (override,))
                assert words in said, said[:300]
