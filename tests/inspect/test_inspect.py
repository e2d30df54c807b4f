"""Does the page from the inside show the trainer's own numbers, for the model that was published, and text as text?"""

import base64
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer.testing
from accelerate import Accelerator
from comparison import Page
from PIL import Image
from safetensors.torch import load_file
from tiny import EOS, PROMPTS, make_roles, randomise, settings, vowels
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.__main__ import app
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.inspect import look as inspect
from pipeline.inspect import maps as inspect_maps
from pipeline.inspect.tokens import shown, tokens, totals
from pipeline.pages.visible import visible
from pipeline.running import run_stage
from pipeline.settings.config import Config
from pipeline.settings.recipe import load
from pipeline.training import roles
from policies import ppo
from policies.advantages import estimate, shape_rewards
from policies.engines import make_engine
from policies.episodes import Episode, rollout
from policies.figures import Sums
from policies.measure import Activations, measure
from policies.rollout import Completion
from policies.template import encode_prompt
from policies.trainer import EVAL_STEP

ROOT = Path(__file__).resolve().parents[2]
BETA, GAMMA, LAM = 0.3, 0.9, 0.8


def episodes(four: Any, tokenizer: Any, section: Any) -> list[Episode]:
    asked = [{**p, "ids": encode_prompt(tokenizer, p["prompt"]), "sample": 0} for p in PROMPTS[:6]]
    engine = make_engine("transformers", four, "", section)
    return rollout(four, engine, tokenizer, vowels, asked, EVAL_STEP, section, 3, {})


@pytest.mark.parametrize(("tuning", "value"), [("lora", "adapter"), ("lora", "shared"), ("full", "adapter")])
def test_sums_are_those_of_the_trainer(tiny_folder: Path, tiny_tokenizer: Any, tuning: str, value: str) -> None:
    """`measure`, which the trainer calls, on the same episodes: its KL in sum, its log-probabilities, values, and ppo.gae on them."""
    section = settings(gamma=GAMMA, lam=LAM, temperature=0.8)
    four = make_roles(tiny_folder, tiny_tokenizer, tuning, value)
    if tuning == "lora":
        randomise(four, "policy", "value")
    else:
        with torch.no_grad():
            for parameter in four.policy.parameters():
                parameter.mul_(1.1)
    four.eval()
    told = episodes(four, tiny_tokenizer, section)
    sums = Sums()
    entries = measure(four, told, section, 1, 0, torch.device("cpu"), sums, Activations(four, section, 1), {})
    shape_rewards(Accelerator(), [entries], section, BETA)
    assert estimate(Accelerator(), four, [entries], section, 1, {}) == []
    pages = [tokens(four, tiny_tokenizer, e, section, BETA, critic=True) for e in told]
    assert sum(row["kl"] for rows in pages for row in rows) == pytest.approx(sums.totals["kl"].item(), abs=1e-4)
    assert abs(sums.totals["kl"].item()) > 0.1
    assert sum(row["entropy"] for rows in pages for row in rows) == pytest.approx(
        sums.totals["entropy"].item(), abs=1e-3
    )
    seen = 0
    for entry in entries:
        mask = entry["batch"].mask
        rewards = ppo.shape_rewards(entry["scores"], entry["logprobs"], entry["reference"], mask, BETA)
        advantages, returns = ppo.gae(rewards, entry["values"], mask, GAMMA, LAM)
        for line in range(len(mask)):
            own = next(
                rows
                for rows, e in zip(pages, told, strict=True)
                if e.completion.tokens == entry["batch"].tokens[line][mask[line]].tolist()
                and e.score == pytest.approx(entry["scores"][line].item())
                and rows[0]["logprob"] == pytest.approx(entry["logprobs"][line, 0].item(), abs=1e-4)
            )
            for name, column in (
                ("reward", rewards),
                ("value", entry["values"]),
                ("advantage", advantages),
                ("return", returns),
            ):
                expected = column[line][mask[line]].tolist()
                assert [row[name] for row in own] == pytest.approx(expected, abs=1e-4), name
            seen += 1
    assert seen == len(told)


