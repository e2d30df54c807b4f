"""Which prompts are asked in which iteration, and when: at its start, or one step ahead of it?

With `async_steps` 1 the episodes of iteration t + 1 are sampled from the weights that iteration t starts with, so that an engine that
samples in a process of its own does so while the trainer scores, measures and learns. An engine in the trainer's process samples them
first; nothing is sooner then, but what is learned is the same: that is for study. Only tokens and the sampler's log-probabilities are
kept of such a rollout. They go into a state, from which a resumed run takes them.
"""

import threading
from collections.abc import Sequence

import torch
from accelerate.utils import gather_object

from policies.drawing import Completion
from policies.episodes import Asked, Episode, as_episodes, completions, prompt_order, roll_out
from policies.figures import timed
from policies.loop import Ahead, Loop
from policies.untyped import Json


def prompts_of(loop: Loop, step: int) -> list[Asked]:
    """This process's share of an iteration's prompts, the same share of every minibatch; the n-th time that a prompt is asked within
    it, its sample number is n."""
    size = loop.settings.batch_size
    chosen = prompt_order(len(loop.prompts), range(step * size, (step + 1) * size), loop.seed)
    mine = _mine(loop)
    asked = [loop.prompts[chosen[i]] for i in mine]
    return [Asked(one.id, one.prompt, one.ids, chosen[:i].count(chosen[i])) for one, i in zip(asked, mine, strict=True)]


def _mine(loop: Loop) -> list[int]:
    """The numbers of this process's episodes within an iteration."""
    world, rank = loop.accelerator.num_processes, loop.accelerator.process_index
    return [i for i in range(loop.settings.batch_size) if (i % loop.mini_size) % world == rank]


def rollout_of(loop: Loop, step: int, times: dict[str, float]) -> list[Episode]:
    """Step 1: the episodes of an iteration. With `async_steps` they are there already, but for the first, and those of the next are begun."""
    asked = prompts_of(loop, step)
    if not loop.settings.async_steps:
        _follow(loop, times)
        return roll_out(loop.roles, loop.engine, loop.tokenizer, asked, step, loop.settings, loop.seed, times)
    if loop.ahead is None:
        loop.ahead = _begun(loop, step, times)
    said = await_ahead(loop, times)
    loop.ahead = _begun(loop, step + 1, times) if step + 1 < loop.settings.iterations() else None
    return as_episodes(loop.roles, loop.tokenizer, asked, said)


def await_ahead(loop: Loop, times: dict[str, float]) -> list[Completion]:
    """What was begun, once it is there; to be called before the engine is asked for anything else. Raises what the engine raised."""
    ahead = loop.ahead
    if ahead is None:
        return []
    with timed(times, "rollout"):
        if ahead.thread is not None:
            ahead.thread.join()
    if ahead.failed is not None:
        raise ahead.failed
    return ahead.said


def _begun(loop: Loop, step: int, times: dict[str, float]) -> Ahead:
    """The rollout of an iteration, from the weights of now: in a thread, where the engine samples in a process of its own."""
    _follow(loop, times)
    asked, ahead = prompts_of(loop, step), Ahead()
    parts = (loop.roles, loop.engine, loop.tokenizer, asked, step, loop.settings, loop.seed)

    def sample() -> None:
        try:
            ahead.said = completions(*parts, record=None)
        except Exception as error:  # whatever it is, it is raised where the rollout is awaited
            ahead.failed = error

    if loop.engine.apart:
        ahead.thread = threading.Thread(target=sample, name=f"rollout {step}", daemon=True)
        ahead.thread.start()
        return ahead
    with timed(times, "rollout"):
        return Ahead(completions(*parts, record=None))


def _follow(loop: Loop, times: dict[str, float]) -> None:
    with timed(times, "follow"):
        loop.engine.follow()


def kept(loop: Loop) -> Json:
    """What a state holds of the rollout that was begun, of all processes: number, tokens, log-probabilities and whether it has ended, of each
    episode in order. Every process is to ask, when it has awaited that rollout."""
    if loop.ahead is None:
        return []
    mine = zip(_mine(loop), loop.ahead.said, strict=True)
    every: list[Json] = gather_object([[i, c.tokens, c.logprobs.tolist(), c.finished] for i, c in mine])
    return sorted(every)


def restore(loop: Loop, rows: Sequence[Json]) -> None:
    """Take up the rollout that a state holds as `rows` (`kept`), if it holds one."""
    if not rows:
        return
    mine = set(_mine(loop))
    said = [Completion(tokens, torch.tensor(logprobs), ended) for i, tokens, logprobs, ended in rows if i in mine]
    loop.ahead = Ahead(said)
