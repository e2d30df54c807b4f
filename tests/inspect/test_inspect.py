"""Does the page from the inside show the published models, and text as text?"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer.testing
from comparison import Page
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.__main__ import app
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.inspect import look as inspect
from pipeline.pages.visible import visible
from pipeline.rows.published import prompts
from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.training import roles

ROOT = Path(__file__).resolve().parents[2]


SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    "sft.max_steps=1",
    "reward.max_steps=2",
    "reward.logging_steps=1",
    "reward.normalise_samples=8",
    "ppo.total_episodes=32",
    "ppo.batch_size=16",
    "ppo.response_length=12",
    "ppo.learning_rate=1e-2",
    "ppo.kl_coef=0.2",
    "ppo.lam=0.7",
    "ppo.eval_steps=1",
]


def config(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, *more])


@pytest.fixture(scope="module", autouse=True)
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """runs/made with all that inspect reads, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("inspect"))
        for stage in ("data", "sft", "reward", "ppo"):
            run_stage(stage, config(), "made")
        yield Run("made")


def test_a_held_out_prompt_gets_what_the_last_evaluation_saw(made: Run) -> None:
    """The roles are those that the stage left: the page has the completion and the score of ppo/samples.jsonl's last step."""
    samples = [json.loads(line) for line in (made.folder("ppo") / "samples.jsonl").read_text().splitlines()]
    last = max(s["step"] for s in samples)
    for sample in [s for s in samples if s["step"] == last][:2]:
        path = inspect.run(config(), made, sample["prompt_id"])
        seen = Page(path.read_text(encoding="utf-8"))
        assert path.parent == made.root / "made" / "inspect" and path.stat().st_size < 2_000_000
        assert sample["prompt"] in seen.text and visible(sample["completion"]) in seen.text
        assert f"{sample['score']:+.2f}".replace("-", "−") in seen.text
        assert seen.tags.count("script") == 2 and seen.fetched == [] and len(seen.ids) == len(set(seen.ids)) > 20
        assert seen.tags.count("svg") == 6 and seen.tags.count("img") >= 2


