"""Is what GenerationConfig's names promise what is said: greedy, beams, draws from what top-k, top-p and min-p leave, told as it was?"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saying import figures_of
from tiny import EOS, PAD, STOP, drawn
from transformers import AutoModelForCausalLM

from pipeline.artifacts.freshness import section_values
from pipeline.settings.config import ConfigError
from pipeline.settings.recipe import load
from pipeline.settings.sections import Decoding, Resolved
from policies.backbone import load_causal
from policies.decoding import _choice, decode
from policies.drawing import Completion, noise
from policies.rollout import sample

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 12
PROMPTS = [[5], [9, 7, 30, 12, 44], [60, 61, 3], [8] * 11, [40, 41], [9, 7], [22] * 6, [5, 6, 7, 8, 9, 10, 11]]
NOISES = [noise(0, 4, f"p{i}", 0, LIMIT) for i in range(len(PROMPTS))]
CUT: list[dict[str, Any]] = [
    {"top_k": 5},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"temperature": 0.5, "top_p": 0.8},
    {"temperature": 1.5, "top_k": 4, "top_p": 0.8},
    {"temperature": 0.7, "top_k": 6, "top_p": 0.9, "min_p": 0.15},
]


def likelier_ends(model: Any) -> Any:
    with torch.no_grad():
        model.lm_head.weight[[EOS, STOP]] *= 2.5
    return model


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tiny_tokenizer: Any) -> Any:
    return likelier_ends(load_causal(tiny_folder, tiny_tokenizer, torch.float32))


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Any:
    """The same model as transformers loads it."""
    return likelier_ends(AutoModelForCausalLM.from_pretrained(tiny_folder)).eval()


def resolved(**given: Any) -> Resolved:
    return Decoding(**given).resolved(1.0, LIMIT)


def said(model: Any, how: Resolved, prompts: list[list[int]] = PROMPTS, **more: Any) -> list[Completion]:
    given: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "batch_size": 8} | more
    return decode(model, prompts, NOISES[: len(prompts)], how, **given)


def generated(plain: Any, prompt: list[int], **how: Any) -> list[int]:
    """What transformers says to one prompt, alone and without padding."""
    given: dict[str, Any] = {"max_new_tokens": LIMIT, "eos_token_id": [EOS, STOP], "pad_token_id": PAD}
    return plain.generate(torch.tensor([prompt]), **given, **how)[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


def by_hand(z: np.ndarray, how: Resolved) -> np.ndarray:
    """The probabilities that are left, (V,) float64: sorted, cut off one after another, each time shared out anew."""
    p = np.exp((z - z.max()) / how.temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    if how.top_k:
        p[order[how.top_k :]] = 0
        p /= p.sum()
    if how.top_p < 1:
        before = np.cumsum(p[order]) - p[order]  # of what is likelier
        p[order[before >= how.top_p]] = 0
        p /= p.sum()
    p[p < how.min_p * p.max()] = 0
    return p / p.sum()


def last_logits(plain: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return plain(torch.tensor([ids])).logits[0, -1].double().numpy()  # type: ignore[no-any-return]


def test_greedy_is_transformers_greedy(model: Any, plain: Any) -> None:
    found = said(model, resolved(do_sample=False))
    assert [c.tokens for c in found] == [generated(plain, p, do_sample=False) for p in PROMPTS]
    assert {c.finished for c in found} == {True, False}
    assert [c.finished for c in found] == [c.tokens[-1] in (EOS, STOP) for c in found]
    other = decode(
        model, PROMPTS, NOISES[::-1], resolved(do_sample=False), eos_ids=[EOS, STOP], pad_id=PAD, batch_size=3
    )
    assert [c.tokens for c in other] == [c.tokens for c in found]  # whatever the noise


@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_is_transformers_beam_search(model: Any, plain: Any, beams: int) -> None:
    """In batches, with padding, and without what the model's own generation config says, which is kept."""
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.length_penalty = -3.0
    before, done = model.generation_config, list[int]()
    try:
        found = said(model, resolved(do_sample=False, num_beams=beams), progress=done.append)
        assert model.generation_config is before
    finally:
        del before.repetition_penalty, before.length_penalty
    assert [c.tokens for c in found] == [generated(plain, p, do_sample=False, num_beams=beams) for p in PROMPTS]
    assert [c.finished for c in found] == [c.tokens[-1] in (EOS, STOP) for c in found]
    assert {c.finished for c in found} == {True, False} and sum(done) == len(PROMPTS) and max(done) == 8 // beams
    assert [c.tokens for c in found] != [c.tokens for c in said(model, resolved(do_sample=False))]


