"""Does a BERT learn masked words and next sentences, in float32 and bfloat16, the same however it is dealt out; and are its figures right?"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from corpus_of_pairs import tokenizer_of, topics
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertForPreTraining

from pipeline.pretraining.masked import IGNORED, Drawn, MaskedCollator, Vocabulary, held_out_rows
from pipeline.pretraining.masked_model import Guess, MaskedTrainer, always, figures, guesses
from pipeline.pretraining.mlm_nsp import new_config
from pipeline.pretraining.next_sentence import of_texts
from pipeline.pretraining.tokenizer import encoder
from pipeline.pretraining.training import Draws, RowArguments
from pipeline.settings.pretrain import Encoder

MOST = 24
TOKENIZER = tokenizer_of(topics(400, 0), 300)
WORDS = Vocabulary.of(TOKENIZER)
PASSAGES, ASKED = (of_texts(topics(count, seed), encoder(TOKENIZER), MOST - 3) for count, seed in ((400, 0), (300, 1)))


def small(hidden: int = 32, seed: int = 0) -> BertForPreTraining:
    torch.manual_seed(seed)
    sizes = {"hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 4, "max_length": MOST}
    config = new_config(Encoder(vocab_size=len(TOKENIZER), **sizes), TOKENIZER)  # type: ignore[arg-type]
    config.initializer_range = 0.1  # it learns in seconds then
    return BertForPreTraining(config)


def trainer(model: Any, folder: Path, steps: int, each: int = 16, batch: int = 16, **more: Any) -> MaskedTrainer:
    order = [int(i) for _ in range(1 + steps * batch // 400) for i in np.random.default_rng(0).permutation(400)]
    arguments = RowArguments(
        output_dir=str(folder),
        per_device_train_batch_size=each,
        gradient_accumulation_steps=batch // each,
        max_steps=steps,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        logging_nan_inf_filter=False,
        **{"learning_rate": 3e-3, "logging_steps": 1, "save_strategy": "no", **more},
    )
    rows = Draws(order, Drawn(PASSAGES, WORDS, MOST, 0))
    made = MaskedTrainer(model=model, args=arguments, train_dataset=rows, data_collator=MaskedCollator(WORDS.pad))
    made.heard, made.tokens_read = SimpleNamespace(taken=dict), [0] * (steps + 1)  # type: ignore[assignment]
    return made


def asked(model: Any) -> dict[str, float]:
    rows = held_out_rows(ASKED, WORDS, MOST, 0)
    return figures(guesses(model.eval(), rows, WORDS.pad, 64), rows, ASKED.documents.tolist())


def test_the_loss_is_that_of_transformers_and_each_figure_a_mean(tmp_path: Path) -> None:
    """One step on a batch, against the loss that BertForPreTraining gives by itself, and accuracies counted by hand."""
    model = small().eval()
    made = trainer(model, tmp_path, 1, save_strategy="no")
    batch: dict[str, Any] = MaskedCollator(WORDS.pad)([made.train_dataset[i] for i in range(16)])
    with torch.no_grad():
        ours = made.compute_loss(model, dict(batch), num_items_in_batch=(batch["labels"] != IGNORED).sum())
        theirs: Any = model(**batch)
    torch.testing.assert_close(ours, theirs.loss)
    hits, count = 0, 0
    for line in range(16):
        for place in range(batch["labels"].shape[1]):
            if batch["labels"][line, place] != IGNORED:
                count += 1
                hits += int(theirs.prediction_logits[line, place].argmax() == batch["labels"][line, place])
    judged = (theirs.seq_relationship_logits.argmax(-1) == batch["next_sentence_label"]).sum().item()
    logs = {"loss": 0.0}
    made.log(logs)
    assert logs["masked_accuracy"] == pytest.approx(hits / count)
    assert logs["next_sentence_accuracy"] == pytest.approx(judged / 16)
    assert logs["masked_loss"] + logs["next_sentence_loss"] == pytest.approx(theirs.loss.item(), rel=1e-5)
    assert made.agreed.sum() == 0


def test_rows_that_are_no_pairs_teach_words_alone(tmp_path: Path) -> None:
    """A batch without a pair has a loss that is a number, and one with a single pair has that pair's."""
    model = small().eval()
    made = trainer(model, tmp_path, 1)
    rows = [made.train_dataset[i] for i in range(4)]
    alone = [row | {"next_sentence_label": IGNORED} for row in rows]
    one = [rows[0], *alone[1:]]
    collate = MaskedCollator(WORDS.pad)
    with torch.no_grad():
        without, with_one = (made.compute_loss(model, dict(collate(part))) for part in (alone, one))
        said: Any = model(**collate(one))
    label = collate(one)["next_sentence_label"]
    expected = cross_entropy(said.seq_relationship_logits, label, ignore_index=IGNORED)
    torch.testing.assert_close(with_one - without, expected)


