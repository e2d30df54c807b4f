"""Where do tokenizers come from, and with which special tokens? Padding, what ends a completion, a chat template settled."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedModel

from policies.blueprint import config_at
from policies.chats import names_of
from policies.errors import BackboneError, NotThere, not_there
from policies.framing import ANSWER, around, closing_of, lost, plain, rendered
from policies.probing import check_reads
from policies.strangers import said
from policies.template import plain_chat
from policies.told import tell
from policies.untyped import ModelConfig, Tokenizer

Scalar = bool | int | float | str | None
TemplateValue = Scalar | Sequence[Scalar]
# what whoever renders a template sets
OURS = {"messages", "tools", "documents", "add_generation_prompt", "loop", "self"}


def load_tokenizer(
    path: str | Path,
    revision: str | None = None,
    *,
    scores: bool = False,
    chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
    foreign: bool = False,
) -> Tokenizer:
    """A tokenizer that pads on the right and has a chat template: a plain one if it came without.

    A policy needs no pad of its own, as all that reads it takes a mask: where pad is missing, EOS pads, and no token is added that
    could be sampled. One that `scores` has a pad that ends no text, since transformers' sequence classifiers find the last token by
    it: where there is none, an unknown token that no text becomes, else `<|pad|>`, which is added. Tokens beyond the model's embedding are taken out.

    The template is settled here for good, so that whoever loads what is published renders alike: `chat_template_kwargs` are set in
    it, and a thought that its generation prompt opens is closed. Of a `foreign` model, for which they were not written, those are set
    that its template uses. Raises BackboneError where there is no tokenizer, no EOS unless it only `scores`, or the template of a model
    that is not foreign never uses one of `chat_template_kwargs`.
    """
    if here := Path(path).is_dir():  # of the Hub, what is not there is waited for once
        config = _config_beside(path, revision)
    check_reads(path, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision or "main", trust_remote_code=False)
    except OSError as error:
        raise not_there(path, "tokenizer", error) from error
    except Exception as error:  # each kind of tokenizer reads its files in its own way
        raise NotThere(
            f"{path}: no tokenizer to be had there ({said(error)}); give a folder or Hub id that holds one"
        ) from error
    config = config if here else _config_beside(path, revision)
    _fit(tokenizer, path, config)
    two = config is not None and config.is_encoder_decoder
    tokenizer.encoder_decoder, tokenizer.scores_at_eos = two and not scores, two and scores
    if tokenizer.eos_token_id is None and not scores:
        raise BackboneError(
            f"{path}: its tokenizer has no EOS token, so a completion could never end; set eos_token in its tokenizer_config.json"
        )
    if isinstance(tokenizer.chat_template, dict):  # several, by name
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None and not scores:
        tokenizer.pad_token = tokenizer.eos_token
    given = chat_template_kwargs or {}
    if foreign:
        known = variables(tokenizer) if tokenizer.chat_template else set()
        given = {name: value for name, value in given.items() if name in known}
    _settle_template(tokenizer, path, given)
    if scores and tokenizer.pad_token_id in (None, *ends(tokenizer)):
        if _never_unknown(tokenizer):
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer


def _never_unknown(tokenizer: Tokenizer) -> bool:
    """Whether there is an unknown token that no text becomes, as every byte is known, and that has no other role."""
    roles = (None, tokenizer.bos_token_id, *ends(tokenizer))
    return tokenizer.unk_token_id not in (*roles, *plain(tokenizer, "\ue000 \U000e0aaa"))


def tokens(tokenizer: Tokenizer) -> int:
    """How many rows an embedding has that holds every token of it."""
    return 1 + max(tokenizer.get_vocab().values())


def ends(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end what is rendered: EOS, and what the chat template ends a turn of the assistant with."""
    end = around(tokenizer).end if tokenizer.chat_template else None
    return sorted({one for one in (tokenizer.eos_token_id, end) if one is not None})


