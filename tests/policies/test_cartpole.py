"""Does our PPO core learn a classic control task as well as a trusted implementation does, and does `make cartpole` show it?

The slow tests learn CartPole-v1 to the end: with the numbers of the command, and with those of CleanRL's ppo.py, which publishes a mean
return of 488.75 ± 18.4 (Huang et al. 2022, JMLR 23(274); docs.cleanrl.dev). The others train for seconds.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.artifacts import cleaning
from policies.ppo import gae
from recipes.examples import cartpole
from recipes.examples.cartpole import Settings, learn, rows, with_bootstrap
from recipes.examples.cartpole_pictures import draw_curve, main, play

ROOT = Path(__file__).resolve().parents[2]
SHORT = Settings(total=8_000)
CLEANRL = Settings(500_000, 4, 128, 4, 4, 2.5e-4, lam=0.95)


def test_the_example_is_read_in_one_sitting() -> None:
    assert len((ROOT / "recipes/examples/cartpole.py").read_text(encoding="utf-8").splitlines()) <= 150


def test_rows_are_cut_after_every_end() -> None:
    """Two environments, four steps: one ends at step 1 and is open at the end, the other ends with the last step."""
    over = torch.tensor([[False, False], [True, False], [False, False], [False, True]])
    time, env, mask = rows(over)
    step = torch.arange(4)[:, None] * 10 + torch.arange(2)
    assert step[time, env][mask].tolist() == [0, 10, 20, 30, 1, 11, 21, 31]
    assert mask.sum(1).tolist() == [2, 2, 4]


def test_a_time_limit_is_no_end_of_the_world() -> None:
    """Advantages by hand, γ = .5, λ = 1, V = 0 inside, V = 8 of what follows: only where the pole fell does nothing follow.

    Environment 0 falls in step 1, 1 is cut off there by the time limit, 2 goes on beyond the rollout.
    """
    over = torch.tensor([[False, False, False], [True, True, False]])
    terminated = torch.tensor([[False, False, False], [True, False, False]])
    ones, following = torch.ones(2, 3), torch.full((2, 3), 8.0)
    earned = with_bootstrap(ones, following, terminated, over, 0.5)
    assert earned.tolist() == [[1, 1, 1], [1, 5, 5]]
    time, env, mask = rows(over)
    _, returns = gae(earned[time, env], torch.zeros(3, 2), mask, 0.5, 1.0)
    assert returns.tolist() == [[1.5, 1.0], [3.5, 5.0], [3.5, 5.0]]


def test_the_critic_expects_more_than_the_time_limit_shows() -> None:
    """A world that pays a point a step and ends by its time limit alone, after four steps: with γ = .9 a state is worth 10. A critic that
    took the limit for an end would learn at most 1 + .9 + .81 + .729 = 3.44."""
    values = []
    for ends in (False, True):
        value = torch.zeros(4)  # of the four states, the fifth is the first again
        for _ in range(200):
            over = torch.tensor([[False], [False], [False], [True]])
            following = value.roll(-1)[:, None]
            earned = with_bootstrap(torch.ones(4, 1), following, over if ends else torch.zeros_like(over), over, 0.9)
            time, env, mask = rows(over)
            value = gae(earned[time, env], value[:, None][time, env], mask, 0.9, 0.95)[1][0]
        values.append(value)
    assert torch.allclose(values[0], torch.full((4,), 10.0), atol=0.01)
    assert torch.allclose(values[1], torch.tensor([3.439, 2.71, 1.9, 1.0]), atol=0.01)


class Speed(nn.Module):
    """A critic that says the cart's speed: below .05 where an episode begins, above .14 after five pushes, which change it by .19 each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, state: Tensor) -> Tensor:
        return state[..., 1:2] + 0.0 * self.weight


