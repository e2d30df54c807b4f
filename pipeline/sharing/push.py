"""How does a model of a run get onto the Hub? What others need of its folder, a card, the report; one commit, or nothing.

    make push RUN=demo MODEL=ppo TO=name/repo PRIVATE=1 DRY=1
    python -m pipeline push --run demo --model ppo --to name/repo --private --dry

What is private to the run stays: rows, samples, manifests with this machine's paths, the critic. A report shows held-out prompts and
answers, so it can be left out.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from data.schema import Demonstration
from pipeline.artifacts.files import read_rows
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.run import Run
from pipeline.artifacts.unchanged import unchanged
from pipeline.data_check.figures import languages
from pipeline.graph import PRETRAINED, REWARD_MODELS, STAGES
from pipeline.redaction import redacted, redacted_in
from pipeline.sharing import adapter
from pipeline.training.card import EMBEDDED, Base, base_of, card, datasets_of, is_encoder_decoder

OTHERS_NEED = re.compile(
    r"config\.json|generation_config\.json|(model|tokenizer|special_tokens|added_tokens|vocab|merges|spiece|sentencepiece)[\w.-]*"
    r"|chat_template\.jinja|scoring\.json"
)
"""Files of a model's folder that load it; what is not among them stays here."""

SAMPLE = 200  # completions whose language is told


class PushError(Exception):
    """A model that cannot go to the Hub: one sentence for the user, with its remedy."""


def models(run: Run) -> list[str]:
    """The folders of a run that hold a model."""
    found = (run.root / run.name).glob("*/manifest.json")
    return sorted(path.parent.name for path in found if _is_model(_stage_of(path.parent.name)))


def _stage_of(model: str) -> str:
    return model.partition("_seed_")[0]


def _is_model(stage: str) -> bool:
    return stage in STAGES and (STAGES[stage].policy or stage in (*REWARD_MODELS, *PRETRAINED))


def push(
    run: Run, model: str, to: str, *, private: bool, dry: bool, report: bool, license: str | None, force: bool
) -> None:
    """Put `model`, a stage such as ppo or a further seed such as ppo_seed_1, into the Hub's repository `to`; `dry` shows what would be
    put there, `force` is for a model whose gate failed. Raises PushError, ArtifactError."""
    _check_name(to)
    stage = _stage_of(model)
    if not _is_model(stage):
        raise PushError(
            f"MODEL={model}: no stage that makes a model; choose among {', '.join(models(run)) or 'none yet'}"
        )
    run = replace(run, beside={**run.beside, stage: model})
    with ExitStack() as opened:  # what was opened is sent, whatever takes its place meanwhile
        with unchanged(run, "push", [stage, "sft", "data", "compare"]):
            made = run.require(stage, force=True)
            if made.gate["result"] == "fail" and not force:
                raise PushError(
                    f"{run.folder(stage)}: its gate failed: {_failed(made)}; train it better first, or push it anyway with FORCE=1 (--force)"
                )
            base = _asked(base_of(_base_model(run, stage, made)), license)
            files, told = contents(run, stage, made, base, to, report)
            sent = {name: _opened(content, opened) for name, content in files.items()}
        for line in told:
            print(f"push: {line}")
        if dry:
            _show(files, to, private)
            return
        url = _commit(sent, to, private, f"{run.name}: {model}, seed {made.seed}")
    print(f"push: {len(files)} files are at {url}")


def _opened(content: Path | bytes, opened: ExitStack) -> BinaryIO | bytes:
    return opened.enter_context(content.open("rb")) if isinstance(content, Path) else content


def _failed(made: Manifest) -> str:
    found = [check for check in made.gate["checks"] if check["result"] == "fail"]
    return "; ".join(f"{check['name']} {check['figure']:.4g} ({check['threshold']})" for check in found)


