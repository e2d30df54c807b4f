"""What will a run need and how fast will it be? All that is counted, as one text.

python -m pipeline plan recipes/tldr.yaml --model 7B --gpus 8 --gpu h200 --price 2.5
"""

from collections.abc import Sequence

from pipeline.plan.machines import HERE, KNOWN, MEASURED, Machine, here
from pipeline.plan.memory import Need, chosen, shardings
from pipeline.plan.seconds import Iteration, iteration
from pipeline.plan.work import QUANTISED, Job, job
from pipeline.settings.config import Config, ConfigError

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
MOST = 100_000  # GPUs
HALF = 0.5
"""Of the episodes a second of a GPU on the smallest number that the model fits on; below it more GPUs are no longer worth their price."""


def plan(
    config: Config, model: str | None, gpus: int, gpu: str, price: float | None, prompt: int | None = None
) -> list[str]:
    """The lines of a plan. Raises ConfigError for what cannot be planned."""
    if not 1 <= gpus <= MOST:
        raise ConfigError(f"GPUS={gpus}: from 1 to {MOST:,} can be planned")
    if gpu != HERE and gpu not in KNOWN:
        raise ConfigError(f"GPU={gpu}: no GPU of that name is known; write one of {', '.join(KNOWN)}, or {HERE}, which measures this machine")  # fmt: skip
    if price is not None and not 0 < price < 1e6:
        raise ConfigError(f"PRICE={price}: dollars an hour for one GPU, above 0; write for instance PRICE=2.5")
    work = job(config, model, prompt)
    machine = here(gpus) if gpu == HERE else KNOWN[gpu]
    return planned(work, machine, gpus, price)


def planned(work: Job, machine: Machine, gpus: int, price: float | None) -> list[str]:
    """The same of a job on a machine."""
    found = needs(work, machine, gpus)
    lines = [*_head(work, machine, gpus), "", *_memory(found, machine)]
    best = next((one for one in found if one.fits(machine) and one.quantization == work.config.quantization), None)
    if best is None:
        lines += ["", f"It does not fit on {gpus} x {machine.name} as the recipe has it: {_remedy(found, machine)}."]
    elif work.shape is None:
        lines += [
            "",
            "Seconds are not counted: layers of this model differ, or hold experts, of which each token takes some.",
        ]
    else:
        lines += ["", *_phases(iteration(work, machine, gpus, best), best), "", *_growth(work, machine, gpus, price)]
    return [*lines, "", "Assumed:", *(f"- {one}" for one in [*_assumed(work), *machine.assumed()])]


def needs(work: Job, machine: Machine, gpus: int) -> list[Need]:
    """What each process needs, for every sharding and quantisation that there is; nothing is quantised where all weights are trained."""
    quantised = QUANTISED if work.config.ppo.tuning == "lora" else (None,)
    return [chosen(work, machine, gpus, way, how) for how in quantised for way in shardings(work, gpus, how)]


def _head(work: Job, machine: Machine, gpus: int) -> list[str]:
    section, model = work.config.ppo, work.footprints(machine.dtype, None)
    rates = f"{machine.tflops[machine.dtype]:.4g} TFLOP/s in {machine.dtype}, {machine.memory_gb:.4g} GB, {machine.read_gb_per_s:.4g} GB/s"
    return [
        f"{work.name}: {_count(model.numbers)} numbers, {_count(model.trained)} of them trained by the policy; {gpus} x {machine.name}",
        f"{machine.name}: {rates}, {machine.link_gb_per_s:.4g} GB/s to the next ({machine.source})",
        f"an iteration: {section.batch_size} episodes of {work.prompt} + {work.completion} tokens, {section.num_ppo_epochs} epochs; "
        f"ppo.tuning {section.tuning}, ppo.value {section.value}, ppo.engine {section.engine}",
    ]


def _memory(found: Sequence[Need], machine: Machine) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("sharding", "held in", "weights", "training", "sampling", "learning", "most", "fits", "micro_batch_tokens")
    ]
    for one in found:
        weights, training = (max(parts.get(name, 0.0) for parts in one.phases.values()) for name in ("weights", "training"))  # fmt: skip
        others = [one.total(phase) - one.phases[phase]["weights"] - one.phases[phase]["training"] - one.phases[phase]["process"] for phase in ("sampling", "learning")]  # fmt: skip
        cells = (weights, training, *others, one.most)
        held = one.quantization or "its dtype"
        rows.append((one.sharding, held, *map(gb, cells), "yes" if one.fits(machine) else "no", str(one.tokens)))
    return [f"memory of each process, GB of {machine.memory_gb:.4g}:", *table(rows)]