def eos_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> list[int]:
    """Every token that ends a completion: those of the generation config, the tokenizer's EOS, and the end of a turn."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = named if isinstance(named, list) else [named]
    return sorted({*(i for i in ids if i is not None), *ends(tokenizer)})


def _config_beside(path: str | Path, revision: str | None) -> ModelConfig | None:
    """The config of the model that a tokenizer stands beside; None for a tokenizer alone."""
    try:
        return config_at(path, revision)
    except NotThere:
        return None


def _fit(tokenizer: Tokenizer, path: str | Path, config: ModelConfig | None) -> None:
    """Take out the tokens that the model at `path` has no embedding for: their text becomes ordinary text.

    A row made for them would be random, and could be sampled. Raises BackboneError where EOS or BOS is one of them.
    """
    rows = None if config is None else getattr(config.get_text_config(), "vocab_size", None)
    if rows is None:
        return
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return
    names = ", ".join(sorted(beyond, key=lambda token: beyond[token])[:4])
    state = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"added_tokens": []}
    added = {token["content"] for token in state["added_tokens"]}
    if {tokenizer.eos_token, tokenizer.bos_token} & beyond.keys() or not beyond.keys() <= added:
        raise BackboneError(
            f"{path}: its tokenizer has tokens that its model has no embedding for ({names}; {rows} rows); "
            "resize the model's embedding and train them first, or use another tokenizer"
        )
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in beyond]
    tokenizer._tokenizer = Backend.from_str(json.dumps(state))
    for role in ("pad", "unk", "sep", "cls", "mask"):
        if getattr(tokenizer, f"{role}_token") in beyond:
            setattr(tokenizer, f"{role}_token", None)
    tokenizer._extra_special_tokens = [t for t in tokenizer._extra_special_tokens if str(t) not in beyond]
    tell(f"{path}: its model has no embedding for {names}, which its tokenizer adds; they are read as ordinary text")


def _settle_template(tokenizer: Tokenizer, path: str | Path, given: Mapping[str, TemplateValue]) -> None:
    """Give the tokenizer its chat template as it stays; see load_tokenizer."""
    if not tokenizer.chat_template:
        if given:
            raise BackboneError(f"{path}: it has no chat template for chat_template_kwargs to act on; leave them out")
        if tokenizer.eos_token_id is None:
            return
        tokenizer.chat_template = plain_chat(tokenizer)
    template = tokenizer.chat_template
    if unknown := sorted(given.keys() - (known := variables(tokenizer))):
        raise BackboneError(
            f"chat_template_kwargs: {', '.join(unknown)}: the chat template of {path} never uses that; "
            + (f"it uses {', '.join(sorted(known))}" if known else "leave it out")
        )
    template = with_values(template, given)
    tokenizer.chat_template = _closed(tokenizer, template, path)
    if tokenizer.eos_token_id is not None:
        _explain(tokenizer, path)


def variables(tokenizer: Tokenizer) -> set[str]:
    """What a chat template can be told: the names that it uses and does not set itself, apart from OURS."""
    first: dict[str, str] = {}
    for name, what in names_of(tokenizer, tokenizer.chat_template):
        first.setdefault(name, what)
    read = {name for name, what in first.items() if what == "load"}  # before the template sets it, if it does
    return read - OURS - tokenizer.special_tokens_map.keys()


def with_values(template: str, values: Mapping[str, TemplateValue]) -> str:
    """`template` with variables set, in the order of their names, whatever it is told when it renders."""
    return "".join(f"{{% set {name} = {_literal(values[name])} +%}}" for name in sorted(values)) + template


def _literal(value: TemplateValue) -> str:
    """A value as Jinja writes it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_literal, value))}]"
    return str(value).lower()


def _closed(tokenizer: Tokenizer, template: str, path: str | Path) -> str:
    """`template`, with what closes the thought that its generation prompt opens, if it does."""
    tried = rendered(tokenizer, template)
    if tried is None:
        return template
    prompt, whole = tried
    close = closing_of(prompt, whole.rpartition(ANSWER)[0])
    if not close:
        return template
    ended = template.removesuffix("\n") + "{%+ if add_generation_prompt %}{{ " + _literal(close) + " }}{% endif %}"
    if rendered(tokenizer, ended) != (prompt + close, whole):
        raise BackboneError(
            f"{path}: its chat template opens a thought before every answer, and it cannot be closed; give it another chat template"
        )
    tell(
        f"{path}: its chat template opens a thought before every answer; it is closed with {close!r}, so that answers come at once"
    )
    return ended


def _explain(tokenizer: Tokenizer, path: str | Path) -> None:
    """Say in one line each where what we render is not what the chat template renders, or where text is not kept."""
    if (change := lost(tokenizer)) is not None:
        tell(f"{path}: its tokenizer changes texts: {change[0]!r} comes back from its tokens as {change[1]!r}")
    frame = around(tokenizer)
    if frame.differs:
        tell(f"{path}: {frame.differs}; completions are rendered without it{_remedy(tokenizer)}")
    elif frame.end is None and rendered(tokenizer, tokenizer.chat_template) is not None:
        tell(f"{path}: its chat template ends an answer with no token of its own; {tokenizer.eos_token} ends it")


def _remedy(tokenizer: Tokenizer) -> str:
    """Which chat_template_kwargs would mend what `around` says differs; "" where none would."""
    for name in sorted(variables(tokenizer)):
        for value in (False, True):
            if not around(tokenizer, with_values(tokenizer.chat_template, {name: value})).differs:
                return f"; set chat_template_kwargs: {{{name}: {str(value).lower()}}}"
    return ""
