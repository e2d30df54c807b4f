"""Does every kind of tokenizer give back what it was given, end where its template ends, and train without a difference?"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_roles, run, settings
from transformers import AutoTokenizer, LlamaForCausalLM
from zoo.tokenizers import DEEPSEEK, ENDS, KWARGS, LOSSY, POLICIES, save

from policies.backbone import load_causal
from policies.engines import transformers_engine
from policies.episodes import as_asked, roll_out
from policies.errors import BackboneError
from policies.framing import around
from policies.template import closing, decode_completion, encode_completion, encode_prompt, encode_turns
from policies.tokenizers import eos_ids, load_tokenizer

CHAT = [{"role": "user", "content": "Hello there"}]
PROMPTS: list[Any] = [
    "The film was",
    "The film was ",
    "so:\n",
    "",
    "影评",
    "🎬",
    CHAT,
    [*CHAT, {"role": "assistant", "content": "so"}, *CHAT],
]
TEXTS = [
    "great.",
    " great.",
    "  great",
    "\ngreat",
    "\n",
    " ",
    "",
    "Great film ",
    "don't , so .",
    "影评很好。",
    "🎬🎬",
    "12 345",
    "Ünï «x»",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in POLICIES}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: load_tokenizer(folder, chat_template_kwargs=KWARGS.get(name)) for name, folder in folders.items()}


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in LOSSY])
def test_texts_come_back_as_they_are(tokenizers: dict[str, Any], name: str) -> None:
    made = tokenizers[name]
    for prompt in PROMPTS:
        end = closing(made, prompt)
        for text in TEXTS:
            ids = encode_completion(made, prompt, text)
            assert ids[-1] == end and decode_completion(made, prompt, ids, [end]) == text, (prompt, text)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in LOSSY])
def test_a_completion_reads_as_it_does_behind_its_prompt(tokenizers: dict[str, Any], name: str) -> None:
    """The whole, decoded by the tokenizer with no code of ours, is prompt and completion, no space more and none less."""
    made = tokenizers[name]
    for prompt in ("The film was", "so:\n", "A", "影评"):
        for text in TEXTS:
            whole = encode_prompt(made, prompt) + encode_completion(made, prompt, text)
            said = made.decode(whole, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            assert said.removeprefix(" " if name == "prefixed" else "") == prompt + text


def test_llama2_says_the_word_with_its_space(tokenizers: dict[str, Any]) -> None:
    """ "The film was" + "▁great" once read "The film wasgreat"."""
    made = tokenizers["llama2"]
    ids = made.convert_tokens_to_ids(["▁great", "</s>"])
    assert decode_completion(made, "The film was", ids, ids[-1:]) == " great"
    assert decode_completion(made, "", ids, ids[-1:]) == "great"  # where a text begins
    assert decode_completion(made, CHAT, ids, ids[-1:]) == "great"  # the template's own space
    assert encode_completion(made, "The film was", " great") == encode_completion(made, "", "great") == ids


@pytest.mark.parametrize("name", ["gpt2", "llama2", "gemma"])
def test_a_character_cut_in_the_middle_is_no_fault(tokenizers: dict[str, Any], name: str) -> None:
    made = tokenizers[name]
    for prompt in ("The film was", "🎬", CHAT):
        tail = name == "llama2" and prompt is CHAT  # the template's space before the end
        ids = encode_completion(made, prompt, "so 🎬")[: -3 if tail else -2]  # without its last byte and the end
        said = decode_completion(made, prompt, ids, [])
        assert said.startswith("so ") and set(said[3:]) == {"\ufffd"}


@pytest.mark.parametrize("name", POLICIES)
def test_prompt_and_completion_are_the_templates_own_rendering(tokenizers: dict[str, Any], name: str) -> None:
    """Token by token, as transformers renders the whole conversation; DeepSeek's closed thought is the one thing it has not."""
    made = tokenizers[name]
    answer = {"role": "assistant", "content": "Fine, thanks"}
    theirs = made.apply_chat_template([*CHAT, answer], tokenize=True, return_dict=False)
    ours = encode_prompt(made, CHAT) + encode_completion(made, CHAT, "Fine, thanks")
    if name == "deepseek":
        thought = made("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"]
        begin = len(encode_prompt(made, CHAT)) - len(thought)
        assert ours[begin : begin + len(thought)] == thought
        ours = ours[:begin] + ours[begin + len(thought) :]
    assert theirs[: len(ours)] == ours
    assert made.decode(theirs[len(ours) :], skip_special_tokens=True).strip() == ""
    ((asked, said),) = encode_turns(made, CHAT, "Fine, thanks")
    assert asked == encode_prompt(made, CHAT) and said == encode_completion(made, CHAT, "Fine, thanks")
    bos = made.bos_token_id
    if bos in made("a")["input_ids"]:
        assert ours.count(bos) == 1 and ours[0] == bos
        assert encode_prompt(made, "so").count(bos) == 1


