"""What does PPO learn on the cart-pole? `make cartpole` trains three seeds with cartpole.py and draws: runs/cartpole/cartpole.html.

The page shows the learning curve and an episode before and after training, in real time; figures.json has the same as numbers.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import gymnasium
import matplotlib
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from matplotlib import pyplot
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from recipes.examples.cartpole import Learned, Settings, learn

EPISODES = 100
SOLVED = 475.0  # mean return over 100 episodes from which on gymnasium calls CartPole-v1 solved; none is longer
LONGEST = 500  # steps, from which on gymnasium cuts an episode off
EACH = 4  # steps between two frames; a step is 20 ms of the world's time
PAGE = "cartpole.html"


def play(policy: nn.Module, seed: int, episodes: int = EPISODES) -> tuple[Tensor, Tensor]:
    """Returns (E,) float64 of fresh episodes, each action drawn as in training, and the states (T, 4) of the first one, to its end."""
    chance = torch.Generator().manual_seed(seed)
    worlds = [lambda: gymnasium.make("CartPole-v1")] * episodes
    world = SyncVectorEnv(worlds, autoreset_mode=AutoresetMode.SAME_STEP)
    state, returns, going, track = (
        world.reset(seed=1000 + seed)[0],
        np.zeros(episodes),
        np.ones(episodes, dtype=bool),
        [],
    )
    while going.any():
        if going[0]:
            track.append(state[0])
        with torch.no_grad():
            action = torch.multinomial(policy(torch.as_tensor(state)).softmax(-1), 1, generator=chance)[:, 0]
        state, reward, fell, late, more = world.step(action.numpy())
        returns += reward * going
        if going[0] and (fell | late)[0]:
            track.append(more["final_obs"][0])
        going &= ~(fell | late)
    world.close()
    return torch.as_tensor(returns), torch.as_tensor(np.stack(track))


def draw_curve(learned: dict[int, Learned], file: Path) -> None:
    """Mean return of the last 100 episodes as training went, a line for each seed. The same numbers give the same file."""
    with pyplot.rc_context({"svg.hashsalt": "cartpole", "svg.fonttype": "none", "font.size": 11}):
        figure, axes = pyplot.subplots(figsize=(7.2, 4), layout="constrained")
        for (seed, one), colour in zip(learned.items(), ("#0072b2", "#d55e00", "#009e73"), strict=False):
            steps, returns = np.array(one.curve).T
            sums = np.cumsum(np.concatenate([np.zeros(EPISODES), returns]))
            means = (sums[EPISODES:] - sums[:-EPISODES]) / np.minimum(np.arange(len(returns)) + 1, EPISODES)
            axes.plot(steps, returns, ".", markersize=2, color=colour, alpha=0.15, rasterized=True)
            axes.plot(steps, means, color=colour, label=f"seed {seed}")
        axes.axhline(SOLVED, color="#555555", linestyle="--", linewidth=1, label=f"solved: {SOLVED:.0f}")
        axes.set(xlabel="steps of all environments", ylabel="return, mean of the last 100 episodes", ylim=(0, 515))
        axes.set_title("CartPole-v1: a dot is an episode, 500 is the most that one can reach", fontsize=11)
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)


def draw_frame(state: Tensor, caption: str) -> Image.Image:
    """One moment, 480 × 170 pixels: `state` (4,) is the cart's position in m, its speed, the pole's angle in radians, its speed."""
    scale, double = 95.0, 2  # pixels a metre; drawn at twice the size, so that edges are smooth
    image = Image.new("RGB", (480 * double, 170 * double), "white")
    pen, x, floor = ImageDraw.Draw(image), (240 + scale * float(state[0])) * double, 150 * double
    pen.line([(0, floor), (480 * double, floor)], fill="#888888", width=2 * double)
    for edge in (-2.4, 2.4):  # where an episode ends too
        at = (240 + scale * edge) * double
        pen.line([(at, floor - 12 * double), (at, floor + 12 * double)], fill="#d55e00", width=2 * double)
    pen.rectangle([x - 24 * double, floor - 20 * double, x + 24 * double, floor - double], fill="#0072b2")
    foot, angle, length = (x, floor - 20 * double), float(state[2]), scale * double  # the pole is 1 m long
    head = (foot[0] + length * np.sin(angle), foot[1] - length * np.cos(angle))
    pen.line([foot, head], fill="#c47f00", width=7 * double)
    pen.text((8 * double, 6 * double), caption, fill="black", font=ImageFont.load_default(14 * double))
    return image.resize((480, 170), Image.Resampling.LANCZOS)


def draw_episodes(before: Tensor, after: Tensor, file: Path) -> None:
    """An animated PNG in real time, the untrained policy above the trained one; a pole that fell stays where it fell."""
    frames = []
    for t in range(0, max(len(before), len(after)) + EACH, EACH):
        frame = Image.new("RGB", (480, 340))
        for track, name, top in ((before, "before training", 0), (after, "after training", 170)):
            steps = min(t, len(track) - 1)
            end = "" if t < len(track) - 1 else ", the limit: still up" if steps == LONGEST else ": it is over"
            frame.paste(draw_frame(track[steps], f"{name}, step {steps}{end}"), (0, top))
        frames.append(frame.quantize(32, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=20 * EACH, loop=0, optimize=True)


HTML = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Cart-pole</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #111; background: #fff }}
img {{ max-width: 100%; border: 1px solid #ddd }} td, th {{ padding: .2rem 1rem .2rem 0; text-align: right }}</style>
<h1>PPO on the cart-pole</h1>
<p>A pole stands on a cart. In each step the policy pushes the cart to the left or to the right, and earns one point while the pole stays up.
An episode ends when the pole leans by more than 12°, when the cart leaves the track, or after {longest} steps. The advantages and the losses
are the functions that align a language model in this project: <code>policies/ppo.py</code>.</p>
<p><strong>{verdict}.</strong></p>
<table><tr><th>seed<th>mean return over {episodes} new episodes<th>shortest of them<th>first at {solved:.0f} after<th>seconds</tr>{rows}</table>
<h2>An episode before and after training</h2>
<p>In real time; seed {best}. The two marks are where the track ends.</p>
<img src="episode.png" width="480" height="340" alt="The untrained policy lets the pole fall within a second; the trained one keeps it up for {after} steps.">
<h2>How it was learned</h2>
<p>The curve rises as soon as episodes become longer. It may fall again: each update knows only what the last few steps showed.</p>
<img src="curve.svg" alt="Mean return of the last {episodes} training episodes over steps, a line for each seed.">
</html>
"""


