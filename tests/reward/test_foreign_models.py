"""Does a reward model from elsewhere read what it was trained on, whole, or is it refused in a sentence? Against plain transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import hub
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)
from zoo.tokenizers import bert, gpt2, llama2, llama3, roberta, t5

from data.schema import Prompt
from pipeline.settings.config import Config, ConfigError
from pipeline.training.seen import check_cut, check_seen, seen
from policies.backbone import load_classifier
from policies.errors import BackboneError
from policies.tokenizers import load_tokenizer
from reward.model import Scorer, forward_of, load_scorer, reading_of

CPU = torch.device("cpu")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
PROMPTS = [
    "The film was",
    "A",
    [
        {"role": "user", "content": "so?"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "and so?"},
    ],
]
SAID = [" great, and good.", " no", "Fine, thanks"]
ENCODERS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "bert": (BertForSequenceClassification, BertConfig, bert, {"max_position_embeddings": 64}),
    "roberta": (
        RobertaForSequenceClassification,
        RobertaConfig,
        roberta,
        {"pad_token_id": 1, "max_position_embeddings": 66},
    ),
    "deberta": (
        DebertaV2ForSequenceClassification,
        DebertaV2Config,
        bert,
        {"max_position_embeddings": 64, "type_vocab_size": 0},
    ),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig, bert, {"max_position_embeddings": 64}),
}
NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def save(folder: Path, kind: Any, config: Any, tokenizer: Any, **more: Any) -> Path:
    torch.manual_seed(0)
    sizes = {NAMES[k] if config is DistilBertConfig and k in NAMES else k: v for k, v in SMALL.items()}
    settings = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer), **sizes, **more}
    kind(config(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shown(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "user: so?\nassistant: no\nuser: and so?"


def scored(folder: Path, inputs: list[dict[str, Any]]) -> torch.Tensor:
    """Each text alone, with no code of ours."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return torch.cat([model(**one).logits[:, 0] for one in inputs])


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_reads_prompt_and_completion_as_its_pair(tmp_path: Path, name: str) -> None:
    kind, config, tokenizer, more = ENCODERS[name]
    folder = save(tmp_path, kind, config, tokenizer(), **more)
    plain = AutoTokenizer.from_pretrained(folder)
    inputs = [dict(plain(shown(p), c, return_tensors="pt")) for p, c in zip(PROMPTS, SAID, strict=True)]
    if name == "distilbert":
        inputs = [{k: v for k, v in one.items() if k != "token_type_ids"} for one in inputs]
    scorer = load_scorer(folder, torch.float32, CPU, 8)
    torch.testing.assert_close(scorer.raw(PROMPTS, SAID), scored(folder, inputs), atol=1e-5, rtol=0)
    assert scorer.manner == "pair" and scorer.counts == {"texts": 3, "cut": 0}
    if name == "bert":
        wrong = [one | {"token_type_ids": 0 * one["token_type_ids"]} for one in inputs]
        assert (scored(folder, wrong) - scorer.raw(PROMPTS, SAID)).abs().max() > 1e-3  # the types matter


def test_an_encoder_with_an_adapter_reads_token_types_too(tmp_path: Path) -> None:
    kind, config, tokenizer, more = ENCODERS["bert"]
    model = load_classifier(
        save(tmp_path, kind, config, tokenizer(), **more), load_tokenizer(tmp_path, scores=True), torch.float32
    )
    inputs = tokenizer()("walk", "good", return_tensors="pt")
    types = inputs["token_type_ids"]
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear")).eval()
    with torch.no_grad():
        read = [forward_of(adapted)(inputs["input_ids"], inputs["attention_mask"], one) for one in (types, 0 * types)]
    assert types.any() and (read[0] - read[1]).abs() > 1e-3


def test_roberta_counts_positions_by_the_pad_of_its_config(tmp_path: Path) -> None:
    """Its tokenizer pads with another token: the config stays as it is, in training too, or positions would move when it is loaded again."""
    tokenizer = roberta()
    tokenizer.pad_token = "<unk>"
    kind, config, _, more = ENCODERS["roberta"]
    folder = save(tmp_path / "a", kind, config, tokenizer, **more)
    inputs = [dict(tokenizer(shown(p), c, return_tensors="pt")) for p, c in zip(PROMPTS, SAID, strict=True)]
    scorer = load_scorer(folder, torch.float32, CPU, 8)
    torch.testing.assert_close(scorer.raw(PROMPTS, SAID), scored(folder, inputs), atol=1e-5, rtol=0)
    load_classifier(folder, load_tokenizer(folder, scores=True), torch.float32).save_pretrained(tmp_path / "b")
    torch.testing.assert_close(scored(tmp_path / "b", inputs), scored(folder, inputs))


@pytest.mark.parametrize("made", [llama3, llama2])
def test_a_chat_model_reads_its_templates_rendering(tmp_path: Path, made: Any) -> None:
    tokenizer = made()
    folder = save(tmp_path, LlamaForSequenceClassification, LlamaConfig, tokenizer, max_position_embeddings=256)
    conversations = []
    for prompt, said in zip(PROMPTS, SAID, strict=True):
        asked: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        conversations.append([*asked, {"role": "assistant", "content": said}])
    inputs = [dict(tokenizer.apply_chat_template(one, return_dict=True, return_tensors="pt")) for one in conversations]
    inputs = [{k: v for k, v in one.items() if k in ("input_ids", "attention_mask")} for one in inputs]
    scorer = load_scorer(folder, torch.float32, CPU, 8)
    assert scorer.manner == "conversation"
    torch.testing.assert_close(scorer.raw(PROMPTS, SAID), scored(folder, inputs), atol=1e-5, rtol=0)
    for prompt, said in zip(PROMPTS[:2], SAID, strict=False):
        assert scorer.row(prompt, said).ids.count(tokenizer.bos_token_id) == 1


