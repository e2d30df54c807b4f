"""Is a text that passes the model's context refused before anything is loaded, by its row, and is a full context still read?"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BloomConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    LlamaConfig,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from pipeline.artifacts.run import Run
from pipeline.inspect import look
from pipeline.running import run_stage
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load
from policies.blueprint import readable
from reward import model as scoring

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = 64
LONGEST = 53  # characters of the longest prompt of data/smoke.jsonl, each a token
SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    f"data.max_length={CONTEXT}",
    "data.eval_fraction=0.3333",
    *(f"{stage}.max_steps=2" for stage in ("sft", "reward", "dpo", "kto", "rft")),
    *("sft.max_new_tokens=8", "reward.max_new_tokens=8", "reward.normalise_samples=64"),
    *("ppo.total_episodes=64", "ppo.batch_size=32", "ppo.eval_prompts=12", "ppo.num_ppo_epochs=1"),
    *("rloo.batch_size=16", "rloo.per_device_train_batch_size=8", "rft.n=2", "best_of_n.n=4"),
    *("compare.models=[base,sft,ppo]", "compare.perplexity_rows=8"),
]
ROOM = CONTEXT - LONGEST  # new tokens of a completion


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A GPT-2 with so many learned positions, and the tokenizer of the tiny model."""
    folder = tmp_path_factory.mktemp("gpt2")
    shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    GPT2LMHeadModel(GPT2Config(n_positions=CONTEXT, eos_token_id=1, bos_token_id=None, **shape)).save_pretrained(folder)
    return folder


def config(folder: Path, *more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [f"model={folder}", *SHRUNK, f"ppo.response_length={ROOM - 1}", *more])


@pytest.fixture(scope="module")
def walked(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run at the very edge: data.max_length is the context, and the longest completion with its EOS is the last that fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("edge"))
        for stage in ("data", "sft", "reward", "ppo", "dpo", "kto"):
            run_stage(stage, config(learned), "edge")
        yield Path("runs/edge")


@pytest.mark.parametrize("stage", ["rloo", "rft", "best_of_n", "compare"])
def test_a_full_context_is_read(walked: Path, learned: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing scores on the policy's base there, so the EOS needs no place. The longest prompt and all that may follow it fill the
    context, to the last position."""
    read, trials = [0], []

    def note(module: torch.nn.Module, given: object, named: dict[str, Any], states: Any) -> None:
        if not trials and (at := named.get("position_ids")) is not None:
            read.append(int(at.max()) + 1)

    def tried(*given: Any) -> Any:
        trials.append(given)  # what a scorer reads while it is tried, the whole context too
        found = right(*given)
        trials.clear()
        return found

    right = scoring._try
    monkeypatch.setattr(scoring, "_try", tried)
    hook = torch.nn.modules.module.register_module_forward_hook(note, with_kwargs=True)
    try:
        run_stage(stage, config(learned, f"ppo.response_length={ROOM}"), "edge")
    finally:
        hook.remove()
    assert (walked / stage / "manifest.json").is_file()
    assert max(read) == CONTEXT


@pytest.mark.parametrize(
    ("stage", "more", "said"),
    [
        ("sft", ["data.max_length=65"], r"sft: \S+ has 65 tokens, and .* reads 64; lower data.max_length to 64"),
        ("sft", [f"sft.max_new_tokens={CONTEXT}"], "sft.max_new_tokens adds 64, and .* lower sft.max_new_tokens to "),
        ("reward", ["data.max_length=65"], r"ranking smoke-\d\d has 65 tokens, .* lower data.max_length to 64"),
        ("reward", [f"reward.max_new_tokens={CONTEXT}"], "lower reward.max_new_tokens to "),
        ("ppo", [f"ppo.response_length={ROOM}"], f"has {LONGEST} tokens and .* adds {ROOM} and an EOS.* to {ROOM - 1}"),
        ("ppo", ["ppo.ptx_coef=0.1", "data.max_length=65"], "demonstration .* lower data.max_length to 64"),
        ("dpo", ["data.max_length=65"], r"dpo: ranking smoke-\d\d has 65 tokens, .* lower data.max_length to 64"),
        ("kto", ["data.max_length=65"], "kto: prompt .* has 65 tokens, .* lower data.max_length to 64"),
        ("rloo", [f"ppo.response_length={ROOM + 1}"], f"rloo: prompt .* lower ppo.response_length to {ROOM}"),
        ("rft", [f"rft.generation.max_new_tokens={CONTEXT}"], "lower rft.generation.max_new_tokens to "),
        ("best_of_n", ["compare.generation.max_new_tokens=64"], f"lower compare.generation.max_new_tokens to {ROOM}"),
        ("compare", [f"ppo.response_length={ROOM + 1}"], "compare: base: prompt .* lower ppo.response_length to "),
        ("compare", ["compare.models=[few_shot,sft]"], "compare: few_shot: prompt .* lower compare.few_shot"),
    ],
)
def test_one_token_more_is_refused(walked: Path, learned: Path, stage: str, more: list[str], said: str) -> None:
    """Before a model is loaded, and in one sentence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("a model was loaded"))
        with pytest.raises(ConfigError, match=said) as error:
            run_stage(stage, config(learned, "force=true", *more), "edge")
    assert "\n" not in str(error.value) and str(error.value).endswith("or use a model that reads more")


def test_a_page_of_one_completion_has_the_same_limit(walked: Path, learned: Path) -> None:
    for given, said in ((None, "lower ppo.response_length to"), ("b" * 60, "give a shorter one")):
        with pytest.raises(ConfigError, match=f"inspect: prompt a+.* {said}"):
            look.run(config(learned), Run("edge"), "a" * 55, given)


SIZES: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("shape", "limit"),
    [
        (GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=48), 48),
        (OPTConfig(ffn_dim=64, max_position_embeddings=48, word_embed_proj_dim=16, **SIZES), 48),  # a table of 50
        (RobertaConfig(intermediate_size=64, max_position_embeddings=48, pad_token_id=1, **SIZES), 46),
        (BertConfig(intermediate_size=64, max_position_embeddings=48, **SIZES), 48),
        (LlamaConfig(intermediate_size=64, max_position_embeddings=48, **SIZES), 48),
        (LlamaConfig(intermediate_size=64, max_position_embeddings=32, rope_parameters=YARN, **SIZES), 128),
        (GPTJConfig(vocab_size=99, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=48), 48),
        (BloomConfig(vocab_size=99, hidden_size=32, n_layer=2, n_head=4), None),
    ],
    ids=lambda one: type(one).__name__,
)
def test_how_much_a_model_reads(tmp_path: Path, shape: Any, limit: int | None) -> None:
    shape.save_pretrained(tmp_path)
    assert readable(tmp_path) == limit


@pytest.mark.parametrize(
    "model",
    [
        OPTForCausalLM(OPTConfig(ffn_dim=64, max_position_embeddings=48, word_embed_proj_dim=32, **SIZES)),
        RobertaModel(RobertaConfig(intermediate_size=64, max_position_embeddings=48, pad_token_id=1, **SIZES)),
        BertModel(BertConfig(intermediate_size=64, max_position_embeddings=48, **SIZES)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_it_is_the_last_length_that_the_model_itself_takes(tmp_path: Path, model: Any) -> None:
    model.save_pretrained(tmp_path)
    limit = readable(tmp_path)
    assert limit is not None
    model.eval()(input_ids=torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 5))