class Figures(NamedTuple):
    """What is said of one seed."""

    seed: int
    mean_return: float  # over EPISODES new episodes
    shortest: int  # of them
    steps_until_solved: int | None  # of training, when the mean of its last EPISODES episodes was first at SOLVED
    seconds: float


def figures_of(seed: int, one: Learned) -> Figures:
    returns, _ = play(one.policy, seed)
    means = [float(np.mean([r for _, r in one.curve[n - EPISODES : n]])) for n in range(EPISODES, len(one.curve) + 1)]
    first = next((one.curve[n + EPISODES - 1][0] for n, mean in enumerate(means) if mean >= SOLVED), None)
    return Figures(seed, float(returns.mean()), int(returns.min()), first, round(one.seconds, 1))


def page(figures: list[Figures], verdict: str, best: int, after: int) -> str:
    """The page, with links to the two pictures beside it; `after` is how many steps the episode that is shown lasted."""
    rows = ""
    for one in figures:
        first = "never" if one.steps_until_solved is None else f"{one.steps_until_solved:,} steps"
        cells = (str(one.seed), f"{one.mean_return:.1f}", str(one.shortest), first, f"{one.seconds:.0f}")
        rows += "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"
    return HTML.format(
        longest=LONGEST, verdict=verdict, episodes=EPISODES, solved=SOLVED, rows=rows, best=best, after=after
    )


def main(folder: Path, seeds: tuple[int, ...], settings: Settings) -> bool:
    """Trains, draws and tells; whether two of three seeds solved it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the networks are small: two threads would wait for each other
    learned: dict[int, Learned] = {}
    figures: list[Figures] = []
    for seed in seeds:
        learned[seed] = learn(seed, settings)
        figures.append(one := figures_of(seed, learned[seed]))
        told = f"cartpole: seed {seed}: mean return {one.mean_return:.1f} over {EPISODES} new episodes, {one.seconds:.0f} s"
        print(told, flush=True)
    solved = sum(one.mean_return >= SOLVED for one in figures)
    best = max(figures, key=lambda one: one.mean_return).seed
    verdict = f"{solved} of {len(seeds)} seeds solved it: a mean return of {SOLVED:.0f} or more"
    before, after = (play(policy, best, 1)[1] for policy in (learned[best].untrained, learned[best].policy))
    draw_curve(learned, folder / "curve.svg")
    draw_episodes(before, after, folder / "episode.png")
    versions = {one.__name__: one.__version__ for one in (gymnasium, torch, np, matplotlib)}
    record = {"seeds": [one._asdict() for one in figures], "settings": settings._asdict(), "versions": versions}
    (folder / "figures.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page(figures, verdict, best, len(after) - 1), encoding="utf-8")
    print(f"cartpole: {verdict}; next: open {folder / PAGE}")
    return 3 * solved >= 2 * len(seeds)


if __name__ == "__main__":
    sys.exit(0 if main(Path("runs/cartpole"), (1, 2, 3), Settings()) else 1)
