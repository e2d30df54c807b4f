"""What do others report, and what does the plan say under their conditions? Beside each other, whatever comes out.

python -m pipeline.plan.published
"""

from dataclasses import dataclass
from typing import Any

from pipeline.plan.machines import KNOWN
from pipeline.plan.memory import chosen
from pipeline.plan.plan import table
from pipeline.plan.seconds import iteration
from pipeline.plan.work import job_of
from pipeline.settings.config import Config


@dataclass(frozen=True)
class Report:
    """What was reported, with its conditions."""

    name: str
    rate: float  # episodes a second of one GPU
    gpus: int
    batch: int
    prompt: int
    response: int
    model: str  # transformers' model type
    shape: dict[str, int]
    source: str


REPORTS = (
    # 131.9k queries in 4.1 hours on one node of eight A100; all weights trained, critic and reward OPT-350M
    Report("DeepSpeed-Chat, OPT-6.7B", 131_900 / (4.1 * 3600 * 8), 8, 1024, 256, 256, "opt", {"hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 50272, "word_embed_proj_dim": 4096}, "https://github.com/microsoft/DeepSpeed/blob/master/blogs/deepspeed-chat/README.md"),
    # 1,024 prompts in 471.11 s on sixteen A800, 1024 + 1024 tokens at most; all weights trained, four models of 7B, vLLM
    Report("OpenRLHF, Llama 2 7B", 1024 / (471.11 * 16), 16, 1024, 1024, 1024, "llama", {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000}, "https://github.com/OpenRLHF/OpenRLHF/blob/main/README_zh.md"),
)  # fmt: skip


def planned(report: Report, engine: str) -> float:
    """Episodes a second of one GPU by the plan: an A100 of 80 GB, LoRA, the critic an adapter, one epoch, half of it for vLLM; 0 where it
    does not fit."""
    from transformers import AutoConfig

    shape: Any = AutoConfig.for_model(report.model, **report.shape)
    section = {"batch_size": report.batch, "total_episodes": report.batch, "num_ppo_epochs": 1, "engine": engine}
    section |= {"response_length": report.response, "gradient_checkpointing": True, "vllm_gpu_memory_utilization": 0.5}
    config = Config.model_validate({"ppo": section, "data": {"max_length": report.prompt + report.response}})
    work, machine = job_of(config, report.name, shape, report.prompt), KNOWN["a100-80"]
    need = chosen(work, machine, report.gpus, "none", None)
    return iteration(work, machine, report.gpus, need).rate / report.gpus if need.fits(machine) else 0.0


def compared() -> list[str]:
    """The comparison, a line each."""
    rows: list[tuple[str, ...]] = [
        ("reported", "GPUs", "tokens", "episodes/s a GPU", "planned, our sampler", "planned, vLLM")
    ]
    for one in REPORTS:
        rates = (f"{rate:.3g}" for rate in (one.rate, planned(one, "transformers"), planned(one, "vllm")))
        rows.append((one.name, str(one.gpus), f"{one.prompt} + {one.response}", *rates))
    return table(rows)


if __name__ == "__main__":
    print("\n".join(compared()))
