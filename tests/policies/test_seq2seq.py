"""Does an encoder–decoder say in rows what transformers says with encoder and decoder apart: log-probabilities, logits, greedy and drawn tokens?"""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import BOS, EOS, KINDS, PAD, build_pair, save_pair
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from pipeline.settings.sections import Decoding
from policies.backbone import BackboneError, decoder, load_causal
from policies.decoding import decode
from policies.drawing import Completion, Wanted, choose, noise
from policies.engines import make_engine
from policies.logprobs import completion_logprobs, pack
from policies.plain_sampling import by_forwards, by_generate
from policies.quick.cached import cached
from policies.roles import Roles
from policies.rollout import sample, way_of
from policies.seq2seq import START, Halves, reads_rows, spoken
from policies.template import decode_completion, encode_completion, encode_prompt, encode_turns, joined, read_at_once
from policies.tokenizers import load_tokenizer
from policies.trials import output_layer

F32, BF16 = torch.float32, torch.bfloat16
PROMPTS = [[50, 51, 52, EOS, START], [60, EOS, START], [*range(20, 41), EOS, START]]
SAID = [[70, 71, EOS], [80, 81, 82, 83, 84, EOS], [90]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_pair(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def opened(folder: Path, dtype: torch.dtype = F32) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(folder)
    return load_causal(folder, tokenizer, dtype), tokenizer


def plain(folder: Path, dtype: torch.dtype = F32) -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def by_loss(model: Any, prompt: list[int], said: list[int]) -> float:
    """log π of a completion by transformers' own loss, a mean over its tokens."""
    labels = torch.tensor([said])
    return -model(input_ids=torch.tensor([prompt[:-1]]), labels=labels).loss.item() * len(said)


@torch.no_grad()
def ours(model: Any, rows: slice = slice(None), pad: int = PAD) -> Tensor:
    return completion_logprobs(model, decoder(model), pack(PROMPTS[rows], SAID[rows], pad), 1.0)[0]


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_transformers_loss(
    kind: str, dtype: torch.dtype, folders: dict[str, Path]
) -> None:
    model, _ = opened(folders[kind], dtype)
    theirs = [by_loss(plain(folders[kind], dtype), p, c) for p, c in zip(PROMPTS, SAID, strict=True)]
    assert ours(model).sum(1).tolist() == pytest.approx(
        theirs, rel=1e-5 if dtype == F32 else 2e-2
    )  # in bfloat16 the loss itself is rounded


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str, folders: dict[str, Path]) -> None:
    """Beside longer prompts and completions, whatever number stands in the padding of either half."""
    model, _ = opened(folders[kind])
    together = ours(model)
    torch.testing.assert_close(ours(model, pad=77), together, atol=1e-5, rtol=0.0)
    for row in range(3):
        alone = ours(model, slice(row, row + 1))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=0.0)
    assert (together != 0).sum().item() == sum(map(len, SAID))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_rows_are_the_models_own_and_zero_at_the_prompt(kind: str, folders: dict[str, Path]) -> None:
    model, _ = opened(folders[kind])
    batch, theirs = pack(PROMPTS, SAID, PAD), plain(folders[kind])
    found = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    first = theirs.config.decoder_start_token_id
    for row, (prompt, said) in enumerate(zip(PROMPTS, SAID, strict=True)):
        given = torch.tensor([[first, *said[:-1]]])
        wanted = theirs(input_ids=torch.tensor([prompt[:-1]]), decoder_input_ids=given).logits[0]
        at = len(prompt) - 1
        torch.testing.assert_close(found[row, at : at + len(said)], wanted, atol=1e-5, rtol=0.0)
        assert not found[row, :at].any() and not found[row, at + len(said) :].any()
    # and it is still the model that transformers knows
    own = model(input_ids=torch.tensor([[5, EOS]]), labels=torch.tensor([[6, EOS]]))
    torch.testing.assert_close(
        own.loss, theirs(input_ids=torch.tensor([[5, EOS]]), labels=torch.tensor([[6, EOS]])).loss
    )


def test_the_output_layers_are_found_by_trial(folders: dict[str, Path]) -> None:
    """T5 with tied embeddings multiplies states by d_model^-1/2, BART adds a bias to the product."""
    assert output_layer(opened(folders["t5"])[0]).scale == pytest.approx(32**-0.5)
    assert output_layer(opened(folders["bart"])[0]).scale is None


def test_rows_are_cut_at_start_wherever_their_padding_stands() -> None:
    right = torch.tensor([[5, 6, START, 7, 0], [5, START, 8, 9, 4]])
    left = torch.tensor([[0, 5, 6, START, 7], [5, START, 8, 9, 4]])
    for rows, mask in ((right, [[1, 1, 1, 1, 0], [1] * 5]), (left, [[0, 1, 1, 1, 1], [1] * 5])):
        halves = Halves.of(rows, torch.tensor(mask), 99, 0)
        assert halves.prompt.tolist() == [[5, 6], [5, 0]] and halves.prompt_mask.tolist() == [[1, 1], [1, 0]]
        assert halves.said.tolist() == [[99, 7, 0, 0], [99, 8, 9, 4]]
        said = halves.laid(halves.said[:, :, None].float())[:, :, 0]
        assert said[1].tolist() == [0, 99, 8, 9, 4] and (said[0] != 0).sum() == 2
    assert spoken(right, torch.tensor([[1, 1, 1, 1, 0], [1] * 5])).int().tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]]
    with pytest.raises(ValueError, match="holds START once"):
        Halves.of(torch.tensor([[5, START, START]]), None, 99, 0)


