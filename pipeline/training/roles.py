"""How do published artifacts take their roles for PPO? The sft model as base, the reward adapter beside the policy, or separate models."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.rows.published import columns_of
from pipeline.settings.config import Config
from pipeline.training.holding import as_published, to_train
from pipeline.waiting import patient, watched
from policies.adapters import lora_config
from policies.backbone import BackboneError, decoder, load_causal, load_classifier, output_head
from policies.blueprint import config_at
from policies.precision import Held, Shares
from policies.quick.linear import in_one_step
from policies.roles import POLICY, REWARD, VALUE, Roles, lora_roles
from policies.seq2seq import of_rows
from policies.tokenizers import load_tokenizer
from policies.trials import output_layer
from reward.functions import WeightedScore, combine, resolve
from reward.model import Scorer, load_scorer, read_contract

SCORE_BATCH = 32


def rides_on_base(folder: Path, base: str) -> bool:
    """Whether a reward artifact is an adapter on the very sft model that PPO starts from. On an encoder–decoder it is none: transformers'
    classifier has the whole text in both halves, and other names for its layers."""
    adapter = (folder / "adapter" / "adapter_config.json").is_file() and base == "sft"
    return adapter and not config_at(folder).is_encoder_decoder


def reward_on_base(config: Config, run: Run) -> bool:
    """Whether the score of ppo runs on the very base of its policy, whose adapter it is."""
    made = run.manifest("reward") if "reward" in config.ppo.reward_funcs else None
    return made is not None and rides_on_base(run.folder("reward"), made.model["base"])


def build(
    config: Config, run: Run, tokenizer: Any, device: torch.device, sharding: str = "none"
) -> tuple[Roles, WeightedScore]:
    """The four roles and the score, from the sft and reward artifacts and the recipe's ppo section. Of a base that is shared out by `sharding` each
    process reads its share alone, and all are to ask; `Roles.share_out` is still to be called."""
    section = config.ppo
    roles, head = _roles(config, run, tokenizer, device, to_train(config, device, section.tuning), sharding)
    riding = {} if head is None else {"reward": (roles, head)}  # scores by an adapter beside the policy's
    functions = {name: _score(name, config, run, device, riding.get(name), tokenizer) for name in section.reward_funcs}
    return roles, combine(functions, section.reward_weights or [1.0] * len(functions), columns_of(run))


def with_learned(config: Config, run: Run, tokenizer: Any, held: Held, learned: dict[str, Tensor]) -> Roles:
    """The roles whole, on the CPU: as they began, from their folders, with the weights that were `learned` since."""
    roles, _ = _roles(config, run, tokenizer, torch.device("cpu"), replace(held, attention=None))
    with torch.no_grad():
        for name, parameter in roles.trainable().items():
            parameter.copy_(learned[name])
    return roles.eval()


def _roles(
    config: Config, run: Run, tokenizer: Any, device: torch.device, held: Held, sharding: str = "none"
) -> tuple[Roles, nn.Linear | None]:
    """The four roles, their base `held` so and shared out by `sharding`, and the reward's head where its adapter is beside the policy's."""
    section = config.ppo
    reward_folder = run.folder("reward")
    found = run.manifest("reward") if "reward" in section.reward_funcs else None
    shared = section.tuning == "lora" and found is not None and rides_on_base(reward_folder, found.model["base"])
    if section.tuning == "lora" and sharding != "none":
        held = replace(held, shared=Shares("ppo.sharding", learned=False))
    base = load_causal(run.folder("sft"), tokenizer, held)
    head = None
    if section.tuning == "lora":
        torch.manual_seed(config.seed)
        policy = get_peft_model(base, lora_config(base, section.lora, "CAUSAL_LM"), adapter_name=POLICY).to(device)
        head = _reward_adapter(policy, reward_folder / "adapter").to(device) if shared else None
        roles = lora_roles(
            policy,
            section.value,
            None if head is None else _normalised(head, read_contract(reward_folder)),
        )
    else:
        roles = _full(config, run, base, device, tokenizer, found)
    return roles, head


def scores(config: Config, run: Run, device: torch.device) -> WeightedScore:
    """The score that ppo maximises, by models of its own (for the comparison)."""
    functions = {name: _score(name, config, run, device, None, None) for name in config.ppo.reward_funcs}
    return combine(functions, config.ppo.reward_weights or [1.0] * len(functions), columns_of(run))


def critic_in(folder: Path) -> Path:
    """Where the critic lies in a folder of stage ppo: below it, as vLLM reads every *.safetensors that stands beside a config.json."""
    before = folder / "critic.safetensors"  # a folder that an earlier version published
    return before if before.is_file() else folder / "critic" / "critic.safetensors"


def trained(config: Config, run: Run, tokenizer: Any, device: torch.device) -> tuple[Roles, WeightedScore]:
    """The four roles as the ppo stage left them, and the score; `config` has the ppo section that the stage was made with."""
    roles, score = build(config, run, tokenizer, device)
    folder = run.folder("ppo")
    if roles.lora:
        policy: Any = roles.policy
        weights = load_file(folder / "adapter" / "adapter_model.safetensors")
        done: Any = set_peft_model_state_dict(policy, weights, adapter_name=POLICY)
        strange = [*(n for n in done.missing_keys if f".{POLICY}." in n), *done.unexpected_keys]
    else:
        roles.policy.load_state_dict(load_causal(folder, tokenizer, torch.float32).state_dict())
        strange = []
    critic = load_file(critic_in(folder))
    own = {
        n: p for n, p in roles.trainable().items() if "value_head" in n or n.startswith("critic.") or f".{VALUE}." in n
    }
    strange += sorted(critic.keys() ^ own.keys())
    if strange:
        raise ArtifactError(
            f"{folder}: its weights are not those of its settings: {', '.join(strange[:3])}; {run.remedy('ppo', anew=True)}"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(critic[name])
    return roles.eval(), score


def _score(
    name: str,
    config: Config,
    run: Run,
    device: torch.device,
    riding: tuple[Roles, nn.Linear] | None,
    tokenizer: Any,
) -> Any:
    if name != "reward" and ":" in name and not Path(name).exists():
        with watched(f"the import of reward function {name}"):
            found = resolve(name)
        return patient(found, f"reward function {name}")
    folder = run.folder("reward") if name == "reward" else Path(name) if Path(name).exists() else name
    if riding is None:
        return load_scorer(folder, as_published(config, device), device, SCORE_BATCH, config.chat_template_kwargs)
    roles, head = riding
    contract = read_contract(folder)
    return Scorer(
        lambda ids, mask: _last_score(roles, head, ids, mask),
        tokenizer,
        contract["mean"],
        contract["std"],
        contract["max_length"],
        SCORE_BATCH,
        device,
        padding=not roles.packed,
    )


def _reward_adapter(policy: Any, folder: Path) -> nn.Linear:
    """Put the reward model's adapter beside the policy's and return its score head. Every weight must find its place."""
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "adapter_model.safetensors")
    heads = {name: weights.pop(name) for name in [n for n in weights if "lora_" not in n]}
    matrix = next((w for n, w in heads.items() if n.endswith("weight")), None)
    if matrix is None or matrix.shape[0] != 1:
        raise ArtifactError(f"{folder}: holds no score head; train the reward model again")
    policy.add_adapter(
        REWARD,
        in_one_step(
            LoraConfig(
                task_type="CAUSAL_LM",
                r=settings["r"],
                lora_alpha=settings["lora_alpha"],
                lora_dropout=0.0,
                target_modules=settings["target_modules"],
                layers_to_transform=settings["layers_to_transform"],
            )
        ),
    )
    done: Any = set_peft_model_state_dict(policy, weights, adapter_name=REWARD)
    missing = [n for n in done.missing_keys if f".{REWARD}." in n]
    if missing or done.unexpected_keys:
        raise BackboneError(
            f"{folder}: adapter weights do not fit the sft model: {', '.join([*missing, *done.unexpected_keys][:3])}"
        )
    head = nn.Linear(matrix.shape[1], 1, bias=any(n.endswith("bias") for n in heads))
    with torch.no_grad():
        head.weight.copy_(matrix.float())
        for name, value in heads.items():
            if name.endswith("bias"):
                head.bias.copy_(value.float())
    return head.requires_grad_(False)


def _normalised(head: nn.Linear, contract: dict[str, Any]) -> nn.Linear:
    """A head that gives the normalised score at once, for the critic to start from."""
    out = nn.Linear(head.in_features, 1, device=head.weight.device)
    with torch.no_grad():
        out.weight.copy_(head.weight / contract["std"])
        out.bias.copy_(
            (
                (head.bias if head.bias is not None else 0.0)
                - torch.full((1,), contract["mean"], device=head.weight.device)
            )
            / contract["std"]
        )
    return out


def _last_score(roles: Roles, head: nn.Linear, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    hidden = roles.hidden("reward", input_ids, attention_mask)
    at_end = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(1) - 1]
    return head(at_end.to(head.weight.dtype)).squeeze(-1)


def _full(config: Config, run: Run, base: Any, device: torch.device, tokenizer: Any, reward: Any) -> Roles:
    """Full fine-tuning: reference and critic are models of their own; the critic starts from the reward model where it is of the same kind."""
    policy = base.to(device)
    critic = None
    head = nn.Linear(output_layer(policy).width, 1)
    same_kind = reward is not None and reward.model["base"] == "sft" and not of_rows(policy)
    with torch.no_grad():
        if config.ppo.value == "adapter" and same_kind:
            model = load_classifier(
                run.folder("reward"), load_tokenizer(run.folder("reward"), scores=True), torch.float32
            )
            critic, head = (
                decoder(model).to(device),
                _normalised(output_head(model), read_contract(run.folder("reward"))),
            )
        else:
            head.weight.zero_()
            head.bias.zero_()
            if config.ppo.value == "adapter":
                critic = copy.deepcopy(decoder(policy))
    return Roles(policy, head.to(device), config.ppo.value, reference=copy.deepcopy(policy), critic=critic)
