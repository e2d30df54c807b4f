"""Which folders of models mean harm? Each a change of the tiny model's, and what the sentence about it must name."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from strangers import rewritten

CONFIG, GENERATION, TOKENIZER, WEIGHTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "model.safetensors",
)
CANARY = "executed"  # a file that hostile code would leave beside the folder
Change = Callable[[Path], object]
Folder = tuple[Change, tuple[str, ...]]


def config(*named: str, **values: Any) -> Folder:
    return (lambda folder: rewritten(folder / CONFIG, **values)), named or (CONFIG, next(iter(values)))


class Code:
    """An object that runs a command where it is unpickled."""

    def __init__(self, folder: Path):
        self.canary = folder.parent / CANARY

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def code(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder.parent / CANARY)!r}, 'w')\nclass C: pass\n")


def brings_code(folder: Path) -> None:
    code(folder)
    rewritten(folder / CONFIG, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})


def tokenizer_brings_code(folder: Path) -> None:
    code(folder)
    rewritten(folder / TOKENIZER, auto_map={"AutoTokenizer": ["evil.C", None]}, tokenizer_class="Evil")


def custom_generate(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(folder.parent / CANARY)!r}, 'w')\n")


def pickled(zipped: bool) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        whole = {"a": Code(folder)}
        torch.save(whole, folder / "pytorch_model.bin") if zipped else (folder / "pytorch_model.bin").write_bytes(
            pickle.dumps(whole)
        )
        (folder / "training_args.bin").write_bytes(pickle.dumps(Code(folder)))

    return change


def adapter(keep: bool) -> Change:
    def change(folder: Path) -> None:
        rewritten(
            folder / "adapter_config.json",
            peft_type="LORA",
            base_model_name_or_path="/elsewhere",
            target_modules=["q_proj"],
        )
        if not keep:
            (folder / CONFIG).unlink()

    return change


def link(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def fifo(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def index(name: Any) -> Change:
    """Weights by an index that puts one tensor elsewhere."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-1.safetensors")
        places = dict.fromkeys(load_file(folder / "model-1.safetensors"), "model-1.safetensors")
        (folder / f"{WEIGHTS}.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": places | {"lm_head.weight": name}})
        )

    return change


