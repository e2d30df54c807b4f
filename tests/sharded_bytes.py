"""How many bytes does each process hold of a model with the adapters of policy and critic, and how much memory of its own? For docs/measured.md.

torchrun --standalone --nproc_per_node 2 tests/sharded_bytes.py FOLDER none|frozen
"""

import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import get_peft_model

from pipeline.settings.config import PPO
from policies.adapters import lora_config
from policies.backbone import load_causal
from policies.precision import Held, Shares
from policies.roles import POLICY, lora_roles
from policies.sharding import bytes_here
from policies.tokenizers import load_tokenizer


def main(folder: Path, sharding: str) -> None:
    accelerator, process = Accelerator(cpu=True), psutil.Process()
    before = process.memory_info().rss
    shares = None if sharding == "none" else Shares("ppo.sharding", learned=False)
    base: Any = load_causal(folder, load_tokenizer(folder), Held(torch.float32, shared=shares))
    policy: Any = get_peft_model(base, lora_config(base, PPO().lora, "CAUSAL_LM"), adapter_name=POLICY)
    roles = lora_roles(policy, "adapter", None)
    roles.share_out(sharding, "ppo.sharding")
    told = gather_object([(bytes_here(roles) / 1e6, (process.memory_info().rss - before) / 1e6)])
    if accelerator.is_main_process:
        print(f"{sharding}: MB of weights, and resident more than before: {told}")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
