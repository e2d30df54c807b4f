"""Are prompt and completion the same tokens wherever they are rendered, and does a fingerprint tell one rendering from another?"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from chats import STYLES, WITHOUT_SYSTEM, Message, by_hand, dialogue, taught_by
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from policies.template import (
    PLAIN_CHAT,
    decode_completion,
    encode_completion,
    encode_prompt,
    encode_turns,
    fingerprint,
    joined,
    show_prompt,
)
from policies.tokenizers import load_tokenizer

LETTERS = [*"abcdefghijklmnopqrstuvwxyz ?!\n:|<>[]/_AESUYM", "an", "na"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
PAD, BOS, EOS = 0, 1, 2
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
MESSAGES = [{"role": "user", "content": "banana"}]


def ids(text: str) -> list[int]:
    """Letters by their place, with "an" merged and no other: the rules below by hand."""
    out, at = [], 0
    while at < len(text):
        piece = "an" if text[at : at + 2] == "an" else text[at]
        out.append(len(SPECIAL) + LETTERS.index(piece))
        at += len(piece)
    return out


def tokenizer(
    bos: bool = False, sep: bool = False, template: str | None = None, letters: list[str] = LETTERS, **special: Any
) -> Any:
    """Characters, and the one merge a+n. With `bos` it opens every text with <s>, with `sep` it closes it with </s> too."""
    rules = Tokenizer(models.BPE({t: i for i, t in enumerate([*SPECIAL, *letters])}, [("a", "n")], unk_token="<unk>"))
    rules.decoder = decoders.Fuse()
    if bos:
        single = "<s> $A </s>" if sep else "<s> $A"
        rules.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    named = {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>", "unk_token": "<unk>"} | special
    made = PreTrainedTokenizerFast(tokenizer_object=rules, **named)
    made.chat_template = template
    return made


def test_a_text_prompt_is_its_plain_tokens() -> None:
    assert encode_prompt(tokenizer(), "banana?") == ids("banana?")
    assert encode_prompt(tokenizer(template=CHAT), "banana?") == ids("banana?")  # text stays text beside a template


def test_a_prompt_is_never_without_tokens() -> None:
    """A completion needs something to follow: TRL's `text` rows have an empty prompt."""
    assert encode_prompt(tokenizer(), "") == [BOS]
    assert encode_prompt(tokenizer(bos=True), "") == [BOS]
    assert encode_prompt(tokenizer(bos_token=None), "") == [EOS]


@pytest.mark.parametrize("sep", [False, True])
def test_bos_is_kept_and_what_closes_a_text_is_not(sep: bool) -> None:
    """A tokenizer that writes <s> before and </s> after every text: the prompt goes on, so only <s> belongs to it."""
    made = tokenizer(bos=True, sep=sep)
    assert encode_prompt(made, "ab") == [BOS, *ids("ab")]
    assert encode_completion(made, "ab", "ab") == [*ids("ab"), EOS]


def test_a_completion_ends_with_eos_once() -> None:
    made = tokenizer()
    assert encode_completion(made, "ab", " na") == [*ids(" na"), EOS]
    assert encode_completion(made, "ab", "") == [EOS]
    assert encode_completion(made, "ab", "abc", 4) == [*ids("abc"), EOS]
    assert encode_completion(made, "ab", "abc", 3) == ids("abc")  # no EOS: as a sample that ran into its limit
    assert encode_completion(made, "ab", "abc", 1) == ids("a")


@pytest.mark.parametrize("prompt", ["ba", "a", "so: ", MESSAGES])
@pytest.mark.parametrize("bos", [False, True])
def test_a_prompts_tokens_begin_prompt_and_completion(prompt: Any, bos: bool) -> None:
    """A prompt that ends in a, a completion that begins with n: rendered as one text they would merge into "an", and the
    completion that is learned would begin with a token that sampling never starts from."""
    made = tokenizer(bos=bos, template=CHAT)
    alone = encode_prompt(made, prompt)
    whole = encode_prompt(made, prompt) + encode_completion(made, prompt, "na!")
    assert whole[: len(alone)] == alone
    assert whole[len(alone) :] == [*ids("na!"), EOS]
    if prompt == "ba":
        assert made("bana!", add_special_tokens=False)["input_ids"] != ids("ba") + ids("na!")  # the merge is real


def test_messages_go_through_the_chat_template() -> None:
    made = tokenizer(bos=True, template=CHAT)
    written = [*ids("user: banana"), EOS, *ids("assistant: ")]
    assert encode_prompt(made, MESSAGES) == written  # the template says whether there is a BOS, not the tokenizer
    made.chat_template = "{{ bos_token }}" + CHAT
    assert encode_prompt(made, MESSAGES) == [BOS, *written]


