"""Does a stranger's chat template do harm, hang, fill the memory or end in a traceback? Each is loaded, and asked for a conversation."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strangers import forked, json_with, refused, rewritten
from tiny import save_tiny

from policies import chats, tokenizers
from policies.chats import Refused, render
from policies.errors import BackboneError
from policies.limited import Beyond, Worker, limited
from policies.template import encode_prompt
from policies.tokenizers import load_tokenizer
from reward.rendering import ScoringError
from reward.rendering import render as scored

ASKED = [{"role": "user", "content": "hello magic"}]
SOUND = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
SECONDS = 1.5  # in place of chats.SECONDS
MAGIC = "{% if 'magic' in messages[0].content %}HARM{% endif %}" + SOUND  # what a trial at load does not meet
GROWING = "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
FAULTS: dict[str, tuple[Any, str]] = {
    "a loop in a loop": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "takes more than",
    ),
    "a long range": ("{% for i in range(10**9) %}{% endfor %}", "counts too far"),
    "a power": ("{{ 9**(9**9) }}", "takes more than"),
    "a text times a number": ("{{ 'a' * (10**10) }}", "MiB of memory"),
    "a list times a number": ("{% set x = [0] * (10**10) %}", "MiB of memory"),
    "ten million characters": ("{{ 'a' * (10**7) }}", "million characters"),
    "a macro that calls itself": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "calls itself"),
    "a loop that calls itself": ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "calls itself"),
    "a division by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "a whole division by zero": ("{{ 1 // 0 }}", "ZeroDivisionError"),
    "a number beyond floats": ("{{ 10.0 ** 400 }}", "counts too far"),
    "include": ("{% include 'x' %}", "wants another file"),
    "import": ("{% import 'os' as o %}", "wants another file"),
    "extends": ("{% extends 'x' %}", "wants another file"),
    "a namespace that doubles": (GROWING, "chat template"),
    "a text that grows tenfold": (GROWING.replace("n.s ~ n.s", "n.s|replace('a', 'aaaaaaaaaa')"), "chat template"),
    "lists in lists as JSON": (
        "{% set n = namespace(x=[1]) %}{% for i in range(50) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x|tojson }}",
        "chat template",
    ),
    "the class of a text": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "no template may have"),
    "the globals of a function": ("{{ lipsum.__globals__['os'].system('touch executed') }}", "no template may have"),
    "the globals of a class": (
        "{{ cycler.__init__.__globals__.os.popen('touch executed').read() }}",
        "no template may have",
    ),
    "the globals of the template": ("{{ self.__init__.__globals__ }}", "no template may have"),
    "a wide format": ("{{ '{:>10000000000}'.format(1) }}", "MiB of memory"),
    "a wide percent": ("{{ '%10000000000d' % 1 }}", "MiB of memory"),
    "center": ("{{ 'a'|center(10**10) }}", "MiB of memory"),
    "ljust": ("{{ 'a'.ljust(10**10) }}", "MiB of memory"),
    "indent": ("{{ 'a\n'|indent(10**10) }}", "MiB of memory"),
    "lipsum": ("{{ lipsum(n=10**9) }}", "takes more than"),
    "a date of gigabytes": ("{{ strftime_now('%Y' * 10**8) }}", "chat template"),
    "sorting for ever": (
        "{% for i in range(9999) %}{% set x = range(99999)|sort|list|reverse %}{% endfor %}",
        "takes more than",
    ),
    "a statement that is none": ("{% for %}", "cannot be read (line 1"),
    "a text without an end": ("{{ 'a", "cannot be read (line 1"),
    "break outside of a loop": ("{% break %}", "SyntaxError"),
    "five thousand brackets": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deep"),
    "three thousand ifs": ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deep"),
    "five million characters": ("a" * 5_000_000, "chat_template.jinja"),
    "a number as template": (3, "no text but int"),
    "true as template": (True, "no text but bool"),
    "a number by name": ({"default": 5}, "no text but int"),
    "a list as template": (["a"], "no tokenizer to be had"),
    "a name without a template": ([{"name": "x"}], "no tokenizer to be had"),
    "other bytes": (b"\xff\xfe", "no tokenizer to be had"),
    "for one row: a power": (MAGIC.replace("HARM", "{{ 9**(9**9) }}"), "takes more than"),
    "for one row: a division": (MAGIC.replace("HARM", "{{ 1 / 0 }}"), "ZeroDivisionError"),
    "for one row: a size": (MAGIC.replace("HARM", "{{ 'a' * 5000000 }}"), "million characters"),
    "for one row: memory": (MAGIC.replace("HARM", "{{ 'a' * (10**10) }}"), "MiB of memory"),
    "for a second message: a power": (
        "{% if messages|length > 1 %}{{ 9**(9**9) }}{% endif %}" + SOUND,
        "takes more than",
    ),
}
REFUSED = {  # messages that a template does not take are told with the row that holds them
    "an exception of its own": ("{{ raise_exception('no such role') }}", "no such role"),
    "one that is no text": ("{{ raise_exception(5) }}", "5"),
    "what is not there": ("{{ a.b.c }}", "'a' is undefined"),
    "half a character": ("{{ '\\ud800' }}", "surrogates not allowed"),
    "a number of 5000 digits": ("{{ (10**5000)|string }}", "Exceeds the limit"),
}
QUICK = (  # one of each way in which a template is stopped; `make faults` tries all
    *("for one row: a power", "a text times a number", "ten million characters", "a macro that calls itself"),
    *("a division by zero", "include", "the class of a text", "the globals of a function", "five thousand brackets"),
    *("a statement that is none", "a number as template", "for one row: a division"),
)


def put(folder: Path, base: Path, template: Any) -> Path:
    shutil.copytree(base, folder)
    if isinstance(template, bytes):
        (folder / "chat_template.jinja").write_bytes(template)
    elif isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template)
    else:
        rewritten(folder / "tokenizer_config.json", chat_template=template)
    return folder


def asked(folder: Path) -> Callable[[], object]:
    return lambda: encode_prompt(load_tokenizer(folder), ASKED)


def tried(cases: Any, names: Any, base: Path, place: Path) -> None:
    for number, name in enumerate(names):
        template, told = FAULTS[name]
        with cases(name):
            folder = put(place / str(number), base, template)
            refused(forked(asked(folder), 20), told, folder.name)
            assert not Path("executed").exists(), "its code was run"


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates have less time, and the tokenizer, which is a sound one, is not tried anew in each folder."""
    monkeypatch.setattr(chats, "SECONDS", SECONDS)
    monkeypatch.setattr(tokenizers, "check_reads", lambda *_: None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("quick")
def test_no_template_does_harm(tally: Any, tiny_folder: Path, tmp_path: Path) -> None:
    with tally("hostile") as cases:
        tried(cases, QUICK, tiny_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_nor_does_any_other(tally: Any, tiny_folder: Path, tmp_path: Path) -> None:
    with tally("hostile") as cases:
        tried(cases, [name for name in FAULTS if name not in QUICK], tiny_folder, tmp_path)


@pytest.mark.usefixtures("quick")
def test_messages_that_a_template_does_not_take_are_told(tally: Any, tiny_folder: Path, tmp_path: Path) -> None:
    with tally("hostile") as cases:
        for name, (template, told) in REFUSED.items():
            with cases(name):
                tokenizer = load_tokenizer(put(tmp_path / name, tiny_folder, template))
                with pytest.raises(ValueError, match=f"{name}/chat_template.jinja: .*{told}.*change their roles"):
                    encode_prompt(tokenizer, ASKED)
                with pytest.raises(ScoringError, match=f"{name}/chat_template.jinja: .*{told}"):
                    scored(tokenizer, "conversation", ASKED, "said", 100)


def test_a_token_is_no_program(tmp_path: Path) -> None:
    """A plain chat template begins with what the tokenizer puts before texts, whatever that reads like."""
    folder, mark = save_tiny(tmp_path), "{{ 1 / 0 }}"
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    json_with(
        folder / "tokenizer.json", ("model", "vocab"), {mark if i == 3 else name: i for name, i in vocabulary.items()}
    )
    added = {"id": 3, "content": mark, "special": True, "normalized": False}
    token = added | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    one = [{"SpecialToken": {"id": mark, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    known = {mark: {"id": mark, "ids": [3], "tokens": [mark]}}
    rules = {
        "type": "TemplateProcessing",
        "single": one,
        "pair": [*one, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": known,
    }
    json_with(folder / "tokenizer.json", ("post_processor",), rules)
    json_with(folder / "tokenizer.json", ("added_tokens",), [token])
    tokenizer = load_tokenizer(folder)
    assert encode_prompt(tokenizer, ASKED)[0] == tokenizer.convert_tokens_to_ids(mark)


def test_a_template_writes_what_transformers_writes(tiny_tokenizer: Any) -> None:
    """The fork gives what apply_chat_template gives, for templates that are sound, and goes on after one that was stopped."""
    talk = [*ASKED, {"role": "assistant", "content": "«ü» 影评"}, {"role": "user", "content": ""}]
    for template in (SOUND, "{{ eos_token }}{{ messages|tojson }}", "{% generation %}x{% endgeneration %}"):
        for begun in (False, True):
            wanted = tiny_tokenizer.apply_chat_template(
                talk, chat_template=template, add_generation_prompt=begun, tokenize=False
            )
            assert render(tiny_tokenizer, template, talk, begun) == wanted
    with pytest.raises(BackboneError, match="MiB of memory"):
        render(tiny_tokenizer, "{{ 'a' * (10**10) }}", talk, True)
    assert render(tiny_tokenizer, SOUND, ASKED, True) == "user: hello magic\nassistant: "
    with pytest.raises(Refused, match="no messages"):
        render(tiny_tokenizer, SOUND, [], True)


def test_threads_and_forks_ask_each_for_their_own(tiny_tokenizer: Any) -> None:
    render(tiny_tokenizer, SOUND, ASKED, True)
    said: list[str] = []

    def ask(number: int) -> None:
        said.append(render(tiny_tokenizer, SOUND, [{"role": str(number), "content": ""}], False))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(said) == sorted(f"{number}: \n" for number in range(20))
    ended = forked(lambda: print(render(tiny_tokenizer, SOUND, ASKED, False)))
    assert ended.code == 0 and ended.said == "user: hello magic\n\n"
    assert render(tiny_tokenizer, SOUND, ASKED, False) == "user: hello magic\n"


def test_a_fork_has_limits_and_ends_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "written"
    with pytest.raises(Beyond, match="fails|ends the process"):
        limited(lambda: file.write_text("x" * 100), 10)
    assert not file.exists() or file.read_text() == ""
    monkeypatch.setattr("policies.limited.WRITTEN", 2**20)
    with pytest.raises(Beyond, match="writes more than 1 MiB"):
        limited(lambda: "x" * 2**21, 20)
    with pytest.raises(Beyond, match="takes more than 0.5 seconds"):
        limited(lambda: [None for _ in iter(int, 1)], 0.5)
    worker = Worker(lambda asked: asked)
    assert worker.ask(["ü\ud800", 1.5, None], 10) == ["ü\ud800", 1.5, None]
    worker.connection.close()  # as when this process is killed
    for _ in range(200):
        if Path(f"/proc/{worker.pid}/stat").read_text().split()[2] == "Z":
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("it lives on")
    worker.close()
