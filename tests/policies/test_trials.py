"""Is what a model does found out at load, whatever its config or its attributes are called? Values are the model's own forward's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PAD, make_roles, randomise
from torch import nn
from zoo.build import build, save

from policies.backbone import BackboneError, checkpointed, decoder, load_causal, load_classifier, new_classifier
from policies.quick.packing import enable_packing, packs
from policies.quick.trunk import find_trunk
from policies.quick.windows import short_windows
from policies.roles import Roles
from policies.tokenizers import load_tokenizer
from policies.trials import check_causal, check_scores, output_layer, trial_rows

F32 = torch.float32


def changed(folder: Path, name: str, **changes: Any) -> Path:
    """A folder whose JSON file `name` says something else; None leaves a key out."""
    told = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps({k: v for k, v in (told | changes).items() if v is not None}))
    return folder


def loaded(folder: Path) -> Any:
    return load_causal(folder, load_tokenizer(folder), F32)


def test_tokens_that_see_what_follows_are_refused(tmp_path: Path) -> None:
    folder = changed(save("bert", tmp_path), "config.json", is_decoder=False)
    with pytest.raises(
        BackboneError, match="BertLMHeadModel: its tokens see those after them.*set is_decoder: true in its config"
    ):
        loaded(folder)
    assert loaded(changed(folder, "config.json", is_decoder=True)).config.is_decoder


class Faulty(nn.Module):
    """Around a decoder: one fault."""

    def __init__(self, body: Any, fault: str):
        super().__init__()
        self.body, self.fault, self.config, self.dtype = body, fault, body.config, body.dtype

    def forward(self, **given: Any) -> Any:
        out = self.body(**given)
        states = out.last_hidden_state
        if self.fault == "chance":
            out.last_hidden_state = states + torch.randn_like(states)
        elif self.fault == "padding":
            out.last_hidden_state = states + (given["attention_mask"] == 0).sum(1)[:, None, None]
        elif self.fault == "a hair" and len(given["input_ids"]) == 1 and given["input_ids"][0, 0] == self.sensitive:
            out.last_hidden_state = states + 1e-3 * states.abs().max()
        elif self.fault == "one token" and len(given["input_ids"]) == 1:
            moved = torch.arange(states.shape[1])[None, :, None] == 2
            share = 5e-3 if states.dtype == torch.float32 else 0.5
            out.last_hidden_state = states + share * states.abs().max() * moved
        elif self.fault == "gradient":
            out.last_hidden_state = states.detach()
        elif self.fault == "ahead":
            out.last_hidden_state = states + 0.01 * states.roll(-1, 1)
        return out


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("chance", "says something else each time"),
        ("padding", "says something else where a row is padded on the right"),
        ("gradient", "gives no gradients while dropout is off"),
        ("ahead", "its tokens see those after them"),
    ],
)
def test_what_training_could_not_trust_is_refused(fault: str, told: str) -> None:
    model = build("llama")
    check_causal(model)
    model.model = Faulty(model.model, fault)
    model.get_input_embeddings = lambda: model.model.body.embed_tokens
    with pytest.raises(BackboneError, match=told):
        check_causal(model)


def test_a_state_that_hangs_on_its_last_digits_is_no_fault() -> None:
    """One row of one draw says something else alone than in a batch, as rounding may have it; the other draws do not."""
    model = build("llama")
    model.model = Faulty(model.model, "a hair")
    model.get_input_embeddings = lambda: model.model.body.embed_tokens
    model.model.sensitive = trial_rows(model)[0][2, 0]
    check_causal(model)


@pytest.mark.parametrize("dtype", [F32, torch.bfloat16])
def test_one_token_that_rounding_makes_another_is_no_fault(dtype: torch.dtype) -> None:
    """One of each row's tokens hangs on its last digits, in every draw, as the demo's sft model has it in bfloat16."""
    model = build("llama").to(dtype)
    model.model = Faulty(model.model, "one token")
    model.get_input_embeddings = lambda: model.model.body.embed_tokens
    check_causal(model)


def test_rows_are_laid_end_to_end_though_rounding_makes_a_token_another() -> None:
    """Rows in lanes are rounded otherwise than padded rows: the demo's sft model was not packed for one token of 23."""
    model = build("llama")

    def moved(module: Any, given: Any, out: torch.Tensor) -> None:
        if out.shape[:2] != (4, 9):
            out[0, 0] += share * out.abs().max()

    share = 5e-3
    model.model.norm.register_forward_hook(moved)
    enable_packing(model)
    assert packs(model)
    other, share = build("llama"), 0.05  # more than rounding can in float32
    other.model.norm.register_forward_hook(moved)
    enable_packing(other)
    assert not packs(other)