def test_a_beam_is_drawn_by_its_own_noise(model: Any, plain: Any) -> None:
    """As generate draws for that prompt alone, from a generator with the noise's first number for a seed; torch's own stays as it was."""
    how = resolved(do_sample=True, num_beams=3, top_k=20)
    state = torch.get_rng_state()
    found = said(model, how)
    assert torch.equal(torch.get_rng_state(), state)
    expected = []
    for prompt, own in zip(PROMPTS, NOISES, strict=True):
        with torch.random.fork_rng([]):
            torch.manual_seed(int(own[0] * 2**53))
            expected.append(generated(plain, prompt, do_sample=True, num_beams=3, top_k=20))
    assert [c.tokens for c in found] == expected
    assert [c.tokens for c in said(model, how, PROMPTS[:3])] == [c.tokens for c in found[:3]]


def test_all_that_is_left_open_draws_as_ppo_does(model: Any) -> None:
    """Bit for bit."""
    for temperature in (1.0, 0.7):
        expected = sample(
            model, PROMPTS, NOISES, eos_ids=[EOS, STOP], pad_id=PAD, temperature=temperature, batch_size=8
        )
        assert figures_of(said(model, Decoding().resolved(temperature, LIMIT))) == figures_of(expected)
        assert figures_of(said(model, resolved(temperature=temperature, top_p=1, num_beams=1))) == figures_of(expected)


@pytest.mark.parametrize("given", CUT)
def test_a_draw_inverts_the_renormalised_distribution(model: Any, plain: Any, given: dict[str, Any]) -> None:
    """Token for token: from those left, as `drawn` says. numpy, float64, one row at a time."""
    how, cut = resolved(**given), 0
    for completion, prompt, own in zip(said(model, how), PROMPTS, NOISES, strict=True):
        for t, token in enumerate(completion.tokens):
            z = last_logits(plain, prompt + completion.tokens[:t])
            p = by_hand(z, how)
            assert token == drawn(p, own[t]) and p[token] > 0
            cut += int((p == 0).sum())
    assert cut > 1000


@pytest.mark.parametrize("given", CUT)
def test_frequencies_are_those_that_are_left(given: dict[str, Any]) -> None:
    """χ² of 50,000 draws; at most 7 degrees of freedom: above 24.3 in one of a thousand. The seed is fixed."""
    z = torch.tensor([1.0, -1.0, 0.3, 2.0, -3.0, 0.1, 0.0, 1.5])
    how = resolved(**given)
    uniform = torch.tensor(np.random.default_rng(0).random(50_000))
    tokens, logprobs, entropies = _choice(how)(z.expand(50_000, -1), uniform, how.temperature)
    p = by_hand(z.double().numpy(), how)
    observed = np.bincount(tokens.numpy(), minlength=8)
    assert (observed[p == 0] == 0).all() and 1 < (p > 0).sum() < 8
    expected = 50_000 * p[p > 0]
    assert ((observed[p > 0] - expected) ** 2 / expected).sum() < 24.3
    whole = torch.log_softmax(z.double() / how.temperature, -1)  # what is told is of the whole distribution
    torch.testing.assert_close(logprobs.double(), whole[tokens], atol=1e-5, rtol=0)
    assert entropies[0].item() == pytest.approx(-(whole.exp() * whole).sum().item(), abs=1e-5)