def header(edit: Callable[[Any], object] = lambda _: None, raw: bytes | None = None, size: int | None = None) -> Change:
    """Weights with another header."""

    def change(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        table = json.loads(data[8 : 8 + length])
        edit(table)
        made = json.dumps(table).encode() if raw is None else raw
        begin = (len(made) if size is None else size).to_bytes(8, "little")
        (folder / WEIGHTS).write_bytes(begin + made + data[8 + length :])

    return change


def weights(edit: Callable[[Any], object]) -> Change:
    def change(folder: Path) -> None:
        table = load_file(folder / WEIGHTS)
        edit(table)
        save_file(table, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def spoilt(name: str, number: float) -> Change:
    return weights(lambda table: table[name].view(-1)[7:8].fill_(number))


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SIZES: list[tuple[str, Any]] = [
    *(("vocab_size", one) for one in (10**9, 10**7, -1, 0, "98", 98.5, float("nan"), True)),
    *(("hidden_size", one) for one in (10**9, -32, 0, "x")),
    *(("num_hidden_layers", one) for one in (10**9, 10**6, 5000, -1, 0, "2")),
    *(("max_position_embeddings", one) for one in (10**12, -1, 0, "y", float("inf"))),
    *(("num_labels", one) for one in (10**9, 10**12, -1, "z")),
    *(("intermediate_size", one) for one in (10**10, -1, 4_000_000)),
    *(("num_attention_heads", one) for one in (0, 10**9, -4)),
    *(("num_key_value_heads", one) for one in (0, -1)),
    *(("head_dim", one) for one in (10**9, -2)),
]
FOLDERS: dict[str, Folder] = {
    "auto_map of a model": (brings_code, ("code of its own", "never run")),
    "auto_map to the Hub": config("code of its own", model_type="evil", auto_map={"AutoConfig": "evil/repo--evil.C"}),
    "auto_map of a tokenizer": (tokenizer_brings_code, ("code of its own", "never run")),
    "a folder custom_generate": (custom_generate, ("custom_generate", "never run")),
    "custom_generate of a config": (
        lambda d: rewritten(d / GENERATION, custom_generate="evil/repo"),
        (GENERATION, "evil/repo"),
    ),
    "a kernel as attention": config("evil/kernel", _attn_implementation="evil/kernel"),
    "a kernel as attention, by its other name": config("evil/kernel", attn_implementation={"": "evil/kernel:x"}),
    "a kernel for experts": config("evil/kernel", experts_implementation="evil/kernel"),
    "an adapter in place of a model": (adapter(False), ("adapter_config.json", "/elsewhere")),
    "an adapter beside a model": (adapter(True), ("adapter_config.json", "/elsewhere")),
    "a quantisation that names code": config("evil:run", quantization_config={"quant_method": "evil:run"}),
    "a quantisation that is a text": config(quantization_config="evil"),
    "a quantisation that is a list": config(quantization_config=[]),
    "a pickle": (pickled(False), ("never unpickled",)),
    "a pickle, zipped": (pickled(True), ("never unpickled",)),
    "a template that is another file": (
        link("chat_template.jinja", "/etc/passwd"),
        ("chat_template.jinja", "/etc/passwd"),
    ),
    "weights that are another file": (link(WEIGHTS, "../base/model.safetensors"), (WEIGHTS, "leads out")),
    "a link to nothing": (link(CONFIG, "/nowhere"), (CONFIG, "leads nowhere")),
    "a link to itself": (link(CONFIG, CONFIG), (CONFIG, "leads nowhere")),
    "a pipe as config": (fifo(CONFIG), (CONFIG, "no file")),
    "a pipe as weights": (fifo(WEIGHTS), (WEIGHTS, "no file")),
    "an index that leads up": (index("../base/model.safetensors"), ("weight_map", HEAD, "../base")),
    "an index that leads away": (index("/etc/passwd"), ("weight_map", HEAD, "/etc/passwd")),
    "an index to nothing": (index("model-2.safetensors"), ("weight_map", HEAD, "model-2.safetensors")),
    "an index to a number": (index(None), ("weight_map", HEAD)),
    "an index to a pickle": (index("x.bin"), ("weight_map", HEAD, "x.bin")),
    "a header of absurd size": (header(size=2**63), (WEIGHTS,)),
    "a header beyond the file": (header(size=99_000_000), (WEIGHTS,)),
    "a header that is none": (header(raw=b"{" * 1000), (WEIGHTS,)),
    "a header that is deep": (header(raw=b"[" * 100_000), (WEIGHTS,)),
    "offsets on top of each other": (
        header(lambda h: h[HEAD].update(data_offsets=h[EMBEDDING]["data_offsets"])),
        (WEIGHTS,),
    ),
    "a shape beyond all numbers": (header(lambda h: h[HEAD].update(shape=[10**9, 10**9])), (WEIGHTS,)),
    "a shape below zero": (header(lambda h: h[HEAD].update(shape=[-1, 32])), (WEIGHTS,)),
    "whole numbers as weights": (header(lambda h: h[HEAD].update(dtype="I32")), (WEIGHTS, HEAD, "I32")),
    "a dtype that is none": (header(lambda h: h[HEAD].update(dtype="EVIL")), (WEIGHTS,)),
    "a dtype of another width": (header(lambda h: h[HEAD].update(dtype="BF16")), (WEIGHTS,)),
    "weights without a byte": (lambda d: (d / WEIGHTS).write_bytes(b""), (WEIGHTS,)),
    "weights that are cut": (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-1000]), (WEIGHTS,)),
    "NaN inside": (
        spoilt("model.layers.1.mlp.up_proj.weight", float("nan")),
        ("model.layers.1.mlp.up_proj.weight", "NaN"),
    ),
    "NaN in one row of the embedding": (spoilt(EMBEDDING, float("nan")), (EMBEDDING, "NaN")),
    "infinity in the head": (spoilt(HEAD, float("inf")), (HEAD, "infinity")),
    "a weight that is missing": (weights(lambda w: w.pop(HEAD)), (HEAD,)),
    "a weight too many": (weights(lambda w: w.update(evil=torch.zeros(3))), ("evil",)),
    "a weight of another shape": (weights(lambda w: w.update({HEAD: torch.zeros(98, 16)})), (HEAD, "[98, 16]")),
    "no weight at all": (weights(lambda w: w.clear()), ("weights do not fit",)),
    **{
        f"{name} {value!r}": config(CONFIG, name, str(value), **{name: value})
        for name, value in SIZES
        if value not in (10**7, 4_000_000)
    },
    "vocab_size of ten million": config("vocab_size (10000000)", vocab_size=10**7),
    "intermediate_size of four million": config("intermediate_size (4000000)", intermediate_size=4_000_000),
    "a head without width": config("cannot be loaded", head_dim=0),
    "a size further inside": config("text_config.vocab_size", text_config={"vocab_size": 10**9}),
    "rope_parameters 3": config("config.json", "rope_parameters", rope_parameters=3),
    "a factor that is a text": config(
        "cannot be loaded", rope_parameters={"rope_type": "linear", "factor": "x", "rope_theta": 1e4}
    ),
    "a dtype that is a function": config(CONFIG, dtype="load"),
    "a kind that is a list": config(model_type=["x"]),
    "a kind that nobody knows": config("evil", model_type="evil"),
    "a file elsewhere as weights": config("../base", transformers_weights="../base/model.safetensors"),
    "fifty thousand labels": config("id2label", id2label={str(i): "x" for i in range(50_000)}),
    "labels that are a text": config(id2label="x"),
    "a token's number that is a text": config(eos_token_id="x"),
    "a pad beyond the vocabulary": config("Padding_idx", pad_token_id=10**9),
    "an end that is a text": (lambda d: rewritten(d / GENERATION, eos_token_id="x"), (GENERATION, "eos_token_id")),
    "an activation that is none": config("evil", hidden_act="evil"),
    "an epsilon that is none": config("rms_norm_eps", "nan", rms_norm_eps=float("nan")),
    "no dictionaries returned": config("no states", return_dict=False),
    "brackets without end": (
        text(CONFIG, '{"model_type": "llama", "a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        (CONFIG, "nested too deep"),
    ),
    "brackets a hundred deep": (
        text(CONFIG, '{"model_type": "llama", "a": ' + "[" * 100 + "]" * 100 + "}"),
        (CONFIG, "nested deeper"),
    ),
    "a config of 40 MB": (text(CONFIG, '{"model_type": "llama", "a": "' + "x" * 40_000_000 + '"}'), (CONFIG, "bytes")),
    "a config of a million keys": (
        text(CONFIG, '{"model_type": "llama"' + "".join(f',"{i}":1' for i in range(10**6)) + "}"),
        (CONFIG, "more than"),
    ),
    "a config that is a list": (text(CONFIG, "[1]"), (CONFIG, "[1]")),
    "a config that is cut": (text(CONFIG, "{"), (CONFIG, "cannot be read")),
    "a config of other bytes": (lambda d: (d / CONFIG).write_bytes(b"\xff\xfe\x00"), (CONFIG, "cannot be read")),
    "a number of 5000 digits": (
        text(CONFIG, '{"model_type": "llama", "vocab_size": ' + "9" * 5000 + "}"),
        (CONFIG, "cannot be read"),
    ),
    "a generation config that is a list": (text(GENERATION, "[1]"), (GENERATION, "[1]")),
}