@pytest.mark.parametrize("each", [8, 4])
def test_a_step_is_the_same_in_micro_batches(tmp_path: Path, each: int) -> None:
    whole, parts = small(), small()
    trainer(whole, tmp_path, 3).train()
    trainer(parts, tmp_path, 3, each).train()
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        if not name.endswith("key.bias"):  # whose gradient is 0 but for rounding, which Adam makes as large as any
            torch.testing.assert_close(a, b, msg=name, atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT after seconds of training."""
    folder = tmp_path_factory.mktemp("learned")
    model = small(64)
    trainer(model, folder, 150, 32, 32, warmup_steps=20, logging_steps=50, adam_beta2=0.98).train()
    model.save_pretrained(folder / "made")
    return folder / "made"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_bert_beats_its_baselines(learned: Path, dtype: torch.dtype) -> None:
    """On documents that it never saw: words above the most frequent token, next sentences above a coin, intervals and all."""
    before, after = asked(small(64)), asked(BertForPreTraining.from_pretrained(learned, dtype=dtype))
    rows = held_out_rows(ASKED, WORDS, MOST, 0)
    unigram = max(always(token, rows) for token in range(len(TOKENIZER)))
    assert 0.1 < unigram < 0.4 and after["masked_low"] > max(unigram + 0.05, before["masked_high"])
    assert before["next_sentence_low"] <= 0.5 <= before["next_sentence_high"] and after["next_sentence_low"] > 0.6


def test_labels_the_other_way_round_are_seen(tmp_path: Path) -> None:
    """Of pairs, in training alone: the held-out accuracy falls below a coin's."""
    model = small(64)
    made = trainer(model, tmp_path, 150, 32, 32, warmup_steps=20, logging_steps=50, adam_beta2=0.98)
    collate: Any = made.data_collator
    made.data_collator = lambda rows: (
        (found := collate(rows)) | {"next_sentence_label": 1 - found["next_sentence_label"]}
    )
    made.train()
    assert asked(model)["next_sentence_high"] < 0.4


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = small()
    trainer(whole, tmp_path / "a", 6).train()
    trainer(small(), tmp_path / "b", 6, save_strategy="steps", save_steps=3).train()
    further = small(seed=1)
    second = trainer(further, tmp_path / "b", 6)
    second.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3"))
    for (name, a), b in zip(whole.named_parameters(), further.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_it_is_read_by_the_plain_classes_and_says_the_same(tmp_path: Path) -> None:
    model = small().eval()
    model.save_pretrained(tmp_path)
    inputs = TOKENIZER("cat dog。", "米饭", return_tensors="pt")
    assert set(inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    loaded: Any = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).prediction_logits)
    classifier: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert torch.equal(classifier.bert.pooler.dense.weight, model.bert.pooler.dense.weight)


# Figures against what is counted by hand


def test_figures_are_counted() -> None:
    rows = [
        {"labels": [IGNORED, 8, 8, IGNORED], "next_sentence_label": 0},
        {"labels": [9, IGNORED, 7, 8], "next_sentence_label": 1},
        {"labels": [9, IGNORED, IGNORED, IGNORED], "next_sentence_label": IGNORED},
    ]
    said = [Guess(2.0, 2, 2, 0.5, True), Guess(6.0, 1, 3, 1.5, False), Guess(1.0, 1, 1, 0.0, None)]
    found = figures(said, rows, [0, 1, 2])
    assert always(8, rows) == 3 / 6 and always(9, rows) == 2 / 6 and always(5, rows) == 0
    assert found["masked_accuracy"] == 4 / 6 and found["masked_loss"] == 9 / 6
    assert found["next_sentence_accuracy"] == 0.5 and found["next_sentence_loss"] == 1.0
    assert (found["next_sentence_low"], found["next_sentence_high"]) == (0.0, 1.0)
    assert 1 / 3 == found["masked_low"] < 4 / 6 < found["masked_high"] == 1.0


def test_guesses_are_those_of_the_whole_model_whatever_the_batch() -> None:
    model = small().eval()
    rows = held_out_rows(ASKED, WORDS, MOST, 0)[:20]
    found = guesses(model, rows, WORDS.pad, 7)
    for row, one in zip(rows, found, strict=True):
        with torch.no_grad():
            said: Any = model(torch.tensor([row["input_ids"]]), token_type_ids=torch.tensor([row["token_type_ids"]]))
        labels = torch.tensor(row["labels"])
        words = said.prediction_logits[0]
        assert one.count == (labels != IGNORED).sum() and one.right == (words.argmax(-1) == labels).sum()
        assert one.loss == pytest.approx(cross_entropy(words, labels, reduction="sum").item(), rel=1e-4)
        assert one.judged == (said.seq_relationship_logits[0].argmax().item() == row["next_sentence_label"])
        label = torch.tensor([row["next_sentence_label"]])
        assert one.pair == pytest.approx(cross_entropy(said.seq_relationship_logits, label).item(), rel=1e-4)
