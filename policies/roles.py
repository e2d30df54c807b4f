"""Who plays policy, reference, reward and value? With LoRA all four are one frozen base; with full fine-tuning, separate models."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from policies.backbone import BackboneError, adapter, checkpointed, recomputed_layers
from policies.logprobs import Batch, token_logprobs
from policies.quick.linear import LoraLinear
from policies.quick.packing import packs
from policies.quick.trunk import Trunk, find_trunk, first_adapted
from policies.sharding import layers_of, sharded, share_out, whole
from policies.trials import close, decoder, output_layer, rounded_in, tell, trial_rows
from policies.untyped import Foreign, Model

# Names of the adapters. None may be that of a module: where a base has one called value, as BERT's attention has, peft would take its
# weights for those of another adapter and not save them.
POLICY, REWARD, VALUE = "policy", "reward", "critic"


class Roles(nn.Module):
    """The four roles on the models that play them; calling it gives what an update needs of policy and critic together, with gradients.

    `policy` is a causal LM: a PeftModel with the adapters policy and, as wanted, reward and critic (LoRA), or a bare model (full).
    `reference` is a frozen copy in full fine-tuning, None with LoRA (the base without adapter is the reference).
    `critic` is a trunk of its own in full fine-tuning with `value: adapter`, else None. `value_head` maps hidden states (H) to 1.
    """

    def __init__(
        self,
        policy: nn.Module,
        value_head: nn.Linear,
        value: str,
        reference: nn.Module | None = None,
        critic: nn.Module | None = None,
    ):
        super().__init__()
        self.policy, self.value_head, self.value = policy, value_head, value
        self.reference, self.critic = reference, critic
        self.lora = isinstance(policy, PeftModel)
        self.requires_grad_(False)
        for name, parameter in self.named_parameters():
            trained = "value_head" in name
            if self.lora:
                trained |= _in_adapter(name, POLICY) or (value == "adapter" and _in_adapter(name, VALUE))
            else:
                trained |= name.startswith(("policy.", "critic."))
            parameter.requires_grad_(trained)
        self.sharded = False  # whether decoder layers are shared out among processes
        self.checkpointing = False  # recompute activations in the backward pass instead of keeping them
        self._recomputes: bool | None = None  # whether that gives the same gradients; tried when it is first asked for
        self.trunk: Trunk | None = None
        self._sampler: nn.Module | None = None
        # what every process has read from the same files is not sent from the first to the others: DDP would, in copies that a heap keeps
        still = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        self._ddp_params_and_buffers_to_ignore = still + [name for name, _ in self.named_buffers()]
        if self.lora:
            trained_adapters = [POLICY, VALUE] if value == "adapter" else [POLICY]
            object.__setattr__(
                self, "trunk", find_trunk(decoder(policy), first_adapted(policy, trained_adapters))
            )  # not a submodule: its weights are the policy's

    @property
    def causal(self) -> Model:
        """The policy's causal LM, for its output embedding and configs."""
        return self.policy.get_base_model() if isinstance(self.policy, PeftModel) else self.policy

    @property
    def exact(self) -> bool:
        """Whether a rollout's log-probabilities and states are those of a training pass, within float tolerance."""
        return self.causal.dtype == torch.float32 and not self._by_batch

    @property
    def quantised(self) -> bool:
        """Whether the base is held in 4 or 8 bit, into which nothing is merged."""
        return bool(getattr(self.causal, "is_quantized", False))

    @property
    def _by_batch(self) -> bool:
        """Whether what a row gets hangs on the rows beside it: in 8 bit, the columns that are taken for outliers are the batch's."""
        return bool(getattr(self.causal, "is_loaded_in_8bit", False))

    def share_out(self, sharding: str, setting: str, recompute: bool = False) -> None:
        """Share out the decoder layers of what is not trained (`frozen`), or of all (`full`), among the processes. Raises BackboneError,
        which names `setting`, where that cannot be. `recompute`: activations will be recomputed in the update."""
        if sharding == "none":
            return
        if self.lora and sharding == "full":
            raise BackboneError(
                f"{setting}: full shares out what is trained, and an adapter is small; set {setting}=frozen"
            )
        if self.lora and (outside := self._adapted_outside(setting)):
            raise BackboneError(
                f"{setting}: {outside} has an adapter and is in no decoder layer, so it is not shared out; leave it out of "
                f"lora.target_modules, or set {setting}=none"
            )
        if recompute:
            with whole(self.policy):  # nothing, where all of it is here
                self.recomputes()
        apart = [self.reference] if sharding == "frozen" else [self.policy, self.reference, self.critic]
        for model in [self.policy] if self.lora else apart:
            if model is not None and not sharded(model):  # it may have been read so
                share_out(model, setting)
        self.sharded = True

    def _adapted_outside(self, setting: str) -> str | None:
        """The name of a module that the policy's adapter sits on and that is in no decoder layer."""
        inside = {id(module) for layer in layers_of(self.policy, setting) for module in layer.modules()}
        return next((name for name, module in _lora_layers(self.causal) if id(module) not in inside), None)

    def whole(self, role: str) -> AbstractContextManager[None]:
        """Within the block the model that plays `role` is whole on every process, for forwards whose number is nobody else's affair."""
        model = self._plays(role)
        return whole(model) if self.sharded and model is not None else nullcontext()

    def _plays(self, role: str) -> nn.Module | None:
        apart = {POLICY: self.policy, "reference": self.reference, VALUE: self.critic}
        return self.policy if self.lora else apart.get(role)

    @property
    def packed(self) -> bool:
        """Whether padding costs the policy's decoder next to nothing."""
        return packs(self.policy)

    def hidden(self, role: str, input_ids: Tensor, attention_mask: Tensor, states: Tensor | None = None) -> Tensor:
        """Final hidden states (B, L, H) of `role`: policy, reference, reward or critic.

        `states` (B, L, H) enter the layers above the trunk, where the caller has them.
        """
        module = self._plays(role)
        assert module is not None, f"no model plays {role}"
        active = None if role == "reference" else role
        recompute = self.checkpointing and torch.is_grad_enabled() and self.recomputes()
        with checkpointed(module, recompute, active):
            if self.lora:
                with adapter(self.policy, active):
                    if self.trunk is not None and self.on_trunk(role):
                        given = self.trunk.states(input_ids, attention_mask) if states is None else states
                        return self.trunk.above(given, attention_mask)
                    return decoder(self.policy)(
                        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
                    ).last_hidden_state
            body = module if role == VALUE else decoder(module)
            return body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state

    def recomputes(self) -> bool:
        """Whether the policy's gradients are the same with activations that are recomputed: tried once, on a few tokens."""
        if self._recomputes is None:
            body, active = decoder(self.policy), POLICY if self.lora else None
            ids, mask = trial_rows(self.causal)
            learned = [p for p in self.policy.parameters() if p.requires_grad]
            found = []
            for on in (False, True):
                with (
                    adapter(self.policy, active) if self.lora else nullcontext(),
                    checkpointed(self.policy, on, active),
                ):
                    states = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()]
                    found.append(torch.autograd.grad(states.square().mean(), learned, allow_unused=True))
            kept, again = ([grad for grad in grads if grad is not None] for grads in found)
            layers = recomputed_layers(self.policy)
            coarse = rounded_in(self.causal)  # an adapter is float32, its gradients are of states that may be coarser
            same = all(close(b, a, coarse) for a, b in zip(kept, again, strict=False))
            self._recomputes = bool(layers) and len(kept) == len(again) and same
            if not self._recomputes:
                name = type(self.causal).__name__
                tell(f"{name}: its layers cannot be recomputed, so gradient_checkpointing saves no memory")
        return self._recomputes

    def on_trunk(self, role: str) -> bool:
        """Whether `role` leaves the layers of the trunk, if there is one, as they are. A reward adapter may reach deeper."""
        return self.trunk is not None and (role != REWARD or first_adapted(self.policy, [REWARD]) >= self.trunk.depth)

    def forward(self, batch: Batch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values of every completion token, each (B, T) float32, zero where masked."""
        logprobs, entropy, hidden = self.policy_logprobs(batch, temperature)
        return logprobs, entropy, self.values(batch, hidden)

    def policy_logprobs(self, batch: Batch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities and entropies (B, T) float32 under the policy, and its final hidden states (B, L, H)."""
        hidden = self.hidden(POLICY, batch.input_ids, batch.attention_mask, batch.states)
        with self.playing(POLICY):
            return *token_logprobs(self.causal, hidden, batch, temperature), hidden

    def values(self, batch: Batch, hidden: Tensor | None) -> Tensor:
        """The critic's values (B, T) float32 at the states in which each completion token was chosen, zero where masked.

        `hidden` (B, L, H) are the policy's final states, on which a shared critic's head sits.
        """
        if self.value == "adapter":
            hidden = self.hidden(VALUE, batch.input_ids, batch.attention_mask, batch.states)
        assert hidden is not None
        return self.head_values(hidden.gather(1, batch.positions[:, :, None].expand(-1, -1, hidden.shape[2])), batch)

    def head_values(self, at: Tensor, batch: Batch) -> Tensor:
        """Values (B, T) float32 of the states (B, T, H) that completion tokens were chosen from, zero where masked."""
        return self.value_head(at.to(self.value_head.weight.dtype)).squeeze(-1).float().masked_fill(~batch.mask, 0.0)

    def reference_logprobs(self, batch: Batch, temperature: float) -> Tensor:
        """Log-probabilities (B, T) float32 under the reference."""
        hidden = self.hidden("reference", batch.input_ids, batch.attention_mask, batch.states)
        with self.playing("reference"):
            return token_logprobs(self.causal if self.lora else self.reference, hidden, batch, temperature)[0]

    def playing(self, role: str) -> AbstractContextManager[None]:
        """Within the block the adapter of `role` is at work, in the output layer too; none is for the reference. Nothing without LoRA."""
        return adapter(self.policy, None if role == "reference" else role) if self.lora else nullcontext()

    def trainable(self) -> dict[str, nn.Parameter]:
        """What training changes: policy, critic and value head, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    @contextmanager
    def sampling(self) -> Iterator[nn.Module]:
        """The policy as a causal LM to decode with, within the block.

        In float32 the adapter is merged: 8.3 instead of 9.9 s for 32 times 24 tokens of a 135M model on two cores. In bfloat16 it stays attached: what it adds is often
        less than half a step of the weight's grid, and rounding would lose it.
        """
        if self.lora and (self.quantised or not self.exact):
            with adapter(self.policy, POLICY):
                yield self.causal
        elif self.lora and self.sharded:
            with torch.no_grad():
                for layer in self._adapted():
                    _merge(layer, layer.get_base_layer().weight)  # gathered, and forgotten at the end of `whole`
            with adapter(self.policy, None):
                yield self.causal
        else:
            try:
                yield self.sampler()
            finally:
                self.forget_sampler()

    @torch.no_grad()
    def sampler(self) -> nn.Module:
        """The policy as a plain causal LM for sampling, its weights up to date with the adapter.

        With LoRA the adapted matrices are kept a second time, merged, until `forget_sampler`; everything else is shared with the base.
        """
        if not self.lora:
            return self.policy
        base: Model = self.causal
        if self._sampler is None:
            object.__setattr__(self, "_sampler", _merged_copy(base))  # not a submodule: not trained, saved or wrapped
        for layer, merged in self._merged():
            if not merged.numel():
                merged.data = torch.empty_like(layer.get_base_layer().weight)
            _merge(layer, merged)
        assert self._sampler is not None
        return self._sampler

    def forget_sampler(self) -> None:
        """Give the memory of the merged matrices to what comes after sampling. What `sampler` returned is of no use any more."""
        if self._sampler is not None:
            for _, merged in self._merged():
                merged.data = merged.new_empty(0)

    def _adapted(self) -> list[Foreign]:
        """The layers that the policy's adapter sits on."""
        return [layer for _, layer in _lora_layers(self.causal) if POLICY in layer.lora_A]

    def _merged(self) -> Iterator[tuple[Foreign, Foreign]]:
        """The policy's adapted layers, each with the sampler's weight in its place."""
        assert self._sampler is not None
        for name, layer in _lora_layers(self.causal):
            if POLICY in layer.lora_A:
                yield layer, self._sampler.get_submodule(name).weight


def _in_adapter(name: str, adapter_name: str) -> bool:
    """Whether a parameter belongs to an adapter; a base may have modules of its own called policy or value, as BERT's attention has."""
    parts = name.split(".")
    return any(a.startswith("lora_") and b == adapter_name for a, b in zip(parts, parts[1:], strict=False))


def _lora_layers(model: nn.Module) -> list[tuple[str, Foreign]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def _merge(layer: Foreign, out: Tensor) -> None:
    """Write the layer's weight with the policy's adapter into `out`, which may be that weight itself."""
    if isinstance(layer, LoraLinear):
        layer.merge_into(out, POLICY)
    else:
        out.copy_(layer.get_base_layer().weight + layer.get_delta_weight(POLICY).to(out.dtype))


def _merged_copy(base: Model) -> nn.Module:
    """The structure of `base` without adapter layers: no weights yet where the policy has an adapter, shared ones elsewhere."""
    memo: dict[int, Foreign] = {}
    for tensor in (*base.parameters(), *base.buffers()):
        memo[id(tensor)] = tensor  # deepcopy takes what the memo has: tensors are shared, not copied
    clone = copy.deepcopy(base, memo)
    for name, layer in _lora_layers(clone):
        plain = copy.copy(layer.get_base_layer())
        if POLICY in layer.lora_A:
            plain._parameters = dict(plain._parameters)
            plain.weight = nn.Parameter(plain.weight.new_empty(0), requires_grad=False)
        parent, _, leaf = name.rpartition(".")
        setattr(clone.get_submodule(parent), leaf, plain)
    return clone.eval()


def lora_roles(policy: PeftModel, value: str, reward_head: nn.Linear | None) -> Roles:
    """Roles on one base. With an adapter for the reward, the critic starts from it and its head; else its head is zero, as any other
    would begin with advantages of noise.

    `policy` is the PeftModel with its adapter `policy` and, when there is one, `reward`.
    """
    base: Model = policy.get_base_model()
    head = nn.Linear(output_layer(base).width, 1)
    from_reward = value == "adapter" and reward_head is not None and REWARD in policy.peft_config
    if value == "adapter":
        policy.add_adapter(VALUE, copy.deepcopy(policy.peft_config[REWARD if from_reward else POLICY]))
    if from_reward:
        assert reward_head is not None
        for _, layer in _lora_layers(policy):
            if VALUE in layer.lora_A:
                layer.lora_A[VALUE].load_state_dict(layer.lora_A[REWARD].state_dict())
                layer.lora_B[VALUE].load_state_dict(layer.lora_B[REWARD].state_dict())
        with torch.no_grad():
            head.weight.copy_(reward_head.weight.float())
            head.bias.zero_() if reward_head.bias is None else head.bias.copy_(reward_head.bias.float())
    else:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return Roles(policy, head.to(next(policy.parameters()).device), value)