@pytest.mark.parametrize(("tuning", "value"), [("full", "adapter"), ("lora", "shared")])
def test_the_other_ways_to_hold_the_roles(made: Run, tuning: str, value: str) -> None:
    name = f"{tuning}-{value}"
    for stage in ("data", "sft", "reward"):
        shutil.copytree(made.folder(stage), made.root / name / stage)
    run_stage("ppo", config(f"ppo.tuning={tuning}", f"ppo.value={value}", "ppo.learning_rate=1e-3"), name)
    samples = [json.loads(line) for line in (made.root / name / "ppo" / "samples.jsonl").read_text().splitlines()]
    page = inspect.run(config(), Run(name), samples[-1]["prompt_id"]).read_text(encoding="utf-8")
    assert visible(samples[-1]["completion"]) in Page(page).text and "the critic expected" in page
    assert f"{samples[-1]['score']:+.2f}".replace("-", "−") in page


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page was given."""
    given: dict[str, Any] = {}
    real = inspect.page_template

    def template(name: str) -> Any:
        return SimpleNamespace(render=lambda **values: (given.update(values), real(name).render(**values))[1])

    monkeypatch.setattr(inspect, "page_template", template)
    return given


def test_a_given_completion_against_the_published_models(made: Run, rendered: dict[str, Any]) -> None:
    """log π from ppo/, log π_ref from sft/, the score from reward/, all loaded by plain transformers; β, γ and λ of the run, not the
    recipe; advantages by the recursion from the page's values."""
    inspect.run(config("ppo.kl_coef=9", "ppo.lam=0.1"), made, "When the neighbour knocked, I", completion=" smiled.")
    rows = rendered["numbers"]["tokens"]
    tokenizer = AutoTokenizer.from_pretrained(made.folder("sft"))
    prompt = tokenizer("When the neighbour knocked, I")["input_ids"]
    said = tokenizer(" smiled.", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    ids = torch.tensor([prompt + said])
    contract = json.loads((made.folder("reward") / "scoring.json").read_text())
    with torch.no_grad():
        logs = {
            stage: AutoModelForCausalLM.from_pretrained(made.folder(stage))
            .eval()(ids)
            .logits[0, len(prompt) - 1 : -1]
            .log_softmax(-1)
            for stage in ("ppo", "sft")
        }
        raw = AutoModelForSequenceClassification.from_pretrained(made.folder("reward")).eval()(ids).logits.item()
    picked = {stage: [log[i, t].item() for i, t in enumerate(said)] for stage, log in logs.items()}
    assert [row["logprob"] for row in rows] == pytest.approx(picked["ppo"], abs=1e-3)
    assert [row["reference"] for row in rows] == pytest.approx(picked["sft"], abs=1e-3)
    assert max(abs(row["kl"]) for row in rows) > 1e-2
    score = (raw - contract["mean"]) / contract["std"]
    assert rendered["numbers"]["totals"]["score"] == pytest.approx(score, abs=1e-3)
    assert (rendered["settings"]["kl_coef"], rendered["settings"]["lam"]) == (0.2, 0.7)
    following, next_value = 0.0, 0.0
    for row in reversed(rows):
        reward = -0.2 * row["kl"] + (score if row is rows[-1] else 0.0)
        following = reward + next_value - row["value"] + 0.7 * following
        next_value = row["value"]
        assert row["advantage"] == pytest.approx(following, abs=2e-3)
    assert len({round(row["value"], 6) for row in rows}) > 1


def test_the_sft_model_is_its_own_reference(made: Run, rendered: dict[str, Any]) -> None:
    inspect.run(config(), made, "She", model="sft", seed=5)
    rows = rendered["numbers"]["tokens"]
    assert max(abs(row["kl"]) for row in rows) < 1e-4 and {row["advantage"] for row in rows} == {None}
    inspect.run(config(), made, "She", completion=" ran.", model=str(made.folder("ppo")))
    assert max(abs(row["kl"]) for row in rendered["numbers"]["tokens"]) > 1e-2


EVIL = "<script>alert(1)</script><img src=http://x.example/y>\u202e\x07"


def test_prompts_and_completions_are_text(made: Run) -> None:
    page = inspect.run(config(), made, EVIL, completion=EVIL).read_text(encoding="utf-8")
    seen = Page(page)
    assert seen.tags.count("script") == 2 and seen.fetched == [] and "\u202e" not in page and "\x07" not in page
    assert seen.text.count("<script>alert(1)</script>") >= 2


def test_names_of_pages_are_safe_and_differ() -> None:
    names = [
        inspect.slug(*q)
        for q in (
            ("A funny", None, "ppo", 0, "greedy"),
            ("A funny", None, "ppo", 1, "greedy"),
            ("A funny!", None, "ppo", 0, "greedy"),
            ("A funny", "", "ppo", 0, "greedy"),
            ("../../etc/passwd", None, "ppo", 0, "greedy"),
            ("…", None, "ppo", 0, "greedy"),
            ("从前有一只猫" * 30, None, "ppo", 0, "greedy"),
            ("A funny", None, "ppo", 0, "sampling"),
        )
    ]
    assert len(set(names)) == len(names)
    assert all("/" not in name and "." not in name and len(name.encode()) < 200 for name in names)
    assert names[0].startswith("a-funny-") and names[5].startswith("prompt-")


def test_a_completion_is_decoded_as_it_is_asked_for(made: Run) -> None:
    """Greedily, from the published policy with plain transformers; the page says so, and its numbers are the trainer's."""
    name, prompt = next((p.id, p.prompt) for p in prompts(made, "eval"))
    path = inspect.run(config("inspect.generation={do_sample: false, max_new_tokens: 9}"), made, name)
    tokenizer = AutoTokenizer.from_pretrained(made.folder("ppo"))
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(made.folder("ppo"))
    expected = model.generate(ids, do_sample=False, max_new_tokens=9)[0, ids.shape[1] :]
    text = Page(path.read_text(encoding="utf-8")).text
    assert visible(tokenizer.decode(expected, skip_special_tokens=True)) in text
    assert f"{len(expected)} tokens, decoding: greedy, at most 9 tokens" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--prompt", " "],
            "the prompt is empty; give a text, or the id of a held-out prompt; run: python -m pipeline inspect ",
        ),
        (["--prompt", "x", "--completion", "many words " * 300], "a page holds 512; give a shorter one"),
        (["--prompt", "x", "--run", "none"], "runs/none"),
        (["--prompt", "x", "--model", "runs/made/data"], "runs/made/data: no tokenizer to be had there"),
    ],
)
def test_mistakes_are_told_in_a_sentence(made: Run, arguments: list[str], said: str) -> None:
    call = ["inspect", str(ROOT / "recipes" / "smoke.yaml"), *SHRUNK, "--run", "made", *arguments]
    done = typer.testing.CliRunner().invoke(app, call)
    assert done.exit_code == 2 and said in done.output, done.output
    told = [
        line for line in done.output.strip().splitlines() if not line.startswith("inspect: ")
    ]  # but for what it is at
    assert len(told) == 1 and told[0].startswith("error: ")


