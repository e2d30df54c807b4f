"""What can be set of the data? Sections of stage data; config.py has all others. No torch import."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from pipeline.settings.sections import OBSERVES, Section

EMBEDDED_REVIEWS, CHINESE_REVIEWS = "film_reviews", "chinese_reviews"
EMBEDDED_SOURCES = (EMBEDDED_REVIEWS, CHINESE_REVIEWS)
"""The data sets that come with the project, split and complete."""
VADER, CHINESE_SENTIMENT = "vader", "chinese_sentiment"
"""The judges by name; each is the default one of its reviews."""


class Reviews(Section):
    """How the embedded film reviews become demonstrations, prompts and rankings."""

    k: int = Field(4, ge=2, description="completions in a ranking")
    tie_gap: float = Field(0.5, gt=0, description="nearer than this to the best of a tier is tied (scale -4 to 4)")
    opening_words: int = Field(1, ge=1, description="reviews that share so many opening words are ranked together")
    prompt_words: int = Field(3, ge=1, description="opening words of a review that make the prompt of a demonstration")
    max_words: int | None = Field(None, ge=4, description="leave out reviews longer than this")


class ChineseReviews(Section):
    """How the embedded Chinese reviews are split, and become demonstrations, prompts and rankings."""

    k: int = Field(4, ge=2, description="completions in a ranking, at least one of each label")
    opening_characters: int = Field(2, ge=1, description="first characters of a review that make its prompt")
    max_characters: int | None = Field(
        60,
        ge=8,
        description="cut longer reviews behind the last sentence that fits, else leave them out; null: keep all",
    )
    prompt_reviews: int = Field(
        2, ge=1, description="positive, and as many negative, training reviews that must share an opening for a prompt"
    )
    prompt_eval_fraction: float = Field(0.3, gt=0, lt=1, description="share of these openings that is held out")
    judge_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the reviews that no stage sees but the judge chinese_sentiment"
    )


class Source(Section):
    """How rows are read, where they do not say it themselves."""

    format: str | None = Field(None, description="row format of source; default: detected")
    columns: dict[str, str] = Field({}, description="our field names to the source's, {prompt: question}")
    ignore: list[str] = Field([], description="columns that nobody reads and that may go, such as [notes]")
    keep: list[str] = Field([], description="columns kept beside the prompts, for reward functions, such as [answer]")
    encoding: str = Field("utf-8", description="encoding of text files, by Python's names, such as gb18030 or cp1252")
    map: str | None = Field(None, description="module:function that makes of a row another, several, or None")
    axis: str | None = Field(None, description="which of several judgements in a row counts, such as helpfulness")
    tie_gap: float = Field(0.0, ge=0, description="ratings nearer than this to the best of a tier are tied")
    reverse: bool = Field(False, description="turn the format's order of preference round")
    aggregate: Literal["each", "mean", "majority"] = Field(
        "each",
        description="several people's rankings of the same completions: a row each, or one by mean rank or majority",
    )


class Part(Source):
    """One source of a mixture."""

    source: str = Field(description="a file, pattern, folder, Hub id or module:function")
    tag: str | None = Field(None, pattern=r"\S", description="name of the task in figures; default: the source")
    weight: float | None = Field(None, gt=0, description="share of the training rows, relative to the other weights")
    max_rows: int | None = Field(None, ge=1, description="read no more rows than this; a Hub data set is then streamed")

    @property
    def task(self) -> str:
        """The tag of its rows."""
        return self.tag or self.source

    @property
    def name(self) -> str:
        """What tells it from the other sources of the mixture."""
        return self.source if self.tag is None else f"{self.tag}: {self.source}"


class Mend(Section):
    """What is done to texts before they are split. Blank ones always go; all of it is counted in the manifest."""

    nfc: bool = Field(True, description="write equal characters in one way (Unicode NFC)")
    control_characters: bool = Field(True, description="one kind of line end, no other control characters but tabs")
    mojibake: bool = Field(False, description="mend texts that were decoded wrongly (ftfy)")
    html: bool = Field(False, description="turn entities into characters and remove tags, but not in code")
    duplicates: bool = Field(True, description="keep the first of rows that say the same")
    near_duplicates: float | None = Field(
        None, gt=0, le=1, description="keep the first of rows so similar (Jaccard), such as 0.8; null: keep all"
    )


class Clean(Mend):
    """The same of rows, and which of them the evaluation or the model leaves no room for."""

    decontaminate: int | None = Field(
        13, ge=1, description="remove training rows with so many words in a row from a held-out prompt; null: none"
    )
    too_long: Literal["error", "drop"] = Field(
        "error", description="rows whose prompt leaves no room within max_length: stop, or set aside in rejects.jsonl"
    )


class Data(Source):
    """Stage data: raw files to validated, split, fingerprinted rows."""

    source: str = Field(
        EMBEDDED_REVIEWS, description="film_reviews, chinese_reviews, a file, pattern, folder, Hub id, module:function"
    )
    chat: bool = Field(
        False, description="send prompts that are plain texts through the chat template, as a user's message"
    )
    mixture: list[Part] = Field([], description="several sources in place of source: [{source: …, weight: 2}, …]")
    max_rows: int | None = Field(None, ge=1, description="read no more rows of source; a Hub data set is then streamed")
    demonstrations: str | None = Field(None, description="demonstrations; default: the best completions of source")
    prompts: str | None = Field(None, description="prompts for PPO; default: the prompts of source")
    eval_prompts: str | None = Field(None, description="prompts for evaluation; default: a share of the prompts")
    skip_bad: bool = Field(False, description="set bad rows aside in rejects.jsonl instead of stopping")
    special_tokens: Literal["refuse", "strip", "keep"] = Field(
        "refuse",
        description="control tokens of a chat template inside a text: tell the row, take them out, leave them in",
    )
    max_row_mb: int = Field(16, ge=1, description="MB that one row or line may have", json_schema_extra=OBSERVES)
    max_unpacked_gb: int = Field(64, ge=1, description="GB that one packed file may hold", json_schema_extra=OBSERVES)
    max_ratio: int = Field(
        250,
        ge=1,
        description="how many times its size a packed file may hold, from 16 MB on",
        json_schema_extra=OBSERVES,
    )
    num_proc: int = Field(
        1,
        ge=1,
        description="processes that tokenise rows, on Linux; more than one pays where cores are idle",
        json_schema_extra=OBSERVES,
    )
    clean: Clean = Clean()
    eval_fraction: float = Field(0.1, gt=0, lt=1, description="share held out, by prompt (embedded reviews: by review)")
    gold_fraction: float = Field(
        0.0, ge=0, lt=1, description="share of the training rankings, by prompt, kept for stage gold and from reward"
    )
    split_similarity: float | None = Field(
        0.9, gt=0, le=1, description="prompts so similar (Jaccard) stand on one side of the split; null: equal ones"
    )
    max_length: int = Field(512, ge=8, description="tokens of prompt + completion + EOS that any stage may see")
    min_completion_tokens: int = Field(1, ge=1, description="room that a prompt must leave within max_length")
    reviews: Reviews = Reviews()
    chinese_reviews: ChineseReviews = ChineseReviews()

    @model_validator(mode="after")
    def _one_or_mixture(self) -> "Data":
        wrong: list[str] = []
        if self.mixture:
            wrong += self._wrong_mixture()
        elif self.source in EMBEDDED_SOURCES:
            ours = (*Source.model_fields, "max_rows", "demonstrations", "prompts", "eval_prompts")
            wrong += [f"{name}: {self.source} has no use for it; leave it out" for name in self._given(ours)]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _given(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]

    def _wrong_mixture(self) -> list[str]:
        wrong = []
        if "source" in self.model_fields_set:
            wrong.append("mixture: it stands beside source; keep one of them")
        if any(part.weight is None for part in self.mixture) and any(part.weight for part in self.mixture):
            wrong.append("mixture: some sources have a weight and some have none; give all of them one, or none")
        embedded = dict.fromkeys(part.source for part in self.mixture if part.source in EMBEDDED_SOURCES)
        wrong += [f"mixture: {name} cannot be mixed; name files or Hub ids" for name in embedded]
        names = [part.name for part in self.mixture]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                wrong.append(f'mixture: "{name}" stands twice; keep one, or give each its own tag')
        for name in self._given((*Source.model_fields, "max_rows")):
            wrong.append(f"{name}: it belongs to a single source; write it below each of them")
        return wrong

    def parts(self) -> list[Part]:
        """The sources of rankings or demonstrations: those of the mixture, or the one source."""
        if self.mixture:
            return self.mixture
        same = {name: getattr(self, name) for name in (*Source.model_fields, "source", "max_rows")}
        return [Part(**same)]

    def sources(self) -> list[str]:
        """Everything that is read, as it is named."""
        others = (self.demonstrations, self.prompts, self.eval_prompts)
        return [part.source for part in self.parts()] + [name for name in others if name is not None]

    def embedded(self) -> bool:
        """Whether these are reviews that come with the project."""
        return self.source in EMBEDDED_SOURCES and not self.mixture

    def chinese(self) -> bool:
        """Whether these are the Chinese ones."""
        return self.source == CHINESE_REVIEWS and not self.mixture