def contents(
    run: Run, stage: str, made: Manifest, base: Base, to: str, report: bool
) -> tuple[dict[str, Path | bytes], list[str]]:
    """The files to push by their names there, and what is worth saying about them."""
    folder, told = run.folder(stage), []
    files: dict[str, Path | bytes] = {
        path.name: path for path in sorted(folder.iterdir()) if path.is_file() and OTHERS_NEED.fullmatch(path.name)
    }
    if (own := _adapter(run, stage, base)) is not None:
        files |= own
    elif (folder / "adapter").is_dir():
        told.append("the adapter stays here: its base model is not on the Hub; the merged weights go")
    page, verdict = _report(run, stage)
    if page is not None and report:
        files["report.html"] = redacted(_without_paths(page.read_text(encoding="utf-8"))).encode()
        told.append(f"{page} shows held-out prompts and answers and goes too; REPORT=0 (--no-report) leaves it out")
    elif page is None and stage not in PRETRAINED:
        told.append(f"no report of this model; to have one there, first {run.remedy('compare')}")
    if base.license is None:
        whose = "model" if stage in PRETRAINED else "base model"
        told.append(f"the licence of the {whose} is not known; LICENSE=… (--license) names it in the card")
    files["README.md"] = _card(run, stage, made, base, to, verdict, "report.html" in files, own is not None).encode()
    return files, told


def _base_model(run: Run, stage: str, made: Manifest) -> str:
    """The model that the weights began as: the run's, a reward model's own, or the name of a stage that began with none."""
    if stage in PRETRAINED:
        return stage
    section = REWARD_MODELS.get(stage)
    own = None if section is None else made.config["settings"].get(section, {}).get("model")
    return str(own or made.config["settings"]["model"])


def _asked(base: Base, license: str | None) -> Base:
    """The base with its licence as the Hub has it, or as the user says."""
    if license is not None:
        return replace(base, license=license)
    if base.hub is None or base.license is not None:
        return base
    try:
        return replace(base, license=ModelCard.load(base.hub).data.license)
    except Exception:  # offline, gated, without a card: then the licence is not known
        return base


def _adapter(run: Run, stage: str, base: Base) -> dict[str, bytes] | None:
    """The adapter on the base model as the Hub knows it: where it was trained on the sft model, joined with that model's own. None
    where there is no adapter, or something in between is neither on the Hub nor an adapter."""
    folder, sft = run.folder(stage) / "adapter", run.folder("sft") / "adapter"
    if base.hub is None or not folder.is_dir():
        return None
    own = adapter.read(folder)
    on_sft = stage != "sft" and run.manifest(stage).config["settings"].get("reward", {}).get("model") is None  # type: ignore[union-attr]
    if on_sft:
        # a classifier on an encoder–decoder has other names for the layers of the sft model
        if not sft.is_dir() or (not STAGES[stage].policy and is_encoder_decoder(run.folder(stage))):
            return None
        run.require("sft", force=True)
        own = adapter.joined(adapter.read(sft), own)
    return adapter.files(own, base.hub)


def _report(run: Run, stage: str) -> tuple[Path | None, str | None]:
    """The page about the model, and the verdict of a comparison that was made of this very model and is about it."""
    if not STAGES[stage].policy:
        page = run.folder(stage) / "report.html"
        return (page if page.is_file() else None), None
    compared = run.manifest("compare")
    page, data = run.folder("compare") / "report.html", run.folder("compare") / "report.json"
    if compared is None:
        return None, None
    run.require("compare", force=True, lineage=False)  # it may be of another model, which is told
    parents = {parent["role"]: parent["sha256"] for parent in compared.parents}
    role = run.folder(stage).name
    if parents.get(role) != run.identity(stage):
        return None, None
    found = json.loads(data.read_text(encoding="utf-8"))
    return page, found["verdict"] if found["main"] == stage == role else None


def _without_paths(text: str) -> str:
    """A page without the folders of this machine."""
    return text.replace(f"{Path.cwd()}/", "").replace(str(Path.home()), "~")


def _card(
    run: Run, stage: str, made: Manifest, base: Base, to: str, verdict: str | None, page: bool, with_adapter: bool
) -> str:
    data = run.manifest("data")
    sources = _sources(data.config["settings"]["data"]) if data is not None else []
    if stage in PRETRAINED:
        sources = _sources(made.config["settings"][stage])
    about = [f"{STAGES[stage].help} Made by an RLHF pipeline, seed {made.seed}."]
    if base.hub is not None:
        about[0] += f" The base model is [{base.hub}](https://huggingface.co/{base.hub})."
    if made.gate["result"] == "fail":
        about.append(f"**Its gate failed:** {_failed(made)}.")
    about += [verdict] if verdict else []
    if page:
        known = "The whole comparison" if STAGES[stage].policy else "What is known of it on held-out rankings"
        about.append(f"{known} is in `report.html`.")
    if with_adapter:
        near = ", nearly: it was trained on a copy that had been quantised" if base.hub == EMBEDDED.hub else ""
        about.append(f"`adapter/` is the same change as a LoRA adapter on the base model, for PEFT and vLLM{near}.")
    lines = (run.folder(stage) / "README.md").read_text(encoding="utf-8").splitlines()
    what = next(line.removeprefix("# ") for line in lines if line.startswith("# "))
    # once more: a former version may have published the run
    about, sources = redacted_in(about), redacted_in(sources)
    text = card(
        stage,
        what,
        to,
        base,
        made.metrics,
        datasets=datasets_of(sources),
        languages=_languages(run),
        about=about,
        objective=made.model.get("objective"),
        encoder_decoder=is_encoder_decoder(run.folder(stage)),
    )
    ModelCard(text)  # raises where its metadata is not what the Hub takes
    return text