def test_one_token_that_a_choice_among_tokens_changes_is_no_rounding() -> None:
    """Attention to the likeliest few of a lane, not of a row: in bfloat16 it looks as rounding does."""
    model = build("hy_v4").bfloat16()
    enable_packing(model)
    assert not packs(model)


def test_a_cap_on_logits_is_seen_in_bfloat16() -> None:
    """A cap of 30 changes a logit of 9 by 3%, which rounding may; what is sampled must be what the model itself says."""
    model = build("gemma2", final_logit_softcapping=30.0)
    with torch.no_grad():
        ids = trial_rows(model)[0]
        states = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight * 9 / head(states).abs().max())
    model.bfloat16()
    assert output_layer(model).scale is None


def test_logits_that_are_rounded_otherwise_are_logits_all_the_same() -> None:
    """A GPU may multiply another number of rows in another order, so that in bfloat16 last digits differ."""
    model = build("llama").bfloat16()

    def rounded(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
        odd = torch.arange(out.shape[-1]) % 3 == 0
        return torch.where(odd, out * (1 + 2**-7), out) if out.shape[:2] == (3, 9) else out

    model.lm_head.register_forward_hook(rounded)
    assert output_layer(model).scale == 1.0


class Scored(nn.Module):
    """Around a score head: the rows of a batch of one are moved, `often` of three times."""

    def __init__(self, head: nn.Linear, often: int, by: float):
        super().__init__()
        self.head, self.often, self.by, self.runs = head, often, by, 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(states)
        if len(states) > 1:
            return scores
        self.runs += 1
        return scores + self.by * (self.runs % 3 < self.often)


def test_a_score_that_hangs_on_last_digits_is_no_fault(tmp_path: Path) -> None:
    """One text in three is scored otherwise alone; all are by a fortieth of what texts differ by, though they are all near zero."""
    folder = save("llama", tmp_path)
    model: Any = new_classifier(folder, load_tokenizer(folder, scores=True), torch.bfloat16, seed=0)
    head = model.score
    with torch.no_grad():
        ids, mask = trial_rows(model)
        spread = float(model(input_ids=ids, attention_mask=mask).logits.std())
    for often, by in ((1, 10 * spread), (3, spread / 40)):
        model.score = Scored(head, often, by)
        check_scores(model)
    for often in (2, 3):
        model.score = Scored(head, often, 2 * spread)
        with pytest.raises(BackboneError, match="no score of a row that is the same padded and alone"):
            check_scores(model)


def test_gradients_of_coarse_states_need_not_be_exact(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    """On a GPU a backward pass may add in another order each time; adapters are float32, but what they learn from is bfloat16."""
    roles: Roles = make_roles(tiny_folder, tiny_tokenizer)
    randomise(roles, "policy")
    for name, parameter in roles.causal.named_parameters():
        parameter.data = parameter.data if "lora_" in name else parameter.data.bfloat16()
    layer: Any = roles.causal.model.layers[0].mlp
    right, runs = layer.forward, [0]

    def rounded(x: torch.Tensor) -> torch.Tensor:
        runs[0] += 1
        out: torch.Tensor = right(x)
        if out.requires_grad and runs[0] > 1:
            out.register_hook(lambda grad: grad * (1.0 + 2**-7))
        return out

    layer.forward = rounded
    assert roles.recomputes()


def test_numbers_of_sampling_that_could_not_be_saved_are_settled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As published models have them; what is loaded can be published, and the author's numbers are kept."""
    folder = changed(
        save("llama", tmp_path / "a"), "generation_config.json", temperature=0.6, top_p=0.9, do_sample=None
    )
    tokenizer = load_tokenizer(folder)
    load_causal(folder, tokenizer, F32).save_pretrained(tmp_path / "b")
    told = json.loads((tmp_path / "b" / "generation_config.json").read_text())
    assert (told["temperature"], told["top_p"], told["do_sample"]) == (0.6, 0.9, True)
    assert f"{folder}: its generation_config.json says how to sample but not do_sample: true" in capsys.readouterr().err
    load_causal(tmp_path / "b", tokenizer, F32).save_pretrained(tmp_path / "c")
    assert "b: its generation" not in capsys.readouterr().err


def test_configs_beyond_help_are_refused(tmp_path: Path) -> None:
    folder = changed(save("llama", tmp_path), "generation_config.json", early_stopping=True, do_sample=None)
    with pytest.raises(
        BackboneError, match="its configs cannot be saved again .*early_stopping.*correct its config.json"
    ):
        loaded(folder)


def test_what_cannot_be_a_reward_model_is_refused(tmp_path: Path) -> None:
    for name, told in (
        ("bert", "its score does not see the last token"),
        ("granite", "AutoModelForSequenceClassification"),
    ):
        folder = save(name, tmp_path / name)
        with pytest.raises(BackboneError, match=f"{told}.*; name another.* in reward.model") as caught:
            new_classifier(folder, load_tokenizer(folder), F32, seed=0)
        assert "\n" not in str(caught.value)
    folder = changed(tmp_path / "bert", "config.json", is_decoder=False)
    new_classifier(folder, load_tokenizer(folder), F32, seed=0).save_pretrained(tmp_path / "encoder")
    for path in folder.glob("tokenizer*"):
        (tmp_path / "encoder" / path.name).write_bytes(path.read_bytes())
    load_classifier(tmp_path / "encoder", load_tokenizer(tmp_path / "encoder"), F32)  # an encoder sees all of it


def test_a_kind_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = changed(save("llama", tmp_path), "config.json", model_type="of_my_own")
    with pytest.raises(BackboneError, match="of_my_own.*use another") as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "llama4_text"])