def test_what_follows_a_time_limit_is_the_old_episodes_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world that cuts off after five steps, before any pole can fall: nothing is terminated, and no value is of the next episode."""
    seen: list[list[Tensor]] = []

    def watched(*arguments: Any) -> Tensor:
        seen.append([one.clone() for one in arguments[:4]])
        return with_bootstrap(*arguments)

    make, network = gymnasium.make, cartpole.network
    monkeypatch.setattr(cartpole.gymnasium, "make", lambda name: make(name, max_episode_steps=5))
    monkeypatch.setattr(cartpole, "network", lambda outputs, gain: Speed() if outputs == 1 else network(outputs, gain))
    monkeypatch.setattr(cartpole, "with_bootstrap", watched)
    learn(1, Settings(total=200, envs=2, steps=20, epochs=1))
    assert len(seen) == 5
    for rewards, following, terminated, over in seen:
        assert not terminated.any() and over[4::5].all() and over.sum() == 8
        assert (following[over].abs() > 0.14).all() and (rewards == 1).all()


@pytest.fixture(scope="module")
def learned() -> cartpole.Learned:
    return learn(11, SHORT)


def test_in_seconds_the_pole_stays_up_longer(learned: cartpole.Learned) -> None:
    before, after = (play(policy, 5, 50)[0].mean().item() for policy in (learned.untrained, learned.policy))
    assert 15 < before < 35, "by chance it falls after about 22 steps"
    assert after > 3 * before


def test_one_seed_gives_one_policy(learned: cartpole.Learned) -> None:
    again, other = learn(11, SHORT._replace(total=2_000)), learn(12, SHORT._replace(total=2_000))
    once_more = learn(11, SHORT._replace(total=2_000))
    for name, weight in again.policy.state_dict().items():
        assert torch.equal(weight, once_more.policy.state_dict()[name])
    assert again.curve == once_more.curve != other.curve
    assert again.curve[:5] == learned.curve[:5]  # the first updates differ in the schedule alone


def test_the_wrong_sign_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short run above can fail: with advantages of the wrong sign the policy learns to let the pole fall."""

    def wrong(*arguments: Tensor | float) -> tuple[Tensor, Tensor]:
        advantages, returns = gae(*arguments)  # type: ignore[arg-type]
        return -advantages, returns

    monkeypatch.setattr(cartpole, "gae", wrong)
    assert play(learn(11, SHORT).policy, 5, 50)[0].mean().item() < 15


def test_what_the_command_leaves(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Two short seeds are not enough to solve it, which is said and is the command's exit code; the pictures are there all the same.
    `make clean-runs RUN=cartpole` takes them away, and nothing beside them."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/cartpole")
    short = Settings(total=2_000, envs=4, epochs=2)
    assert not main(folder, (1, 2), short)
    told = capsys.readouterr().out.splitlines()
    assert [line[:18] for line in told[:2]] == ["cartpole: seed 1: ", "cartpole: seed 2: "]
    assert "0 of 2 seeds solved it" in told[-1] and told[-1].endswith(f"next: open {folder / 'cartpole.html'}")
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert [one["seed"] for one in figures["seeds"]] == [1, 2] and figures["settings"]["total"] == 2_000
    assert all(one["steps_until_solved"] is None and one["shortest"] < one["mean_return"] for one in figures["seeds"])
    page = (folder / "cartpole.html").read_text(encoding="utf-8")
    assert 'src="episode.png"' in page and 'src="curve.svg"' in page and "{" not in page.partition("</style>")[2]
    curve = (folder / "curve.svg").read_bytes()
    assert b"seed 2" in curve and b"solved: 475" in curve
    with Image.open(folder / "episode.png") as episode:
        assert episode.n_frames > 5
        first = np.asarray(episode.convert("RGB"), dtype=int)
        episode.seek(episode.n_frames - 1)
        assert np.abs(np.asarray(episode.convert("RGB"), dtype=int) - first).sum() > 100_000, "it moves"
    draw_curve({seed: learn(seed, short) for seed in (1, 2)}, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == curve
    (folder / "thesis.txt").write_text("years of work")
    cleaning.clean(cleaning.one("cartpole"), "", yes=True)
    assert [one.name for one in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_make_cartpole_solves_it_on_two_of_three_seeds(tmp_path: Path) -> None:
    """475 over 100 episodes is where Gymnasium calls CartPole-v1 solved. The exit code is 0 if two of three seeds do."""
    command = [sys.executable, "-m", "recipes.examples.cartpole_pictures"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=False)
    seeds = json.loads((tmp_path / "runs/cartpole/figures.json").read_text(encoding="utf-8"))["seeds"]
    assert done.returncode == 0 and len(seeds) == 3 and sum(one["mean_return"] >= 475 for one in seeds) >= 2


@pytest.mark.slow
def test_cleanrls_numbers_give_cleanrls_result() -> None:
    """475 is inside its 488.75 ± 18.4. As there, the mean return is that of the last 100 training episodes."""
    results: list[float] = []
    for seed in (1, 2, 3):
        results.append(float(np.mean([score for _, score in learn(seed, CLEANRL).curve[-100:]])))
        if sum(r >= 475 for r in results) == 2:
            return
    pytest.fail(f"mean returns of the last 100 episodes by seed: {results}")
