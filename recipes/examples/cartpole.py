"""Does the PPO that aligns a language model also balance a pole? `make cartpole`: three seeds, pictures in runs/cartpole/.

An episode is a row and an action is a token: advantages and losses are those of policies/ppo.py, which stage ppo uses too. What differs is
the reward, which comes from the world (one point for each step that the pole stays up), so that nothing is normalised and no KL is charged.
"""

from time import perf_counter
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from policies.ppo import gae, policy_loss, value_loss, whiten


class Settings(NamedTuple):
    """The numbers were found by trial, with other seeds than the command's."""

    total: int = 150_000  # steps of all environments together
    envs: int = 8
    steps: int = 32  # of each environment, between two updates
    epochs: int = 10
    minibatches: int = 1
    learning_rate: float = 1e-3  # falls to 0 in a line
    gamma: float = 0.99
    lam: float = 0.9
    cliprange: float = 0.2
    entropy: float = 0.01
    vf_coef: float = 0.5
    gradient_norm: float = 0.5


class Learned(NamedTuple):
    policy: nn.Sequential
    untrained: nn.Sequential
    curve: list[tuple[int, float]]  # steps of all environments when an episode ended, and its return
    seconds: float


def network(outputs: int, gain: float) -> nn.Sequential:
    """(…, 4) position and speed of the cart, angle and speed of the pole -> (…, outputs)."""
    layers = nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, outputs)
    for layer, scale in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def rows(over: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the steps of each episode are, as gae takes them: `time` (N, T) and `env` (N, 1) int64, `mask` (N, T) bool.

    `over` (T, E) bool: the episode ended with this step. Of (T, E) values x, x[time, env] are N right-padded episodes.
    """
    length, envs = over.shape
    ends = [[*(over[:, e].nonzero()[:, 0] + 1).tolist(), length] for e in range(envs)]
    cuts = [(e, a, b) for e in range(envs) for a, b in zip([0, *ends[e]], ends[e], strict=False) if a < b]
    env, start, end = torch.tensor(cuts).T[..., None]
    time = start + torch.arange(length)
    return time.clamp(max=length - 1), env, time < end


def with_bootstrap(rewards: Tensor, following: Tensor, terminated: Tensor, over: Tensor, gamma: float) -> Tensor:
    """Rewards (T, E) for gae, which takes the value behind an episode's last step as 0. That holds where the pole fell (`terminated`). Where
    the time limit or the rollout cut a balanced pole off, what was still to come is worth γ·V of the state that followed (`following`)."""
    last = over.clone()
    last[-1] = True
    return rewards + gamma * following * (last & ~terminated)


def learn(seed: int, settings: Settings) -> Learned:
    """Trains policy and value network from nothing. One seed gives the same numbers on one machine."""
    s, began = settings, perf_counter()
    torch.manual_seed(seed)
    policy, untrained, critic = network(2, 0.01), network(2, 0.01), network(1, 1.0)
    untrained.load_state_dict(policy.state_dict())
    parameters = [*policy.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=s.learning_rate, eps=1e-5)
    updates = s.total // (s.envs * s.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1.0 - done / updates)
    world = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * s.envs, autoreset_mode=AutoresetMode.SAME_STEP)
    state, running, curve = world.reset(seed=seed)[0], np.zeros(s.envs), list[tuple[int, float]]()
    states, following = torch.zeros(2, s.steps, s.envs, 4)
    actions, rewards = torch.zeros(s.steps, s.envs, dtype=torch.int64), torch.zeros(s.steps, s.envs)
    terminated, over = torch.zeros(2, s.steps, s.envs, dtype=torch.bool)
    for update in range(updates):
        for t in range(s.steps):  # 1. act
            states[t] = torch.as_tensor(state)
            with torch.no_grad():
                actions[t] = torch.multinomial(policy(states[t]).softmax(-1), 1)[:, 0]
            state, reward, fell, late, more = world.step(actions[t].numpy())
            following[t] = torch.as_tensor(state)
            rewards[t], terminated[t], over[t] = map(torch.as_tensor, (reward, fell, fell | late))
            running += reward
            for e in np.flatnonzero(
                fell | late
            ):  # `state` is a new episode's here; the last of the old one is beside it
                following[t, e] = torch.as_tensor(more["final_obs"][e])
                curve.append(((update * s.steps + t + 1) * s.envs, float(running[e])))
                running[e] = 0.0
        with torch.no_grad():  # 2. how good was each action?
            values, after = critic(states)[..., 0], critic(following)[..., 0]
            old = policy(states).log_softmax(-1).gather(-1, actions[..., None])[..., 0]
            time, env, mask = rows(over)
            earned = with_bootstrap(rewards, after, terminated, over, s.gamma)
            advantages, returns = gae(earned[time, env], values[time, env], mask, s.gamma, s.lam)
        flat = [x[time, env][mask] for x in (states, actions, old, values)] + [advantages[mask], returns[mask]]
        size = len(flat[0]) // s.minibatches
        for _ in range(s.epochs):  # 3. learn from it
            for batch in torch.randperm(len(flat[0])).split(size):
                x, action, was, value, advantage, target = (part[batch][None] for part in flat)
                every = torch.ones_like(action, dtype=torch.bool)
                logs = policy(x).log_softmax(-1)
                now = logs.gather(-1, action[..., None])[..., 0]
                loss = policy_loss(now, was, whiten(advantage, every), every, s.cliprange).mean()
                error = value_loss(critic(x)[..., 0], value, target, every, s.cliprange).mean()
                optimizer.zero_grad()
                (loss + s.vf_coef * error + s.entropy * (logs.exp() * logs).sum(-1).mean()).backward()
                nn.utils.clip_grad_norm_(parameters, s.gradient_norm)
                optimizer.step()
        schedule.step()
    world.close()
    return Learned(policy, untrained, curve, perf_counter() - began)
