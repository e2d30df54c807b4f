"""What can be set of a model that is made from nothing? The sections of the stages pretrain and encoder. No torch import."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.settings.data import CHINESE_REVIEWS, EMBEDDED_REVIEWS, Mend
from pipeline.settings.sections import Supervised

Objective = Literal["causal", "mlm_nsp", "span"]
Architecture = Literal["llama", "gpt2", "bert", "t5"]
OF_OBJECTIVE: dict[str, tuple[str, ...]] = {"causal": ("llama", "gpt2"), "mlm_nsp": ("bert",), "span": ("t5",)}
"""The architectures of each objective, the one that is taken unless told otherwise first."""
EMBEDDED = (EMBEDDED_REVIEWS, CHINESE_REVIEWS)
"""Corpora that come with the project; their split is that of stage data."""
BYTES = 256
"""Tokens of the alphabet of a byte-level vocabulary, before anything is merged."""
SPECIAL = 8
"""Room for the special tokens of any objective."""
SENTINELS = 100
"""Tokens that stand for what is missing (objective span), as many as T5 has."""


class Pretrain(Supervised):
    """Stage pretrain: a corpus to a base model and its tokenizer, both from nothing."""

    source: str | None = Field(
        None, description=f"{', '.join(EMBEDDED)}, texts or rows: a file, pattern, folder, Hub id, module:function"
    )
    column: str | None = Field(
        None, description="the column that holds a document's text; default: text, or the only column of texts"
    )
    sample_by: Literal["paragraph", "line", "document"] = Field(
        "paragraph", description="what of a text file (.txt, .md) is one document: between blank lines, a line, all"
    )
    encoding: str = Field("utf-8", description="encoding of text files, by Python's names, such as gb18030 or cp1252")
    max_rows: int | None = Field(None, ge=1, description="read no more documents; a Hub data set is then streamed")
    clean: Mend = Mend()
    eval_fraction: float = Field(0.05, gt=0, lt=1, description="share of the documents held out")
    eval_rows: int = Field(512, ge=1, description="held-out documents on which the figures are measured, each whole")
    objective: Objective = Field(
        "causal",
        description="what is learned: causal, the next token; mlm_nsp, masked words and next sentences; span, what is missing (an encoder–decoder)",
    )
    architecture: Architecture | None = Field(
        None, description="default: llama for causal, bert for mlm_nsp, t5 for span; gpt2 has learned positions"
    )
    vocab_size: int = Field(8192, ge=BYTES + SPECIAL, description="tokens, learned from the training documents (BPE)")
    hidden_size: int = Field(256, ge=8)
    num_hidden_layers: int = Field(6, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    max_length: int = Field(
        256, ge=16, description="tokens of a packed sequence or a pair, and the most that the model reads"
    )
    learning_rate: float = Field(1e-3, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = Field(0.1, ge=0)
    batch_size: int = Field(32, ge=1, description="packed sequences of one optimizer step")
    per_device_train_batch_size: int = Field(8, ge=1, description="packed sequences of one micro-batch on one device")
    sample_steps: int = Field(100, ge=1, description="optimizer steps between samples and figures of held-out text")
    samples: int = Field(6, ge=0, description="samples each time, from nothing and from how held-out documents begin")
    max_new_tokens: int = Field(64, ge=1, description="length limit of those samples")

    stage: ClassVar[str] = "pretrain"
    # A model made from nothing is trained whole, and is small enough to lie on every device.
    tuning: ClassVar[Literal["full"]] = "full"  # type: ignore[misc]
    lora: ClassVar[None] = None  # type: ignore[misc, assignment]
    sharding: ClassVar[Literal["none"]] = "none"  # type: ignore[misc]

    @model_validator(mode="after")
    def _goes_together(self) -> "Pretrain":
        wrong = []
        if self.architecture is not None and self.architecture not in (fits := OF_OBJECTIVE[self.objective]):
            wrong.append(
                f"architecture: {self.architecture} does not learn by objective {self.objective}; set it to {' or '.join(fits)}"
            )
        heads = self.num_attention_heads
        if self.hidden_size % heads:
            fitting = [n for n in range(1, self.hidden_size + 1) if self.hidden_size % n == 0]
            near = sorted(sorted(fitting, key=lambda n: abs(n - heads))[:3])
            wrong.append(
                f"num_attention_heads: {heads} heads do not divide hidden_size {self.hidden_size}; use {', '.join(map(str, near))}"
            )
        elif self.built() == "llama" and self.hidden_size // heads % 2:
            wrong.append(
                f"num_attention_heads: a head of {self.hidden_size // heads} numbers is odd, and llama turns them in pairs; "
                f"set hidden_size={heads * (self.hidden_size // heads + 1)}"
            )
        if self.objective == "span" and self.vocab_size < (least := BYTES + SPECIAL + SENTINELS):
            wrong.append(
                f"vocab_size: {self.vocab_size} tokens have no room for {BYTES} bytes and the {SENTINELS} tokens that stand for what is missing "
                f"(objective: span); set it to {least} or more"
            )
        wrong += self.of_no_use()
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def of_no_use(self) -> list[str]:
        """What is said of how the corpus is read and split, where it comes with the project, and split."""
        if not self.embedded():
            return []
        own = type(self).model_fields
        given = [name for name in CORPUS if name != "clean" and getattr(self, name) != own[name].default]
        given += ["clean.near_duplicates"] if self.clean.near_duplicates is not None else []
        given += [] if self.clean.duplicates else ["clean.duplicates"]
        return [f"{name}: {self.source} has no use for it; leave it out" for name in given]

    def built(self) -> str:
        """The architecture that is made."""
        return self.architecture or OF_OBJECTIVE[self.objective][0]

    def embedded(self) -> bool:
        """Whether the corpus comes with the project."""
        return self.source in EMBEDDED

    def sources(self) -> list[str]:
        """Everything that is read, as it is named."""
        return [] if self.source is None or self.embedded() else [self.source]


class Encoder(Pretrain):
    """Stage encoder: as stage pretrain, with another objective: a BERT for reward models (reward.model: encoder, stage reward_encoder)."""

    source: str | None = Field(
        None,
        description="the corpus, as pretrain.source; default: that of stage pretrain, with all that says how it is read",
    )
    objective: Objective = Field("mlm_nsp", description="as pretrain.objective")
    vocab_size: int = Field(4096, ge=BYTES + SPECIAL, description="as pretrain.vocab_size")
    hidden_size: int = Field(128, ge=8)
    num_hidden_layers: int = Field(2, ge=1)
    max_length: int = Field(128, ge=16, description="tokens of a pair, and the most that the model reads")
    learning_rate: float = Field(2e-3, gt=0)
    batch_size: int = Field(64, ge=1, description="pairs of one optimizer step")
    per_device_train_batch_size: int = Field(32, ge=1, description="pairs of one micro-batch on one device")
    weight_decay: float = Field(0.01, ge=0)
    num_train_epochs: float = Field(6.0, gt=0)

    stage: ClassVar[str] = "encoder"

    def like(self, other: Pretrain) -> "Encoder":
        """The same section, where it has no source with the corpus of `other`, read as `other` reads it but where this section says otherwise."""
        if self.source is not None:
            return self
        taken = {name: getattr(other, name) for name in ("source", *CORPUS) if name not in self.model_fields_set}
        own = {name: getattr(self.clean, name) for name in self.clean.model_fields_set}
        taken |= {"clean": other.clean.model_copy(update=own), "source": other.source}
        return self.model_copy(update=taken)


CORPUS = ("column", "sample_by", "encoding", "max_rows", "clean", "eval_fraction")
"""The settings that say how a corpus is read."""
