"""What can be set of a language model as a judge? No torch import."""

from pydantic import Field, field_validator

from pipeline.settings.sections import OBSERVES, Section
from pipeline.settings.wrong import no_address


class LLMJudge(Section):
    """A language model behind an OpenAI-compatible endpoint, asked which completion is better."""

    base_url: str = Field(description="such as http://127.0.0.1:8000/v1")
    model: str
    # no pattern here: a key written in its place by mistake would be shown in the error
    api_key_env: str | None = Field(
        None, description="name of the environment variable that holds the key; null: none", json_schema_extra=OBSERVES
    )
    max_calls: int = Field(2000, ge=1, description="requests of one run at most, repeated ones included")
    timeout: float = Field(60.0, gt=0, description="seconds for one answer, from the first byte to the last")
    max_answer_kb: int = Field(1024, ge=1, description="KB of one answer, unpacked")

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, base_url: str) -> str:
        if (wrong := no_address(base_url)) is not None:
            raise ValueError(wrong)
        return base_url