# --- tokens


def test_prompts_and_completions_are_what_the_tokenizer_makes_of_texts_and_labels(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        tokenizer = load_tokenizer(folders[kind])
        prompt, said = encode_prompt(tokenizer, "ab c"), encode_completion(tokenizer, "ab c", " great")
        assert prompt == [*tokenizer("ab c")["input_ids"], START]
        assert said == tokenizer(text_target=" great")["input_ids"] and (said[0] == BOS) == (kind == "bart")
        assert decode_completion(tokenizer, "ab c", said, [EOS]) == " great"
        assert len(encode_prompt(tokenizer, "")) >= 2  # something to encode, and START
        assert read_at_once([*prompt, *said]) == max(len(prompt) - 1, len(said))


def test_a_conversation_is_encoded_whole_and_each_answer_is_a_lesson_of_its_own(folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["t5"])
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    lessons = joined(encode_turns(tokenizer, talk, "d"))
    assert len(lessons) == 2 and all(one.ids.count(START) == 1 for one in lessons)
    for lesson in lessons:
        at = lesson.ids.index(START)
        assert not any(lesson.learned[: at + 1]) and all(lesson.learned[at + 1 :]) and lesson.ids[at - 1] == EOS


# --- sampling


def drawn(model: Any, batch_size: int = 8, way: Any = None) -> list[Completion]:
    prompts = [*PROMPTS, PROMPTS[0], PROMPTS[2]]
    noises = [noise(3, 0, str(i), 0, 14) for i in range(len(prompts))]
    ends = [EOS, *range(4, 100, 9)]  # ends that random models meet
    if way is None:
        return sample(model, prompts, noises, eos_ids=ends, pad_id=PAD, temperature=0.8, batch_size=batch_size)
    uniforms = torch.stack([torch.tensor(one) for one in noises])
    return way(model, Wanted(prompts, uniforms, ends, PAD, 0.8, choose, None))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_has_the_log_probabilities_of_a_training_pass(kind: str, folders: dict[str, Path]) -> None:
    model, _ = opened(folders[kind])
    assert way_of(model) == "cached"
    said = drawn(model)
    batch = pack([*PROMPTS, PROMPTS[0], PROMPTS[2]], [c.tokens for c in said], PAD)
    with torch.no_grad():
        trained, entropies = completion_logprobs(model, decoder(model), batch, 0.8)
    for row, one in enumerate(said):
        torch.testing.assert_close(trained[row, : len(one.tokens)], one.logprobs, atol=1e-4, rtol=0.0)
        torch.testing.assert_close(entropies[row, : len(one.tokens)], one.entropies, atol=1e-4, rtol=0.0)
    assert len({len(one.tokens) for one in said}) > 1
    for again in (
        drawn(model, 1),
        drawn(model, way=cached),
        drawn(model, way=by_generate),
        drawn(model, way=by_forwards),
    ):
        assert [one.tokens for one in again] == [one.tokens for one in said]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_and_beams_are_transformers_own(kind: str, beams: int, folders: dict[str, Path]) -> None:
    model, _ = opened(folders[kind])
    how = Decoding(do_sample=False, num_beams=beams).resolved(1.0, 9)
    found = decode(
        model, PROMPTS, [noise(0, 0, str(i), 0, 9) for i in range(3)], how, eos_ids=[EOS], pad_id=PAD, batch_size=6
    )
    for prompt, one in zip(PROMPTS, found, strict=True):
        theirs = (
            plain(folders[kind])
            .generate(
                torch.tensor([prompt[:-1]]), max_new_tokens=9, do_sample=False, num_beams=beams, length_penalty=1.0
            )[0, 1:]
            .tolist()
        )
        assert one.tokens == theirs[: len(one.tokens)] and set(theirs[len(one.tokens) :]) <= {PAD}


# --- refusals


def test_a_model_without_a_first_token_is_refused(tmp_path: Path) -> None:
    model = build_pair("t5")
    folder = save_pair("t5", tmp_path)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    model.save_pretrained(folder)
    with pytest.raises(BackboneError, match="config.json names no decoder_start_token_id"):
        opened(folder)


@pytest.mark.parametrize("name", ["continuous", "vllm", "vllm_server"])
def test_other_engines_are_refused_in_a_sentence(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model, _ = opened(folders["t5"])
    roles = Roles(model, torch.nn.Linear(32, 1), "shared", reference=model)
    with pytest.raises(
        BackboneError, match=f"^ppo.engine: {name} samples from causal .* T5For.* set ppo.engine=transformers$"
    ):
        make_engine(name, roles, folders["t5"], None, None, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_reads_rows_can_be_copied_and_pickled(kind: str, folders: dict[str, Path]) -> None:
    """One class for all models of a kind, however often one is told to read rows; what comes back says the same."""
    model, _ = opened(folders[kind])
    reads_rows(model, "again")
    assert type(model) is type(opened(folders[kind])[0])
    again = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for one in again:
        assert type(one) is type(model) and torch.equal(ours(one), ours(model))
