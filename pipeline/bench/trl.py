"""One process of the bench: what people use today, on the same workload, an iteration whenever it is its turn.

    python -m pipeline.bench.trl ppo      '{"model": …}'        # a Spec as JSON: the last PPOTrainer of TRL (1.12.0)
    python -m pipeline.bench.trl generate '{"model": …}'        # model.generate with peft's adapter attached

TRL gets what it can make use of: bf16 by loading the weights so (it passes over its own setting), one generation for
the whole batch, micro-batches of a quarter of it, no gradient checkpointing, no sample generations, no saving, prompts
that are tokens already. Reward and value model are classifiers on the policy's weights; a fixed random head costs what
a trained one would. Nothing of ours that imports TRL may be imported here.
"""

import importlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.bench.turns import BASELINE, Spec, Turns

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARM_UP = (8, 40)  # rows, tokens


def _rows(spec: Spec) -> list[list[int]]:
    lines = Path(spec.prompts).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["ids"] for line in lines][: spec.batch * spec.iterations]


def _tokenizer(spec: Spec) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spec.model, padding_side="left", trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _causal(spec: Spec) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(spec.model, trust_remote_code=False, dtype=getattr(torch, spec.dtype))


def _classifier(spec: Spec, pad: int) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    kind = getattr(torch, spec.dtype)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        spec.model, trust_remote_code=False, dtype=kind, num_labels=1
    )
    model.config.pad_token_id = pad
    head = torch.randn(model.score.weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.score.weight.copy_(head / math.sqrt(model.config.hidden_size + 1))
    return model


def _lora(spec: Spec, layers: int) -> Any:
    from peft import LoraConfig

    first = layers - (spec.lora_layers or layers)
    chosen = list(range(first, layers))
    return LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM", target_modules=TARGETS, layers_to_transform=chosen)


def _warm_up(policy: Any) -> None:
    import torch

    device = next(policy.parameters()).device
    ids = torch.randint(policy.config.vocab_size, WARM_UP, generator=torch.Generator().manual_seed(0)).to(device)
    policy(input_ids=ids).logits.float().mean().backward()
    policy.zero_grad()


def trainer(spec: Spec, output: str, turns: Turns) -> Any:
    """TRL's PPOTrainer for the workload; it waits for its turn when training begins and after every iteration."""
    import torch
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import TrainerCallback

    trl = importlib.import_module("trl.experimental.ppo")
    tokenizer, policy = _tokenizer(spec), _causal(spec)

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turns.ready()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.done()

    micro = max(1, spec.batch // 4)
    arguments = trl.PPOConfig(
        output_dir=output,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=spec.batch // micro,
        local_rollout_forward_batch_size=spec.batch,
        total_episodes=spec.batch * spec.iterations,
        num_mini_batches=1,
        num_ppo_epochs=spec.epochs,
        response_length=spec.response,
        stop_token="eos" if spec.stops else None,
        learning_rate=spec.learning_rate,
        temperature=1.0,
        bf16=False,
        gradient_checkpointing=False,
        num_sample_generations=0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    rows = Dataset.from_dict({"input_ids": _rows(spec)})
    made = trl.PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=None if spec.lora else _causal(spec),
        reward_model=_classifier(spec, tokenizer.pad_token_id),
        value_model=_classifier(spec, tokenizer.pad_token_id),
        train_dataset=rows,
        eval_dataset=rows.select(range(2)),
        callbacks=[Clock()],
        peft_config=_lora(spec, policy.config.num_hidden_layers) if spec.lora else None,
    )
    # TRL deals its prompts shuffled; both sides are to have the same ones in an iteration
    loader = DataLoader(rows, batch_size=spec.batch, collate_fn=made.data_collator, drop_last=True)
    made.dataloader = made.accelerator.prepare(loader)
    return made


def ppo(spec: Spec, turns: Turns) -> None:
    sys.path.insert(0, str(BASELINE.resolve()))
    found = importlib.import_module("trl")
    if found.__version__ != "1.12.0":
        raise RuntimeError(f"trl {found.__version__} from {found.__file__} where 1.12.0 was to be")
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as output:
        made = trainer(spec, output, turns)
        _warm_up(made.model.policy)
        made.train()
    turns.close()


def generate(spec: Spec, turns: Turns) -> None:
    """Rollouts by `model.generate` on peft's own layers: new tokens, EOS included, of each turn."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(0)
    tokenizer, base = _tokenizer(spec), _causal(spec)
    model: Any = get_peft_model(base, _lora(spec, base.config.num_hidden_layers)).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    named = base.generation_config.eos_token_id
    ends = torch.tensor(named if isinstance(named, list) else [named], device=model.device)
    _warm_up(model)
    turns.ready()
    prompts = _rows(spec)
    for start in range(0, len(prompts), spec.batch):
        batch = tokenizer.pad({"input_ids": prompts[start : start + spec.batch]}, return_tensors="pt").to(model.device)
        with torch.no_grad():
            out = model.generate(
                **batch,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=spec.response,
                eos_token_id=ends.tolist(),
                pad_token_id=tokenizer.pad_token_id,
            )
        new = out[:, batch["input_ids"].shape[1] :]
        ended = torch.isin(new, ends)
        before = ended.cumsum(1) - ended.long()  # ends before each token
        turns.done(tokens=int((before == 0).sum()))
    turns.close()


if __name__ == "__main__":
    {"ppo": ppo, "generate": generate}[sys.argv[1]](Spec.parse(sys.argv[2]), Turns())