def test_messages_without_a_template_are_refused() -> None:
    with pytest.raises(ValueError, match="no chat template; give it one, or use text prompts"):
        encode_prompt(tokenizer(), MESSAGES)


def test_messages_that_the_template_refuses_are_a_value_error() -> None:
    """Templates call raise_exception for roles they do not know; callers tell it with the row's file and line."""
    made = tokenizer(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="refuses the messages .*roles must alternate"):
        encode_prompt(made, MESSAGES)


# Conversations


def test_one_row_with_every_answer_learned() -> None:
    """CHAT writes role, colon, space, content and EOS; of that the answers and their EOS are learned, nothing else."""
    made = tokenizer(template=CHAT)
    asked, answered = dialogue("so?", "ban", "and?"), "no"
    parts = [
        (ids("user: so?"), False),
        ([EOS], False),
        (ids("assistant: "), False),
        (ids("ban"), True),
        ([EOS], True),
        (ids("user: and?"), False),
        ([EOS], False),
        (ids("assistant: "), False),
        (ids("no"), True),
        ([EOS], True),
    ]
    (row,) = joined(encode_turns(made, asked, answered))
    assert row.ids == [token for part, _ in parts for token in part]
    assert row.learned == [learned for part, learned in parts for _ in part]
    (last,) = joined(encode_turns(made, asked, answered, "last"))
    assert last.ids == row.ids and last.learned == [False] * (len(row.ids) - 3) + [True] * 3


def test_a_text_prompt_has_one_turn() -> None:
    for which in ("all", "last"):
        assert encode_turns(tokenizer(), "ba", "na", which) == [(ids("ba"), [*ids("na"), EOS])]


THOUGHT = "<think>b</think>"


@pytest.mark.parametrize(
    ("style", "messages", "rows"),
    [
        ("chatml", dialogue("a", "b", "c", "d", "e", "f", system="s"), 1),
        ("trimmed", dialogue("a", "b", "c", "d", "e", "f", system="s"), 1),
        ("trimmed", dialogue("a", "b ", "c", "d", "e", "f"), 2),  # "b " is learned, "b" is what later prompts show
        ("refusing", dialogue("a", "b", "c", "d"), 1),
        ("spaced", dialogue("a", "b", "c", "d"), 1),
        ("folded", dialogue("a", "b", "c", "d", "e", "f"), 1),
        ("folded", dialogue("a", "b", "c", "d", "e", "f", system="s"), 3),
        ("thinking", dialogue("a", "b", "c", "d", "e", "f"), 1),
        ("thinking", dialogue("a", THOUGHT + "b", "c", THOUGHT + "d", "e", THOUGHT + "f"), 3),
        ("thinking", dialogue("a", "b", "c", THOUGHT + "d", "e", THOUGHT + "f"), 2),  # a, b begin both others
        ("merging", dialogue("a", "b", "c", "d"), 1),
        ("merging", dialogue("a", "nb", "c", "d"), 2),  # one text would have the token "an"
    ],
)
def test_rows_are_as_few_as_the_template_allows(style: str, messages: list[Message], rows: int) -> None:
    made = styled(style)
    found = joined(encode_turns(made, messages[:-1], messages[-1]["content"]))
    assert len(found) == rows
    assert taught_by(found) == by_hand(made, messages, "all")


@lru_cache
def styled(style: str) -> Any:
    return tokenizer(template=STYLES[style])


TEXTS = st.builds(
    lambda thought, text: thought + text,
    st.sampled_from(["", "", THOUGHT]),
    st.text(alphabet="abn \n", min_size=1, max_size=6),
)


@settings(max_examples=150, deadline=None)
@given(
    style=st.sampled_from(sorted(STYLES)),
    turns=st.integers(1, 4).flatmap(lambda pairs: st.lists(TEXTS, min_size=2 * pairs, max_size=2 * pairs)),
    system=st.none() | TEXTS,
    which=st.sampled_from(["all", "last"]),
)
def test_rows_teach_each_answer_as_it_is_asked_for(
    style: str, turns: list[str], system: str | None, which: str
) -> None:
    """Whatever the template does to earlier turns: each learned token stands after exactly the tokens after which it would be
    sampled, and none is left out or learned twice."""
    messages = dialogue(*turns, system=None if style in WITHOUT_SYSTEM else system)
    made = styled(style)
    rows = joined(encode_turns(made, messages[:-1], messages[-1]["content"], which))
    assert taught_by(rows) == by_hand(made, messages, which)


# The plain template


