"""Does stage pretrain make a model from nothing, the same however it was interrupted or shared out, and do all others start from it?"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from alike import equal, made
from interruption import stopped_and_started
from several import several
from small_corpus import TINY, sentences, write
from small_walk import manifest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import finished, parents
from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.comparison.contenders import contenders
from pipeline.pages import index
from pipeline.plan import work
from pipeline.running import make_all, run_stage
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.sharing import push
from pipeline.stages import pretrain
from pipeline.training.card import Base
from pipeline.web import curves

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml"
SMOKE = f"data.source={RECIPE.parents[1] / 'data' / 'smoke.jsonl'}"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run whole, in which one process made the model without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("pretrain"))
        write(Path("corpus.jsonl"))
        made(Path("runs/whole"), "pretrain", own())
        yield Path("runs/whole/pretrain")


def own(*more: str) -> list[str]:
    return ["pretrain.source=corpus.jsonl", *(f"pretrain.{name}={value}" for name, value in TINY.items()), *more]


def settings(*more: str) -> Config:
    return load(RECIPE, own(*more))


def test_what_is_published_loads_without_our_code_and_has_learned(folder: Path) -> None:
    model, tokenizer = (
        kind.from_pretrained(folder, trust_remote_code=False) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    told = manifest(folder)
    metrics = told["metrics"]
    assert model.dtype == torch.float32 and len(tokenizer) == 300 and model.config.model_type == "llama"
    assert metrics["bits_per_byte_after"] < metrics["bits_per_byte_before"]
    assert metrics["documents_train"] == 128 and metrics["documents_eval"] == 32
    assert metrics["bytes_train"] + metrics["bytes_eval"] == sum(len(text.encode()) for text in sentences(160))
    assert told["data"]["source"] == "corpus.jsonl" and told["outside"].keys() == {"corpus.jsonl"}
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("chat_template.jinja", "manifest.json", "metrics.jsonl", "samples.jsonl", "samples.md", "README.md"),
    }
    card = (folder / "README.md").read_text()
    assert "text-generation" in card and "corpus.jsonl" in card and "bits a byte of held-out documents |" in card


def test_the_log_has_held_out_bits_as_they_fall_and_samples_of_the_same_prompts(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "eval/bits_per_byte" in row] == [3, 6]
    metrics = manifest(folder)["metrics"]
    assert rows[-1]["eval/bits_per_byte"] == pytest.approx(metrics["bits_per_byte_after"], rel=1e-6)
    assert rows[2]["eval/bits_per_byte"] < metrics["bits_per_byte_before"]
    assert [row["num_tokens"] for row in rows] == [8 * 32 * step for step in range(1, 7)]
    said = [json.loads(line) for line in (folder / "samples.jsonl").open()]
    assert [(row["step"], row["prompt_id"]) for row in said] == [(step, str(n)) for step in (3, 6) for n in range(3)]
    assert [row["prompt"] for row in said[:3]] == [row["prompt"] for row in said[3:]] and said[0]["prompt"] == ""


def test_the_index_of_the_run_shows_it(folder: Path) -> None:
    index.write(Run("whole"))
    page = Path("runs/whole/index.html").read_text()
    assert "held-out bits a byte after" in page and 'href="pretrain/samples.md"' in page


def test_it_can_be_pushed_planned_and_watched(folder: Path) -> None:
    """Without the samples, which are of held-out documents; a plan needs the settings alone; curves have the bits."""
    made = Run("whole").manifest("pretrain")
    assert made is not None and push.models(Run("whole")) == ["pretrain"]
    files, told = push.contents(Run("whole"), "pretrain", made, Base(None), "kim/small", report=True)
    assert "model.safetensors" in files and not [name for name in files if "samples" in name]
    assert b"pipeline_tag: text-generation" in bytes(files["README.md"]) and told == [
        "the licence of the model is not known; LICENSE=… (--license) names it in the card"
    ]
    planned = work._config_of("pretrain", settings("model=pretrain", "pretrain.architecture=gpt2"))
    assert (planned.model_type, planned.n_embd, planned.vocab_size) == ("gpt2", 32, 300)
    _, points = curves.Log(Path("runs/whole"), "pretrain").more()
    assert [point.step for point in points if "bits per byte" in point.values] == [3, 6]
    said = curves.samples(Path("runs/whole"), "pretrain")
    assert said is not None and (said["first"], said["last"], len(said["rows"])) == (3, 6, 3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_interrupted_attempt_goes_on(architecture: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    more = [f"pretrain.architecture={architecture}"] if architecture == "gpt2" else []
    name = f"one-{architecture}"
    made(Path("runs") / name, "pretrain", own(*more))
    run = Path("runs") / f"on-{architecture}"
    stopped_and_started("pretrain", settings(*more), run, monkeypatch)
    equal(Path("runs") / name / "pretrain", run / "pretrain", close=0)
    assert manifest(run / "pretrain")["model"]["architecture"] == architecture


def test_two_processes_make_what_one_makes(folder: Path) -> None:
    several(2, lambda: made(Path("runs/two"), "pretrain", own()))
    equal(folder, Path("runs/two/pretrain"))
    assert manifest(Path("runs/two/pretrain"))["world_size"] == 2


def test_two_processes_fill_what_is_missing_as_one_does(folder: Path) -> None:
    """A T5, whose rows are of other lengths, so that micro-batches and processes say other numbers of tokens."""
    more = own("pretrain.objective=span", "pretrain.vocab_size=384")
    made(Path("runs/one-span"), "pretrain", more)
    several(2, lambda: made(Path("runs/two-span"), "pretrain", more))
    equal(Path("runs/one-span/pretrain"), Path("runs/two-span/pretrain"))
    told = manifest(Path("runs/one-span/pretrain"))
    assert told["metrics"]["hidden_bits_per_byte_after"] < told["metrics"]["hidden_bits_per_byte_before"]
    assert "AutoModelForSeq2SeqLM" in Path("runs/one-span/pretrain/README.md").read_text()


def test_recomputed_layers_learn_the_same(folder: Path) -> None:
    made(Path("runs/recomputed"), "pretrain", own("pretrain.gradient_checkpointing=true"))
    equal(folder, Path("runs/recomputed/pretrain"))


def test_a_changed_corpus_makes_it_and_what_hangs_on_it_again(folder: Path) -> None:
    write(Path("changing.jsonl"))
    config = settings("model=pretrain", "pretrain.source=changing.jsonl", SMOKE)
    run_stage("pretrain", config, "changing")
    run_stage("data", config, "changing")
    run = Run("changing")
    assert finished(run, "pretrain", config) is not None and finished(run, "data", config) is not None
    assert [parent["role"] for parent in manifest(Path("runs/changing/data"))["parents"]] == ["pretrain"]
    write(Path("changing.jsonl"), 170)
    assert finished(run, "pretrain", config) is None and finished(run, "data", config) is not None
    run_stage("pretrain", config, "changing")
    assert finished(run, "data", config) is None
    with pytest.raises(ArtifactError, match="was made from pretrain .* and pretrain is now"):
        run_stage("sft", config, "changing")


def test_nothing_is_made_of_what_failed_its_gate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither data nor sft, unless force=true asks for it; nor of what was damaged, whatever is asked."""
    learned = pretrain.gate
    monkeypatch.setattr(pretrain, "gate", lambda figures: learned(figures | {"bits_per_byte_after": 99.0}))
    config, forced = (settings("model=pretrain", SMOKE, f"force={word}") for word in ("false", "true"))
    run_stage("pretrain", config, "failed")
    refused = "runs/failed/pretrain: failed its gate: .*mend pretrain first"
    with pytest.raises(ArtifactError, match=refused):
        run_stage("data", config, "failed")
    run_stage("data", forced, "failed")
    with pytest.raises(ArtifactError, match=refused):
        run_stage("sft", config, "failed")
    with Path("runs/failed/pretrain/model.safetensors").open("ab") as weights:
        weights.write(b"0")
    with pytest.raises(ArtifactError, match="model.safetensors"):
        run_stage("sft", forced, "failed")