@pytest.mark.parametrize(
    ("name", "turn", "text"),
    [
        ("gpt2", "<|endoftext|>", "<|endoftext|>"),
        ("llama2", "</s>", "</s>"),
        ("gemma", "<end_of_turn>", "<eos>"),
        ("llama3", "<|eot_id|>", "<|end_of_text|>"),
        ("deepseek", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("qwen3", "<|im_end|>", "<|im_end|>"),
    ],
)
def test_a_turn_ends_as_the_template_ends_it(
    folders: dict[str, Path], tokenizers: dict[str, Any], name: str, turn: str, text: str
) -> None:
    made = tokenizers[name]
    assert made.convert_ids_to_tokens([closing(made, CHAT), closing(made, "so")]) == [turn, text]
    model = load_causal(folders[name], made, torch.float32)
    every = sorted(made.convert_tokens_to_ids([*{turn, text, *ENDS.get(name, [])}]))
    assert eos_ids(model, made) == every
    named = model.generation_config.eos_token_id  # so that what is published ends there too
    assert (named if isinstance(named, list) else [named]) == every


def test_every_end_finishes_a_completion(folders: dict[str, Path], tokenizers: dict[str, Any], tmp_path: Path) -> None:
    """Llama 3 has three: each ends sampling, counts as an end, and is no part of the text that is scored."""
    made = tokenizers["llama3"]
    for end in ENDS["llama3"]:
        roles = make_roles(folders["llama3"], made)
        with torch.no_grad():  # it is said wherever there is a choice
            model: Any = roles.causal
            model.lm_head.weight[made.convert_tokens_to_ids(end)] *= 6
        rows: Any = [{"id": str(i), "prompt": prompt} for i, prompt in enumerate([CHAT, "The film", "so", "A"] * 8)]
        said = roll_out(roles, transformers_engine(roles), made, as_asked(made, rows), 0, settings(), 1, {})
        last = made.convert_tokens_to_ids(end)
        ended = [e for e in said if e.completion.tokens[-1] == last]
        assert ended and all(e.completion.finished and end not in e.text for e in ended)
        assert all(last not in e.completion.tokens[:-1] for e in said)


@pytest.mark.parametrize("name", POLICIES)
def test_a_step_of_ppo_starts_at_ratio_one(
    folders: dict[str, Path], tokenizers: dict[str, Any], name: str, tmp_path: Path
) -> None:
    roles = make_roles(folders[name], tokenizers[name])
    result, logged = run(roles, tokenizers[name], settings(total_episodes=8, num_ppo_epochs=1), tmp_path)
    assert result.halted is None
    assert logged[0]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert logged[0]["val/ratio"] == pytest.approx(1.0, abs=1e-5) and logged[0]["val/ratio_var"] < 1e-6


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_is_added_that_could_be_sampled(
    folders: dict[str, Path], tokenizers: dict[str, Any], name: str
) -> None:
    model: Any = load_causal(folders[name], tokenizers[name], torch.float32)
    plain: Any = LlamaForCausalLM.from_pretrained(folders[name])
    assert torch.equal(model.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    assert torch.equal(model.get_output_embeddings().weight, plain.get_output_embeddings().weight)


def test_rows_beyond_the_tokenizer_read_as_nothing(tmp_path: Path) -> None:
    """A vocabulary padded to a multiple of 64: its author's rows may be said, and have no text."""
    folder = save("gpt2", tmp_path / "model", rows=5)
    made = load_tokenizer(folder)
    beyond = list(range(len(made), len(made) + 5))
    ids = encode_completion(made, "so", " great")
    assert decode_completion(made, "so", [*beyond, *ids[:-1], *beyond, ids[-1]], ids[-1:]) == " great"
    result, logged = run(
        make_roles(folder, made), made, settings(total_episodes=8, num_ppo_epochs=1), tmp_path / "state"
    )
    assert logged[0]["val/ratio"] == pytest.approx(1.0, abs=1e-5)


# Templates


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [
        line for line in capsys.readouterr().err.splitlines() if "chat template" in line or "generation prompt" in line
    ]


def test_a_thought_that_the_prompt_opens_is_closed_for_good(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.told._TOLD", set())
    made = load_tokenizer(folders["deepseek"])
    (line,) = told(capsys)
    assert line.endswith(
        r"opens a thought before every answer; it is closed with '\n</think>\n\n', so that answers come at once"
    )
    made.save_pretrained(tmp_path)
    published = AutoTokenizer.from_pretrained(tmp_path)  # with no code of ours
    asked = published.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert asked.endswith("<｜Assistant｜><think>\n\n</think>\n\n")
    assert load_tokenizer(tmp_path).chat_template == made.chat_template and told(capsys) == []
    assert published.apply_chat_template(CHAT, tokenize=False) == AutoTokenizer.from_pretrained(
        folders["deepseek"]
    ).apply_chat_template(CHAT, tokenize=False)


def test_a_thought_that_an_answer_closes_is_closed_as_the_template_does(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """As Qwen3's thinking models: the prompt opens it, and before an answer the template writes it with nothing in it."""
    made = AutoTokenizer.from_pretrained(folders["qwen3"])
    made.chat_template = made.chat_template.replace(
        "'<|im_start|>assistant\\n' }}{% if enable", "'<|im_start|>assistant\\n<think>\\n' }}{% if enable"
    )
    made.save_pretrained(tmp_path)
    asked = load_tokenizer(tmp_path).apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert asked.endswith("assistant\n<think>\n\n</think>\n\n")
    assert around(load_tokenizer(tmp_path)).differs == ""


def test_a_difference_is_told_with_what_mends_it(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.told._TOLD", set())
    load_tokenizer(folders["qwen3"])
    (line,) = told(capsys)
    assert line.endswith(
        r"its chat template writes '<think>\n\n</think>\n\n' between its generation prompt and an answer; "
        "completions are rendered without it; set chat_template_kwargs: {enable_thinking: false}"
    )
    load_tokenizer(folders["qwen3"], chat_template_kwargs={"enable_thinking": False})
    assert told(capsys) == []


def test_chat_template_kwargs_stay_with_the_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    made = load_tokenizer(folders["qwen3"], chat_template_kwargs={"enable_thinking": False})
    made.save_pretrained(tmp_path)
    published = AutoTokenizer.from_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(folders["qwen3"])
    for messages in (CHAT, PROMPTS[-1]):
        asked = published.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert asked == theirs.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )


@pytest.mark.parametrize("value", [True, None, 1.5, -2, 'it\'s "so" \\ \n 影 🎬 {{ x }}', [1, "two", None, False], []])
def test_values_reach_the_template_as_they_are(folders: dict[str, Path], tmp_path: Path, value: Any) -> None:
    made = AutoTokenizer.from_pretrained(folders["gpt2"])
    made.chat_template = "\n{% for m in messages %}{{ m.content }}{% endfor %}|{{ x | tojson }}|{{ y }}"
    made.save_pretrained(tmp_path)
    with_x = load_tokenizer(tmp_path, chat_template_kwargs={"x": value, "y": "so"})
    assert with_x.apply_chat_template(CHAT, tokenize=False) == made.apply_chat_template(
        CHAT, tokenize=False, x=value, y="so"
    )


@pytest.mark.parametrize("name", ["thinking", "messages", "add_generation_prompt", "bos_token", "range", "said"])
def test_a_name_that_the_template_never_uses_is_refused(folders: dict[str, Path], name: str) -> None:
    with pytest.raises(
        BackboneError, match=rf"^chat_template_kwargs: {name}: the chat template of .* it uses enable_thinking$"
    ):
        load_tokenizer(folders["qwen3"], chat_template_kwargs={name: False})
    with pytest.raises(
        BackboneError, match="it has no chat template for chat_template_kwargs to act on; leave them out"
    ):
        load_tokenizer(folders["gpt2"], chat_template_kwargs={name: False})


def test_deepseeks_template_is_what_it_was_made_of(folders: dict[str, Path]) -> None:
    assert AutoTokenizer.from_pretrained(folders["deepseek"]).chat_template == DEEPSEEK
