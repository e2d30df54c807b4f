"""What can be set of ppo? Its rollouts, rewards, update, engine, and the limits that halt it."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.settings.sections import OBSERVES, ConfigError, Training
from pipeline.settings.wrong import divisors, multiples


class PPO(Training):
    """Stage ppo: the policy is improved against the score, held near the sft model by a KL penalty."""

    reward_funcs: list[str] = Field(
        ["reward"], min_length=1, description="reward (the stage), path, Hub id, module:function"
    )
    reward_weights: list[float] | None = Field(None, description="one a function; default: all 1")
    total_episodes: int = Field(2048, ge=1, description="completions sampled in the whole run")
    learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    batch_size: int = Field(64, ge=1, description="episodes of one iteration, over all processes")
    micro_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens of one micro-batch on one device, with the padding of a model that computes it; null: 384 on a CPU, what fits on a GPU",
    )
    per_device_rollout_batch_size: int | None = Field(
        None,
        ge=1,
        description="prompts that transformers samples together on one device; null: 64 on a CPU, what fits on a GPU",
    )
    keep_activations: float = Field(
        0.5,
        ge=0,
        description="GB of the policy's activations kept from measuring to the first epoch, where it has to run for both",
    )
    num_ppo_epochs: int = Field(4, ge=1)
    num_mini_batches: int = Field(1, ge=1, description="optimizer steps an epoch")
    response_length: int = Field(32, ge=1, description="most new tokens of a completion")
    temperature: float = Field(1.0, gt=0)
    kl_coef: float = Field(0.05, ge=0)
    kl_target: float | None = Field(None, gt=0, description="nats a sequence, for an adaptive kl_coef; default: fixed")
    kl_horizon: int = Field(10_000, ge=1, description="episodes over which the controller acts")
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    cliprange: float = Field(0.2, gt=0)
    cliprange_value: float = Field(0.2, gt=0)
    dual_clip: float | None = Field(None, gt=1, description="bound on the loss at negative advantages; often 3")
    vf_coef: float = Field(0.1, ge=0)
    engine: Literal["transformers", "continuous", "vllm", "vllm_server"] = Field(
        "transformers",
        description="what samples: transformers, its continuous batching (CUDA), or vLLM, in this process or as a server",
    )
    async_steps: Literal[0, 1] = Field(
        0,
        description="1: each rollout is sampled before the update that precedes it, with vllm_server while that runs; not recommended",
    )
    importance_cap: float = Field(
        2.0, gt=0, description="bound of the weights that correct for a sampler whose log-probabilities differ"
    )
    vllm_gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="share of GPU memory that vLLM takes")
    vllm_server: str = Field("http://127.0.0.1:8000", description="address of the server for engine: vllm_server")
    value: Literal["adapter", "shared"] = Field(
        "adapter", description="critic: an adapter of its own started from the reward model, or a head on the policy"
    )
    whiten_rewards: bool = Field(False, description="scale rewards to unit variance, their mean kept")
    whiten_advantages: bool = True
    missing_eos_score: float | None = Field(-1.0, description="score of a completion without EOS; null: keep its own")
    missing_eos_penalty: float | None = Field(
        None, ge=0, description="subtracted from the score of a completion without EOS (TRL's rule)"
    )
    ptx_coef: float = Field(0.0, ge=0, description="weight of the sft loss on demonstrations (InstructGPT's PPO-ptx)")
    adam_epsilon: float = Field(1e-5, gt=0)
    eval_steps: int = Field(10, ge=1, description="iterations between evaluations on held-out prompts")
    eval_prompts: int = Field(32, ge=1)
    save_steps: int = Field(5, ge=1, description="iterations between resume states", json_schema_extra=OBSERVES)
    max_kl: float = Field(25.0, gt=0, description="halt when the mean KL to the sft model passes this, nats a sequence")
    max_ratio: float = Field(10.0, gt=1, description="halt when the mean ratio of a minibatch passes this")
    min_entropy: float = Field(0.05, ge=0, description="halt when the mean entropy falls below this, nats a token")
    min_length: float = Field(1.0, ge=0, description="halt when completions are shorter than this on average, tokens")
    max_sampler_kl: float = Field(
        0.02, gt=0, description="halt when sampler and policy are this far apart, nats a token"
    )

    @model_validator(mode="after")
    def _fits(self) -> "PPO":
        wrong = []
        if self.reward_weights is not None and len(self.reward_weights) != len(self.reward_funcs):
            wrong.append(f"reward_weights: {len(self.reward_weights)} for {len(self.reward_funcs)} reward_funcs")
        if len(set(self.reward_funcs)) < len(self.reward_funcs):
            wrong.append(f"reward_funcs: {self.reward_funcs} names one twice; use reward_weights to weigh it")
        if self.missing_eos_penalty is not None and self.missing_eos_score is not None:
            wrong.append("missing_eos_penalty and missing_eos_score exclude each other; set missing_eos_score: null")
        if self.batch_size % self.num_mini_batches:
            near = divisors(self.batch_size, self.num_mini_batches)
            wrong.append(
                f"num_mini_batches: {self.num_mini_batches} does not divide batch_size {self.batch_size}; use {near}"
            )
        if self.total_episodes % self.batch_size:
            near = multiples(self.total_episodes, self.batch_size)
            wrong.append(
                f"total_episodes: {self.total_episodes} is no multiple of batch_size {self.batch_size}; use {near}"
            )
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def iterations(self) -> int:
        """Rollout batches in the whole run."""
        return self.total_episodes // self.batch_size

    def share(self, world_size: int) -> int:
        """Episodes of a minibatch that fall to each process; how many micro-batches they make depends on their tokens."""
        mini = self.batch_size // self.num_mini_batches
        if mini % world_size:
            raise ConfigError(
                f"ppo.batch_size: a minibatch of {mini} episodes cannot be shared by {world_size} processes; "
                f"use {multiples(self.batch_size, world_size * self.num_mini_batches)}"
            )
        return mini // world_size