def test_only_who_reads_the_base_has_it_as_a_parent() -> None:
    config = settings("model=pretrain")
    read = {
        stage for stage in ("data", "sft", "reward", "ppo", "dpo", "compare") if "pretrain" in parents(stage, config)
    }
    assert read == {"data", "sft", "compare"} and "pretrain" not in parents("data", settings())
    assert "pretrain" not in parents("compare", settings("model=pretrain", "compare.models=[sft, ppo]"))


WALK = [
    "model=pretrain",
    SMOKE,
    *("pretrain.max_length=96", "pretrain.max_steps=4", "pretrain.vocab_size=280"),
    *(
        "sft.max_steps=2",
        "reward.max_steps=2",
        "reward.normalise_samples=8",
        "ppo.total_episodes=16",
        "ppo.batch_size=8",
    ),
    *("ppo.response_length=6", "ppo.eval_prompts=3", "compare.prompts=4", "compare.perplexity_rows=4"),
    "compare.models=[base, sft, ppo]",
]


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["dtype=bfloat16", "pretrain.architecture=gpt2", "sft.tuning=lora"],
    ],
)
def test_every_stage_starts_from_it(more: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole walk by one command; in bfloat16 what is pretrained is trained and published in float32 all the same."""
    name, order = f"walk{len(more)}", list[str]()

    def here(stages: Sequence[str], call: Call, config: Config) -> None:
        for stage in stages:
            order.append(stage)
            run_stage(stage, config, call.run, call)

    monkeypatch.setattr("pipeline.running.chain", here)
    make_all(Call(str(RECIPE), name, (*own(), *WALK, *more)))
    assert order == ["pretrain", "data", "sft", "reward", "ppo", "compare"]
    run = Path("runs") / name
    compared = contenders(settings(*WALK, *more), Run(name), None)
    assert [one.source for one in compared] == [str(run / stage) for stage in ("pretrain", "sft", "ppo")]
    assert {parent["role"] for parent in manifest(run / "compare")["parents"]} >= {"pretrain", "data", "sft", "ppo"}
    tokenizers = {manifest(run / stage)["tokenizer"] for stage in ("pretrain", "data", "sft", "ppo")}
    assert len(tokenizers) == 1 and manifest(run / "pretrain")["dtype"] == "torch.float32"


def test_an_encoder_decoder_goes_the_whole_walk_from_it(folder: Path) -> None:
    config = settings(*WALK, "pretrain.objective=span", "pretrain.vocab_size=384")
    for stage in ("pretrain", "data", "sft", "reward", "ppo", "compare"):
        run_stage(stage, config, "walk-span")
    told = manifest(Path("runs/walk-span/sft"))
    assert told["tokenizer"] == manifest(Path("runs/walk-span/pretrain"))["tokenizer"]
    assert told["metrics"]["loss_after"] < told["metrics"]["loss_before"]


def test_the_gate_tells_what_has_learned_nothing() -> None:
    figures = {
        "objective": "causal", "bits_per_byte_before": 4.0, "bits_per_byte_after": 2.0, "bits_per_byte_unigram": 3.0,
        "eos_rate": 0.6, "fits_rate": 1.0,
    }  # fmt: skip
    assert pretrain.gate(figures).result == "pass"
    for change, result in [
        ({"bits_per_byte_after": 3.5}, "fail"),  # the frequency of tokens alone is better
        ({"bits_per_byte_after": 5.0, "bits_per_byte_unigram": 6.0}, "fail"),  # it unlearned
        ({"eos_rate": 0.2}, "warn"),
        ({"eos_rate": 0.0, "fits_rate": 0.0}, "pass"),  # no document ends within what the model reads
    ]:
        assert pretrain.gate(figures | change).result == result, change


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["model=pretrain"], ["pretrain.source", "no corpus"]),
        (["pretrain.hidden_size=100", "pretrain.num_attention_heads=8"], ["8 heads do not divide hidden_size 100", "use 4, 5, 10"]),
        (["pretrain.hidden_size=18", "pretrain.num_attention_heads=2"], ["a head of 9 numbers is odd", "hidden_size=20"]),
        (["pretrain.vocab_size=200"], ["pretrain.vocab_size"]),
        (["pretrain.architecture=bloom"], ["pretrain.architecture"]),
        (["pretrain.tuning=lora"], ["pretrain.tuning"]),
        (["pretrain.source=film_reviews", "pretrain.column=text", "pretrain.max_rows=3"], ["column: film_reviews has no use", "max_rows: film_reviews has no use"]),
    ],
)  # fmt: skip
def test_a_mistake_in_the_settings_is_told(given: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as told:
        load(RECIPE, given)
    assert all(part in str(told.value) for part in parts), str(told.value)


def test_without_a_corpus_there_is_nothing_to_make() -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.source: there is no corpus"):
        run_stage("pretrain", load(RECIPE, []), "none")
    with pytest.raises(ConfigError, match=r"pretrain\.batch_size: 9 rows cannot be shared"):
        run_stage("pretrain", settings("pretrain.batch_size=9"), "none")
    with pytest.raises(ArtifactError, match="no finished pretrain in runs/none"):
        run_stage("data", settings("model=pretrain"), "none")