def test_each_number_by_hand(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    """One completion, from the logits of plain forwards of the merged policy and the base, and the sums written out.

    With d_t = log π - log π_ref: reward -β d_t, and the score on the last; whole KL Σ_v π (log π - log π_ref);
    A_t = δ_t + γλ A_{t+1}, δ_t = r_t + γ V_{t+1} - V_t, with V = 0 after the end.
    """
    section = settings(gamma=GAMMA, lam=LAM)
    four = make_roles(tiny_folder, tiny_tokenizer)
    randomise(four, "policy", "value")
    four.eval()
    prompt, said = encode_prompt(tiny_tokenizer, "To be"), tiny_tokenizer("x y\n")["input_ids"] + [EOS]
    episode = Episode("p", "To be", prompt, "x y\n", Completion(said, [0.0] * len(said), True), 2.5, 2.5)
    rows = tokens(four, tiny_tokenizer, episode, section, BETA, critic=True, top=99)
    with torch.no_grad():
        ids = torch.tensor([prompt + said])
        at = slice(len(prompt) - 1, -1)
        log_p = four.sampler()(input_ids=ids).logits[0, at].double().log_softmax(-1)
        base = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
        log_q = base(input_ids=ids).logits[0, at].double().log_softmax(-1)
    following, next_value = 0.0, 0.0
    for t in reversed(range(len(said))):
        row, token = rows[t], said[t]
        d = (log_p[t, token] - log_q[t, token]).item()
        assert row["kl"] == pytest.approx(d, abs=1e-4) and row["probability"] == pytest.approx(
            log_p[t, token].exp().item(), abs=1e-5
        )
        assert row["reference_probability"] == pytest.approx(log_q[t, token].exp().item(), abs=1e-5)
        whole = sum(p.exp().item() * (p - q).item() for p, q in zip(log_p[t], log_q[t], strict=True))
        assert row["kl_whole"] == pytest.approx(whole, abs=1e-4) and whole > 0
        assert row["rank"] == 1 + sum(p > log_p[t, token] for p in log_p[t])
        reward = -BETA * d + (2.5 if t == len(said) - 1 else 0.0)
        following = reward + GAMMA * next_value - row["value"] + GAMMA * LAM * following
        next_value = row["value"]
        assert row["reward"] == pytest.approx(reward, abs=1e-4) and row["advantage"] == pytest.approx(
            following, abs=1e-4
        )
        assert row["return"] == pytest.approx(following + row["value"], abs=1e-4)
        likeliest = row["alternatives"]
        assert sum(a["probability"] for a in likeliest) == pytest.approx(1, abs=1e-4)
        assert sum(a["reference"] for a in likeliest) == pytest.approx(1, abs=1e-4)
        assert likeliest == sorted(likeliest, key=lambda a: -a["probability"])
        assert [a["said"] for a in likeliest].index(True) == row["rank"] - 1
    assert [row["text"] for row in rows] == ["x", "␣", "y", "↵", "<|end|>"]
    summed = totals(rows, 2.5)
    assert summed["reward"] == pytest.approx(2.5 - BETA * sum(row["kl"] for row in rows), abs=1e-5)
    without = tokens(four, tiny_tokenizer, episode, section, BETA, critic=False)
    assert {row[name] for row in without for name in ("value", "advantage", "return")} == {None}


def test_long_completions_go_through_in_parts(
    tiny_folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    section, four = settings(), make_roles(tiny_folder, tiny_tokenizer).eval()
    randomise(four, "policy")
    told = episodes(four, tiny_tokenizer, section)[0]
    whole = tokens(four, tiny_tokenizer, told, section, BETA, critic=True)
    monkeypatch.setattr("pipeline.inspect.tokens.CHUNK", 2)
    parts = tokens(four, tiny_tokenizer, told, section, BETA, critic=True)
    expected = pytest.approx([row["kl_whole"] for row in whole], rel=1e-4)  # 2 and 7 rows round differently
    assert len(whole) > 2 and [row["kl_whole"] for row in parts] == expected


def test_pictures_keep_the_strongest() -> None:
    """Weights 0, 1/4, 1 are 0, ½ and all of the way in 15 steps of the root: alpha 0, 8/15 and 15/15 of 255."""

    def alphas(uri: str) -> Any:
        head, _, data = uri.partition(",")
        assert head == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))[:, :, 3]

    weights = np.array([[1.0, 0.0], [0.25, 0.0]])
    assert alphas(inspect_maps.picture(weights)).tolist() == [[255, 0], [255 * 8 // 15, 0]]
    large = np.zeros((100, 100))
    large[99, 3] = 1.0
    pooled = alphas(inspect_maps.picture(large, side=10))
    assert pooled.shape == (10, 10) and pooled[9, 0] == 255 and pooled.sum() == 255


def test_shares_of_attention_by_hand() -> None:
    """Tokens 0 1 2 | 3 4: the completion's are chosen at 2 and 3.

    Row 2: .5 on token 0, .2 + .3 on itself and the one before. Row 3: .1 first, .4 + .2 near, .3 on token 1, which is prompt.
    """
    weights = np.array(
        [[1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.5, 0.2, 0.3, 0, 0], [0.1, 0.3, 0.2, 0.4, 0], [0.9, 0, 0, 0, 0.1]]
    )
    head = inspect_maps._head(weights, 3)
    assert (head.first, head.before, head.prompt) == pytest.approx((0.3, 0.55, 0.15))


def test_attention_is_of_every_layer_and_head_up_to_a_limit(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    found = inspect_maps.attention(model, [5, 6, 7, 8], 2)
    assert list(found) == [1, 2] and [len(heads) for heads in found.values()] == [4, 4]
    for heads in found.values():
        for head in heads:
            assert head.first + head.before + head.prompt == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr(inspect_maps, "MAPS", 4)
    assert list(inspect_maps.attention(model, [5, 6, 7, 8], 2)) == [1]


def test_principal_components_against_the_covariance() -> None:
    """Eigenvectors of the covariance matrix, another way to the same thing; and points on a line, which have one direction."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 6)) @ np.diag([5.0, 3.0, 1.0, 1.0, 0.5, 0.1]) + 7
    places, shares = inspect_maps.principal(points)
    sizes, directions = np.linalg.eigh(np.cov(points.T))
    assert shares == pytest.approx((sizes[::-1][:2] / sizes.sum()).tolist())
    expected = (points - points.mean(0)) @ directions[:, ::-1][:, :2]
    assert np.abs(places) == pytest.approx(np.abs(expected))
    line = np.outer(np.array([-1.0, 0.0, 4.0]), [3.0, 4.0])
    places, shares = inspect_maps.principal(line)
    assert shares == pytest.approx([1, 0]) and places[:, 0] == pytest.approx([-10, -5, 15])


def test_tsne_is_there_where_scikit_learn_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package may not be there; a stand-in with its interface is."""
    states = np.random.default_rng(0).normal(size=(9, 4))
    names, kinds = [str(i) for i in range(9)], ["chosen", "rejected"] * 4 + ["this one"]
    asked: dict[str, Any] = {}

    class TSNE:
        def __init__(self, **how: Any) -> None:
            asked.update(how)

        def fit_transform(self, points: Any) -> Any:
            return points[:, :2]

    real = inspect_maps.importlib.util.find_spec
    there = SimpleNamespace(find_spec=lambda name: object() if name == "sklearn" else real(name))
    monkeypatch.setattr(inspect_maps, "importlib", SimpleNamespace(util=there))
    module = ModuleType("sklearn.manifold")
    module.TSNE = TSNE  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.manifold", module)
    both = inspect_maps.states_figures(states, names, kinds, seed=4)
    assert [figure.title for figure in both] == ["Hidden states, PCA", "Hidden states, t-SNE"]
    assert asked == {"n_components": 2, "perplexity": pytest.approx(8 / 3), "random_state": 4}
    assert both[1].rows[0] == ["0", "chosen", states[0, 0], states[0, 1]]
    there.find_spec = lambda name: None
    assert [figure.title for figure in inspect_maps.states_figures(states, names, kinds, seed=4)] == [
        "Hidden states, PCA"
    ]


# The published run.

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
        assert "script" not in seen.tags and seen.fetched == [] and len(seen.ids) == len(set(seen.ids)) > 20
        assert seen.tags.count("svg") == 4 and seen.tags.count("img") >= 2


@pytest.mark.parametrize(("tuning", "value"), [("full", "adapter"), ("lora", "shared")])
def test_the_other_ways_to_hold_the_roles(made: Run, tuning: str, value: str) -> None:
    name = f"{tuning}-{value}"
    for stage in ("data", "sft", "reward"):
        shutil.copytree(made.folder(stage), made.root / name / stage)
    run_stage("ppo", config(f"ppo.tuning={tuning}", f"ppo.value={value}", "ppo.learning_rate=1e-3"), name)
    samples = [json.loads(line) for line in (made.root / name / "ppo" / "samples.jsonl").read_text().splitlines()]
    page = inspect.run(config(), Run(name), samples[-1]["prompt_id"]).read_text(encoding="utf-8")
    assert visible(samples[-1]["completion"]) in Page(page).text and "the critic expected" in page
    assert ("PCA alone" in page) == (importlib.util.find_spec("sklearn") is None)  # what was used is said
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
    assert "script" not in seen.tags and seen.fetched == [] and "\u202e" not in page and "\x07" not in page
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
    name, prompt = next((p.id, p.prompt) for p in inspect.prompts(made, "eval"))
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
        (["--prompt", " "], 'the prompt is empty; give a text or the id of a held-out prompt: make inspect PROMPT="…"'),
        (["--prompt", "x", "--completion", "many words " * 300], "a page holds 512; give a shorter one"),
        (["--prompt", "x", "--run", "none"], "runs/none"),
        (["--prompt", "x", "--model", "runs/made/data"], "runs/made/data: no tokenizer to be had there"),
    ],
)
def test_mistakes_are_told_in_a_sentence(made: Run, arguments: list[str], said: str) -> None:
    call = ["inspect", str(ROOT / "recipes" / "smoke.yaml"), *SHRUNK, "--run", "made", *arguments]
    done = typer.testing.CliRunner().invoke(app, call)
    assert done.exit_code == 2 and said in done.output, done.output
    assert done.output.startswith("error: ") and len(done.output.strip().splitlines()) == 1


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
    path = Path(done.output.strip().removeprefix("inspect: "))
    assert path.is_file() and path.parent.name == "inspect"


def test_the_critic_is_the_one_that_ppo_left(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of critic.safetensors is in its place, and training had moved it; one that is missing is told."""
    tokenizer, cpu = AutoTokenizer.from_pretrained(made.folder("sft")), torch.device("cpu")
    critic = load_file(made.folder("ppo") / "critic.safetensors")
    before, after = roles.build(config(), made, tokenizer, cpu)[0], roles.trained(config(), made, tokenizer, cpu)[0]
    start, end = dict(before.named_parameters()), dict(after.named_parameters())
    assert len(critic) > 2 and all(torch.equal(end[name], tensor) for name, tensor in critic.items())
    assert any((start[name] - tensor).abs().max() > 1e-3 for name, tensor in critic.items())
    real = roles.load_file

    def without(path: Path) -> dict[str, torch.Tensor]:
        return {n: t for n, t in real(path).items() if path.name != "critic.safetensors" or n != "value_head.bias"}

    monkeypatch.setattr(roles, "load_file", without)
    with pytest.raises(
        ArtifactError, match=r'not those of its settings: value_head\.bias; run "make ppo RUN=made" again'
    ):
        roles.trained(config(), made, tokenizer, cpu)


def test_settings_of_another_version_are_refused(made: Run) -> None:
    found = made.require("ppo", force=True)
    old = {k: v for k, v in found.config["settings"]["ppo"].items() if k != "lam"}
    spoilt = type(found)(**{**vars(found), "config": {"settings": found.config["settings"] | {"ppo": old}}})
    with pytest.raises(ArtifactError, match=r"another version \('lam'\); run \"make ppo RUN=made\" again"):
        inspect.settings_of(spoilt, config())


def test_parts_of_characters_are_spelt(tiny_tokenizer: Any) -> None:
    """A decoder that gives the replacement character, as half a character does."""
    half = SimpleNamespace(decode=lambda ids, **how: "\ufffd", convert_ids_to_tokens=lambda i: "ä½")
    assert shown(half, 3) == "ä½"
    assert shown(tiny_tokenizer, tiny_tokenizer(" ")["input_ids"][0]) == "␣"
