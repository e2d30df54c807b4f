"""Does a judge see the right text, and is a wrong judge refused in one sentence?"""

import sys
import types
from pathlib import Path

import pytest

from pipeline import judges


@pytest.fixture
def lexicon(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for the optional package: score = 0.1 for each "good"; returns the texts that it was shown."""
    seen: list[str] = []

    class SentimentIntensityAnalyzer:
        def polarity_scores(self, text: str) -> dict[str, float]:
            seen.append(text)
            return {"neg": 9.0, "neu": 9.0, "pos": 9.0, "compound": 0.1 * text.count("good")}

    inner = types.ModuleType("vaderSentiment.vaderSentiment")
    inner.SentimentIntensityAnalyzer = SentimentIntensityAnalyzer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vaderSentiment", types.ModuleType("vaderSentiment"))
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", inner)
    return seen


def test_vader_judges_prompt_and_completion_as_one_text(lexicon: list[str]) -> None:
    assert judges.vader(["not a good", "Bad"], [" film, not good", " film"]) == [pytest.approx(0.2), 0.0]
    assert lexicon == ["not a good film, not good", "Bad film"]


def test_vader_leaves_another_speakers_messages_out(lexicon: list[str]) -> None:
    assert judges.vader([[{"role": "user", "content": "good good"}]], ["good"]) == [pytest.approx(0.1)]


def test_vader_refuses_prompts_that_do_not_match(lexicon: list[str]) -> None:
    with pytest.raises(ValueError):
        judges.vader(["one"], ["a", "b"])


def test_a_missing_package_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    monkeypatch.delitem(sys.modules, "vaderSentiment.vaderSentiment", raising=False)
    with pytest.raises(judges.JudgeError, match=r"pip install vaderSentiment==3\.3\.2.*extra demo"):
        judges.vader(["a"], ["b"])


def test_load_finds_vader_by_name(lexicon: list[str]) -> None:
    assert judges.load("vader")([""], ["good"]) == [pytest.approx(0.1)]


@pytest.fixture
def users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_judges.py").write_text(
        "def length(prompts, completions): return [len(c) for c in completions]\n"
        "def short(prompts, completions): return [1.0]\n"
        "def broken(prompts, completions): return [float('nan') for _ in completions]\n"
        "def words(prompts, completions): return completions\n"
        "def nothing(prompts, completions): return None\n"
        "def fails(prompts, completions): return 1 / 0\n"
        "number = 3\n"
    )
    (tmp_path / "needy_judges.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("my_judges", "needy_judges"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_load_finds_a_function_of_the_user(users_file: None) -> None:
    scores = judges.load("my_judges:length")(["", ""], ["four", "sixsix"])
    assert scores == [4.0, 6.0]
    assert all(type(score) is float for score in scores)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vadr", "no judge is called 'vadr': use \"vader\""),
        (":length", "not of the form module:function"),
        ("my_judges:", "not of the form module:function"),
        ("no_such_module:length", "no module no_such_module in "),
        ("no_such_module.inner:length", "no module no_such_module.inner in "),
        ("my_judges:lenght", "has no function lenght; did you mean length"),
        ("my_judges:number", "is a int, which cannot be called"),
    ],
)
def test_a_judge_that_does_not_exist_is_one_sentence(users_file: None, name: str, said: str) -> None:
    with pytest.raises(judges.JudgeError, match=said) as error:
        judges.load(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short", "returned a list of 1; it must return 2 finite numbers"),
        ("broken", "returned nan at index 0"),
        ("words", "returned 'a' at index 0"),
        ("nothing", "returned None; it must return 2 finite numbers"),
    ],
)
def test_unusable_scores_are_refused(users_file: None, name: str, said: str) -> None:
    with pytest.raises(judges.JudgeError, match=said):
        judges.load(f"my_judges:{name}")(["p", "p"], ["a", "b"])


def test_a_programmers_mistake_keeps_its_own_error(users_file: None) -> None:
    with pytest.raises(ZeroDivisionError):
        judges.load("my_judges:fails")(["p"], ["a"])
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        judges.load("needy_judges:length")