def test_windows_are_passed_in_a_trial(name: str) -> None:
    """A window that is wider than any trial is made short for it, in what comes out too, and is what it was afterwards."""
    wide = {"sliding_window": 64} if name != "llama4_text" else {"attention_chunk_size": 64}
    model = build(name, **wide)
    ids = torch.randint(4, 98, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with short_windows(model) as names:
            short = model(input_ids=ids).logits
        assert names == list(wide) and not torch.allclose(short[:, 6:], before[:, 6:], atol=1e-2)
        assert torch.equal(short[:, :3], before[:, :3]) and torch.equal(model(input_ids=ids).logits, before)


def test_a_trunk_knows_padding_from_a_token_of_the_same_number(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    """Where the unknown token pads, a text may hold it too."""
    model: Any = load_causal(tiny_folder, tiny_tokenizer, F32)
    trunk = find_trunk(decoder(model), 1)
    assert trunk is not None
    ids = torch.tensor([[5, PAD, 9, 7, PAD, PAD], [PAD, 8, 6, PAD, 11, 12]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        with trunk.in_place_of(model):
            parts = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert torch.allclose(whole[mask.bool()], parts[mask.bool()], atol=1e-5)


def test_no_dropout_comes_with_checkpointing() -> None:
    """OPT's layers drop a tenth in training mode."""
    model = build("opt", dropout=0.5, attention_dropout=0.5)
    body, ids = decoder(model), torch.randint(4, 98, (2, 9), generator=torch.Generator().manual_seed(0))
    found, kept = [], []
    for on in (False, True):
        model.zero_grad()
        count = 0

        def pack_(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with checkpointed(model, on, None), torch.autograd.graph.saved_tensors_hooks(pack_, lambda t: t):
            states = body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
            states.square().sum().backward()
        kept.append(count)
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and all(torch.equal(g, found[1][n]) for n, g in found[0].items())
    assert not any(module.training for module in model.modules())


def test_layers_that_cannot_be_recomputed_are_not(
    tiny_folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer whose second run gives something else."""
    roles: Roles = make_roles(tiny_folder, tiny_tokenizer)
    randomise(roles, "policy")
    layer: Any = roles.causal.model.layers[0].mlp
    right, runs = layer.forward, [0]

    def drifting(x: torch.Tensor) -> torch.Tensor:
        runs[0] += 1
        return right(x) * runs[0]

    assert roles.recomputes()
    roles._recomputes = None
    monkeypatch.setattr(layer, "forward", drifting)
    assert not roles.recomputes() and "its layers cannot be recomputed" in capsys.readouterr().err


def test_llama_falls_back_in_nothing() -> None:
    from zoo.checks import falls_back

    from policies.quick.packing import enable_packing

    model = build("llama")
    enable_packing(model)
    assert packs(model) and falls_back(model) == []