def _phases(one: Iteration, need: Need) -> list[str]:
    rows = [("phase", "TFLOP", "GB read", "s", "of it for calls")]
    for name, phase in one.phases.items():
        rows.append((name, gb(phase.operations / 1e12), gb(phase.read / 1e9), gb(phase.seconds), gb(phase.calling)))
    rows.append(("sending", "", gb(one.sent / 1e9), gb(one.sending), ""))
    rows.append(("iteration", "", "", gb(one.seconds), ""))
    how = f"sharding {need.sharding}, ppo.micro_batch_tokens {need.tokens}"
    return [f"an iteration of each process ({how}):", *table(rows)]


def growth(work: Job, machine: Machine, counts: Sequence[int]) -> list[tuple[int, Need, Iteration | None, Iteration]]:
    """For each number of GPUs that the model fits on: the need, an iteration of the recipe's batch, where it can be shared by so many, and
    one of a batch that grows with them from the first on."""
    out: list[tuple[int, Need, Iteration | None, Iteration]] = []
    section = work.config.ppo
    for count in counts:
        ways = shardings(work, count, work.config.quantization)
        cut = (section.batch_size // section.num_mini_batches) % count == 0
        sizes = [section.batch_size * count / (out[0][0] if out else count), *([section.batch_size] if cut else [])]
        found = [[chosen(work, machine, count, way, work.config.quantization, size) for way in ways] for size in sizes]
        needs = [next((one for one in some if one.fits(machine)), None) for some in found]
        if needs[0] is None:
            continue
        times = [iteration(work, machine, count, one, size) if one else None for one, size in zip(needs, sizes, strict=True)]  # fmt: skip
        assert times[0] is not None
        out.append((count, needs[0], times[1] if cut else None, times[0]))
    return out


def _growth(work: Job, machine: Machine, gpus: int, price: float | None) -> list[str]:
    most = gpus if machine.source == MEASURED else MOST  # of a machine that was measured there is one
    found = growth(work, machine, sorted({count for count in (*COUNTS, gpus) if count <= most}))
    head: tuple[str, ...] = ("GPUs", "sharding", "s", "episodes/s", "of linear", "grown: s", "episodes/s", "of linear")
    rows = [(*head, "episodes/$", "grown: episodes/$") if price else head]
    first = found[0][3].rate / found[0][0]
    for count, need, fixed, grown in found:
        cells: list[str] = [str(count), need.sharding]
        for one in (fixed, grown):
            cells += [gb(one.seconds), gb(one.rate), f"{one.rate / count / first:.0%}"] if one else ["-"] * 3
        if price:
            cells += [gb(one.rate / count / price * 3600) if one else "-" for one in (fixed, grown)]
        rows.append(tuple(cells))
    return [
        "more GPUs, with the recipe's batch and with one that grows with them:",
        *table(rows),
        _end(work, found, first),
    ]


def _end(work: Job, found: Sequence[tuple[int, Need, Iteration | None, Iteration]], first: float) -> str:
    """Where it stops to scale."""
    section = work.config.ppo
    worth = [count for count, _, fixed, _ in found if fixed and fixed.rate / count >= HALF * first]
    grown = [count for count, _, _, grown in found if grown.rate / count >= HALF * first]
    share = section.batch_size // section.num_mini_batches
    last = max(worth, default=found[0][0])
    told = f"With ppo.batch_size {section.batch_size} a GPU gives more than half of what it gives alone up to {last} of them"
    told += ", where the batch cannot be cut further" if last == share else ""
    return f"{told}; with a batch that grows with them, up to {max(grown)}."


def _remedy(found: Sequence[Need], machine: Machine) -> str:
    if fitting := next((one for one in found if one.fits(machine)), None):
        settings = [f"ppo.sharding={fitting.sharding}"] if fitting.sharding != "none" else []
        settings += [f"quantization={fitting.quantization}"] if fitting.quantization else []
        return f"set {' '.join(settings)}"
    least = min(found, key=lambda one: one.most)
    return f"{least.most:.3g} GB at least are needed and {machine.memory_gb:.4g} GB there; set ppo.gradient_checkpointing=true, take more GPUs, or a smaller model"


def _assumed(work: Job) -> list[str]:
    return [
        f"every prompt has {work.prompt} tokens and every completion {work.completion}, its limit; all processes are equally fast",
        "what is sampled, scored and learned from counts; evaluation, saving and the other stages do not",
    ]


def gb(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}" if number >= 0.01 else "0" if number == 0 else f"{number:.1g}"  # fmt: skip


def _count(numbers: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if numbers >= size:
            return f"{numbers / size:.3g}{unit}"
    return f"{numbers:.0f}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other, the first two to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) if i < 1 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