@pytest.mark.parametrize("given", [{"do_sample": False}, {"do_sample": False, "num_beams": 3}, {"top_k": 3}])
def test_log_probabilities_are_of_the_whole_distribution(model: Any, plain: Any, given: dict[str, Any]) -> None:
    """At ppo's temperature where nothing is drawn."""
    how = Decoding(**given).resolved(0.8, LIMIT)
    for completion, prompt in zip(said(model, how, PROMPTS[:4]), PROMPTS, strict=False):
        assert len(completion.logprobs) == len(completion.entropies) == len(completion.tokens)
        for t, token in enumerate(completion.tokens):
            z = last_logits(plain, prompt + completion.tokens[:t]) / 0.8
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            assert completion.logprobs[t] == pytest.approx(np.log(p[token]), abs=1e-4)
            assert completion.entropies[t] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "sampling, temperature 0.8, at most 24 tokens"),
        ({"do_sample": False, "max_new_tokens": 9}, "greedy, at most 9 tokens"),
        ({"do_sample": False, "num_beams": 4}, "beam search, 4 beams, at most 24 tokens"),
        (
            {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
            "sampling, temperature 0.7, top_k 50, top_p 0.9, min_p 0.05, at most 24 tokens",
        ),
        (
            {"do_sample": True, "num_beams": 4, "top_k": 50},
            "beam sampling, 4 beams, temperature 0.8, top_k 50, at most 24 tokens",
        ),
    ],
)
def test_a_way_of_decoding_is_told_in_words(given: dict[str, Any], words: str) -> None:
    how = Decoding(**given).resolved(0.8, 24)
    assert how.words() == words
    assert ("temperature" in how.acting()) == how.do_sample and how.acting()["num_beams"] == how.num_beams


def told(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(ROOT / "recipes" / "smoke.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["compare.generation={do_sample: false, top_k: 4, min_p: 0.1}"], "top_k, min_p: nothing is drawn where do_s"),
        (["rft.generation={do_sample: false, temperature: 0.7}"], "temperature: nothing is drawn where do_sample is f"),
        (
            ["inspect.generation.num_beams=4"],
            "beam search with do_sample: false and beam sampling with do_sample: true",
        ),
        (["rft.generation.do_sample=false"], "the 4 completions of a prompt are the same; set it to true"),
        (["compare.generation.do_sample=false", "compare.samples_per_prompt=2"], "2 samples are the same where"),
        (["compare.generation.do_sample=false", "compare.models=[sft, best_of_4]"], "best_of_4 picks among samples"),
        (["compare.generation.top_p=0"], "compare.generation.top_p: is 0; set it to above 0"),
        (["compare.generation.min_p=1.5"], "compare.generation.min_p: is 1.5; set it to at most 1"),
        (["compare.generation.top_k=-1"], "compare.generation.top_k: is -1; set it to at least 0"),
        (["ppo.top_k=5"], "ppo learns from draws of the whole distribution at ppo.temperature, whose log-prob"),
        (["rloo.generation.top_p=0.9"], "what a comparison says is set by compare.generation.top_p"),
        (["compare.temperature=0.5"], "no such setting; did you mean compare.generation.temperature?"),
        (["best_of_n.top_k=5"], "no such setting; did you mean compare.generation.top_k?"),
        (["rft.max_new_tokens=5"], "no such setting; did you mean rft.generation.max_new_tokens?"),
    ],
)
def test_what_makes_no_sense_together_is_told(overrides: list[str], line: str) -> None:
    found = told(*overrides)
    assert line in found and len(found.splitlines()) == 1 and found.startswith(overrides[0].partition("=")[0])


def test_a_recipe_says_it_for_each_command_apart(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "compare:\n  samples_per_prompt: 1\n  generation:\n    do_sample: false\n    num_beams: 3\nrft:\n  generation: {top_k: 7}\n"
    )
    config = load(path, ["inspect.generation.top_p=0.9", "ppo.temperature=0.6"])
    ways = [
        place.resolved(config.ppo.temperature, config.ppo.response_length).words()
        for place in (config.compare.generation, config.rft.generation, config.inspect.generation)
    ]
    assert ways == [
        "beam search, 3 beams, at most 32 tokens",
        "sampling, temperature 0.6, top_k 7, at most 32 tokens",
        "sampling, temperature 0.6, top_p 0.9, at most 32 tokens",
    ]


def test_it_decides_what_is_made_again() -> None:
    """compare.generation: the comparison and the samples that it picks from, and nothing that is trained."""
    before, after = (load(ROOT / "recipes" / "smoke.yaml", o) for o in ([], ["compare.generation.top_p=0.9"]))
    stages = ("data", "sft", "reward", "ppo", "dpo", "rloo", "rft", "best_of_n", "compare")
    assert [s for s in stages if section_values(before, s) != section_values(after, s)] == ["best_of_n", "compare"]