def _sources(settings: dict[str, Any]) -> list[str]:
    """All that stage data read, by its manifest's settings; a former version, with settings that are gone, may have written them."""
    known = {
        name: value
        for name, value in settings.items()
        if name in ("source", "demonstrations", "prompts", "eval_prompts")
    }
    parts = [part["source"] for part in settings.get("mixture") or []] or [known.pop("source", None)]
    return [
        name for name in (*parts, *(value for name, value in known.items() if name != "source")) if name is not None
    ]


def _languages(run: Run) -> list[str]:
    """ISO 639 codes of at least a tenth of the completions that were learned, told from a sample."""
    path = run.folder("data") / "demonstrations.train.jsonl"
    rows = (
        [Demonstration.from_json(row) for row, _ in zip(read_rows(path), range(SAMPLE), strict=False)]
        if path.is_file()
        else []
    )
    found = {code: of for code, of in languages(rows)["completions"].items() if re.fullmatch("[a-z]{2,3}", code)}
    return [code for code, of in found.items() if 10 * of >= sum(found.values())]


def _check_name(to: str) -> None:
    try:
        validate_repo_id(to)
    except HFValidationError:
        to_is_wrong = True
    else:
        to_is_wrong = to.count("/") != 1
    if to_is_wrong:
        raise PushError(f'TO="{to}": no name of a repository; write name/repo, such as TO=kim/film-critic')


def _show(files: dict[str, Path | bytes], to: str, private: bool) -> None:
    print(f"push: DRY: nothing is sent; {'private' if private else 'public'} {to} would hold")
    for name, content in files.items():
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        print(f"  {size:>13,}  {name}")
    readme = files["README.md"]
    assert isinstance(readme, bytes)
    print(f"\n{readme.decode()}")


def _commit(files: Mapping[str, BinaryIO | bytes], to: str, private: bool, message: str) -> str:
    api = HfApi()
    with told_plainly(to, api.endpoint):
        api.create_repo(to, private=private or None, exist_ok=True)
        if private and api.repo_info(to).private is False:
            raise PushError(
                f"TO={to}: it is there and public, and PRIVATE was asked for; make it private there, or choose another name"
            )
        operations: Sequence[CommitOperationAdd] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()
        ]
        done = api.create_commit(to, operations, commit_message=message)
    return f"{api.endpoint}/{to} (commit {done.oid[:12]})"


REMEDIES = {
    401: "you are not logged in, or the token is no longer valid; run .venv/bin/hf auth login, or set HF_TOKEN",
    403: "the token may not write there; take a token with write access, or another TO",
    404: "it is not there, or the token may not see it; take a token with write access, or another TO",
    409: "somebody else changed or is making it; run the same command again",
    412: "somebody else changed it meanwhile; run the same command again",
    413: "a file is too large for the Hub",
    429: "the Hub asks to wait; run the same command again in some minutes",
}


@contextmanager
def told_plainly(to: str, endpoint: str) -> Iterator[None]:
    """Within the block what the Hub answers becomes a PushError."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        remedy = REMEDIES.get(status, "run the same command again later")
        said = f" ({error.server_message})" if error.server_message else ""
        raise PushError(f"{to}: the Hub answered {status}{said}: {remedy}") from error
    except ValueError as error:
        if "Invalid metadata" not in str(error):
            raise
        raise PushError(f"{to}: the Hub does not take the card: {' '.join(str(error).split())}") from error
    except (HTTPError, OSError) as error:
        raise PushError(
            f"{to}: no answer from {endpoint} ({error}); nothing was committed; check the network or HF_ENDPOINT"
        ) from error