def test_the_command_says_where_the_page_is(made: Run) -> None:
    call = [
        "inspect",
        str(ROOT / "recipes" / "smoke.yaml"),
        *SHRUNK,
        "--run",
        "made",
        "--prompt",
        "He",
        "--completion",
        " sat.",
    ]
    done = typer.testing.CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    path = Path(done.output.strip().splitlines()[-1].removeprefix("inspect: "))
    assert path.is_file() and path.parent.name == "inspect"


def test_the_critic_is_the_one_that_ppo_left(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of critic/critic.safetensors is in its place, and training had moved it; one that is missing is told."""
    tokenizer, cpu = AutoTokenizer.from_pretrained(made.folder("sft")), torch.device("cpu")
    critic = load_file(made.folder("ppo") / "critic" / "critic.safetensors")
    before, after = roles.build(config(), made, tokenizer, cpu)[0], roles.trained(config(), made, tokenizer, cpu)[0]
    start, end = dict(before.named_parameters()), dict(after.named_parameters())
    assert len(critic) > 2 and all(torch.equal(end[name], tensor) for name, tensor in critic.items())
    assert any((start[name] - tensor).abs().max() > 1e-3 for name, tensor in critic.items())
    real = roles.load_file

    def without(path: Path) -> dict[str, torch.Tensor]:
        return {n: t for n, t in real(path).items() if path.name != "critic.safetensors" or n != "value_head.bias"}

    monkeypatch.setattr(roles, "load_file", without)
    with pytest.raises(
        ArtifactError, match=r"not those of its settings: value_head\.bias; remove runs/made/ppo and make its stage ppo"
    ):
        roles.trained(config(), made, tokenizer, cpu)


def test_settings_of_another_version_are_refused(made: Run) -> None:
    found = made.require("ppo", force=True)
    old = {k: v for k, v in found.config["settings"]["ppo"].items() if k != "lam"}
    spoilt = type(found)(
        **{**vars(found), "config": found.config | {"settings": found.config["settings"] | {"ppo": old}}}
    )
    with pytest.raises(ArtifactError, match=r"another version \('lam'\); remove runs/made/ppo and make its stage ppo"):
        inspect.settings_of(spoilt, config(), Run("made"))


def test_the_page_is_in_chinese_beside_the_english_one(made: Run, capsys: pytest.CaptureFixture[str]) -> None:
    english, chinese = (inspect.run(config(f"report.language={one}"), made, "Tea", model="sft") for one in ("en", "zh"))
    assert chinese.name == english.name.removesuffix(".html") + ".zh.html"
    page = chinese.read_text()
    for said in (
        "sft 的内部",
        "这个提示与运行 made 的提示不同：它比它们都短得多",
        "解码：采样、温度 ",
        "对数概率（nat）",
        "本回答",
        "第 1 层，位置打乱",
    ):
        assert said in page, said
    assert 'lang="zh-CN"' in page and "Token by token" in english.read_text() and "逐个 token" in page
    assert (
        "This prompt is unlike those of run made" in capsys.readouterr().out.splitlines()[-2]
    )  # terminals stay English