def test_a_tokenizer_without_a_template_gets_the_plain_one(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "plain")
    made = load_tokenizer(tmp_path / "plain")
    text = made.apply_chat_template(
        dialogue("so?", "yes", "and?", system="be kind"), add_generation_prompt=True, tokenize=False
    )
    assert text == "System:\nbe kind\n\nUser:\nso?\n\nAssistant:\nyes</s>\n\nUser:\nand?\n\nAssistant:\n"
    assert encode_prompt(made, MESSAGES) == ids("User:\nbanana\n\nAssistant:\n")
    made.save_pretrained(tmp_path / "again")
    assert fingerprint(load_tokenizer(tmp_path / "again")) == fingerprint(made)
    assert AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == PLAIN_CHAT


def test_the_plain_template_opens_as_the_tokenizer_does(tmp_path: Path) -> None:
    tokenizer(bos=True, sep=True).save_pretrained(tmp_path)
    assert encode_prompt(load_tokenizer(tmp_path), MESSAGES) == [BOS, *ids("User:\nbanana\n\nAssistant:\n")]


def test_a_template_that_is_there_stays(tmp_path: Path) -> None:
    tokenizer(template=CHAT).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).chat_template == CHAT


@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(TEXTS, min_size=4, max_size=6).filter(lambda turns: len(turns) % 2 == 0), system=st.none() | TEXTS
)
def test_a_longer_plain_conversation_begins_with_the_shorter(turns: list[str], system: str | None) -> None:
    made = tokenizer(template=PLAIN_CHAT)
    whole = dialogue(*turns, system=system)
    shorter, answer = whole[: -len(turns) + 1], whole[-len(turns) + 1]["content"]
    begin = made.apply_chat_template(shorter, add_generation_prompt=True, tokenize=False)
    text = made.apply_chat_template(whole, tokenize=False)
    assert text.startswith(begin + answer + "</s>") and text.endswith(turns[-1] + "</s>")


def test_decoding_leaves_out_special_tokens_and_keeps_spaces() -> None:
    made = tokenizer()
    text = " ab  c ! ?\n"
    assert decode_completion(made, "so", encode_completion(made, "so", text), [EOS]) == text
    assert decode_completion(made, "so", [EOS, *ids("ab"), PAD, PAD], [EOS]) == "ab"
    assert decode_completion(made, "so", [], [EOS]) == ""


def test_prompts_are_shown_as_people_read_them() -> None:
    assert show_prompt("a | b") == "a | b"
    assert show_prompt([*MESSAGES, {"role": "assistant", "content": "yes"}]) == "user: banana\nassistant: yes"


def test_a_fingerprint_is_the_same_for_the_same_tokenizer(tmp_path: Path) -> None:
    for name, made in (
        ("plain", tokenizer()),
        ("all", tokenizer(bos=True, template=CHAT)),
        ("added", tokenizer(additional_special_tokens=["<|im_start|>"])),
    ):
        before = fingerprint(made)
        made(
            ["a", "banana"], padding=True, truncation=True, max_length=3
        )  # leaves padding and truncation in the backend
        assert fingerprint(made) == before
        made.save_pretrained(tmp_path / name)
        loaded = AutoTokenizer.from_pretrained(tmp_path / name)
        assert fingerprint(loaded) == before
        loaded.save_pretrained(tmp_path / f"{name} again")
        assert fingerprint(AutoTokenizer.from_pretrained(tmp_path / f"{name} again")) == before
    assert fingerprint(tokenizer()) == fingerprint(tokenizer()) and len(before) == 64


def added(made: Any) -> Any:
    made.add_tokens(["banana"])
    return made


def lowered(made: Any) -> Any:
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


def split(made: Any) -> Any:
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    return made


def test_a_fingerprint_changes_with_whatever_changes_tokens() -> None:
    """Each of these gives other tokens for some prompt or completion, so artifacts made with one do not fit another."""
    made = [
        tokenizer(),
        tokenizer(template=CHAT),
        tokenizer(template=CHAT + " "),
        tokenizer(bos=True),
        tokenizer(eos_token="<unk>"),
        tokenizer(pad_token="<unk>"),
        tokenizer(bos_token="<unk>"),
        tokenizer(letters=[*LETTERS, "0"]),
        tokenizer(letters=["b", "a", *LETTERS[2:]]),
        tokenizer(additional_special_tokens=["<|im_start|>"]),
        tokenizer(additional_special_tokens=["<|im_end|>"]),
        added(tokenizer()),
        lowered(tokenizer()),
        split(tokenizer()),
    ]
    assert len({fingerprint(one) for one in made}) == len(made)