def test_a_decoder_without_a_template_reads_the_text_and_its_end(tmp_path: Path) -> None:
    """As TRL's reward models: prompt, completion, EOS. GPT-2 has no pad; the score stands at EOS."""
    tokenizer = gpt2()
    folder = save(tmp_path, LlamaForSequenceClassification, LlamaConfig, tokenizer, max_position_embeddings=256)
    text = "The film was great.<|endoftext|>"
    assert load_scorer(folder, torch.float32, CPU, 8).raw(["The film was", "A"], [" great.", " no"])[
        0
    ].item() == pytest.approx(scored(folder, [dict(tokenizer(text, return_tensors="pt"))]).item(), abs=1e-5)


def test_t5_reads_the_text_and_its_end(tmp_path: Path) -> None:
    """Its score stands at EOS, once in every row."""
    tokenizer = t5()
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "num_heads": 4, "num_layers": 2, "d_ff": 48, "decoder_start_token_id": 0}
    T5ForSequenceClassification(T5Config(vocab_size=len(tokenizer), num_labels=1, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load_scorer(tmp_path, torch.float32, CPU, 8).raw(["The film was", "A"], [" great.", " no"])
    wanted = scored(tmp_path, [dict(tokenizer("The film was great.", return_tensors="pt"))])
    assert found[0].item() == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize("labels", [None, 2])
def test_a_model_of_other_outputs_is_refused_in_a_sentence(tmp_path: Path, labels: int | None) -> None:
    """None: a head of one output, and a config that does not say so, which transformers takes for two."""
    kind, config, tokenizer, more = ENCODERS["bert"]
    folder = save(tmp_path, kind, config, tokenizer(), **{**more, "num_labels": labels or 1})
    if labels is None:
        settings = json.loads((folder / "config.json").read_text())
        kept = {k: v for k, v in settings.items() if k not in ("num_labels", "id2label", "label2id")}
        (folder / "config.json").write_text(json.dumps(kept))
    with pytest.raises(BackboneError, match=r"2 outputs.*; a reward model has one \(num_labels: 1\)"):
        load_scorer(folder, torch.float32, CPU, 8)


def test_a_contract_is_read_from_the_hub(tmp_path: Path) -> None:
    """A stand-in for the Hub serves two models, one with scoring.json; another process loads them by their ids."""
    kind, config, _, more = ENCODERS["bert"]
    tokenizer = bert()
    ours = save(tmp_path / "ours", kind, config, tokenizer, **more)
    theirs = save(tmp_path / "theirs", kind, config, tokenizer, **more)
    (ours / "scoring.json").write_text(json.dumps({"mean": 2.0, "std": 4.0, "max_length": 40, "rendering": "pair"}))
    code = (
        "import torch; from reward.model import load_scorer\n"
        "for name in ('org/ours', 'org/theirs'):\n"
        "    s = load_scorer(name, torch.float32, torch.device('cpu'), 8); print(s.mean, s.std, s.max_length, s([''], ['great']).item())"
    )
    with hub({"org/ours": ours, "org/theirs": theirs}) as address:
        env = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    assert lines[0][:3] == [2.0, 4.0, 40.0] and lines[1][:3] == [0.0, 1.0, 64.0]
    assert lines[0][3] == pytest.approx((lines[1][3] - 2) / 4, abs=1e-5)


# Whole texts


def test_a_prompt_that_fills_the_score_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """Two opposite answers to it would get the same score to seven digits."""
    kind, config, tokenizer, more = ENCODERS["bert"]
    folder = save(tmp_path, kind, config, tokenizer(), **more)
    settings = Config()
    fits, full = (
        Prompt("fits", "walk " * 60, "x"),
        Prompt("full", "walk " * 61, "x"),
    )  # with [CLS] and two [SEP] and "a" 64 and 65 of 64
    assert reading_of(folder).max_length == 64
    check_seen("ppo", settings, [fits], [("mine", folder)])
    with pytest.raises(
        ConfigError, match=r"^ppo: prompt full alone fills the 64 tokens that mine reads, so it would see nothing"
    ):
        check_seen("ppo", settings, [fits, full], [("mine", folder)])


def test_what_is_cut_is_counted_and_held_against_the_gate(tmp_path: Path) -> None:
    kind, config, tokenizer, more = ENCODERS["bert"]
    scorer = load_scorer(save(tmp_path, kind, config, tokenizer(), **more), torch.float32, CPU, 8)
    scorer(["walk " * 50, "walk " * 50, "walk", "walk"], ["good " * 30, "no " * 30, "good", "no"])
    figures = seen([scorer, print])
    assert figures == {"scored/texts": 4.0, "scored/cut": 2.0}
    (line,) = check_cut(figures)
    assert (line.result, line.figure, line.why[:11]) == ("fail", 0.5, "cut: 2 of 4")
    assert [check_cut({"scored/texts": 10.0, "scored/cut": cut})[0].result for cut in (0.0, 1.0, 1.1)] == [
        "pass",
        "warn",
        "fail",
    ]
    assert seen([print]) == {} and check_cut({}) == []
    assert isinstance(scorer, Scorer)
