"""What would temperature, top-k, top-p and min-p have left at each token? Numbers from which the page computes it anew."""

from typing import Any

import torch
from torch import Tensor

from pipeline.inspect.tokens import CHUNK, shown
from policies.episodes import Episode
from policies.logprobs import logits, pack
from policies.roles import POLICY, Roles

TEMPERATURES = tuple(n / 10 for n in range(1, 21))
MOST, LEAST, IN_ALL = 100, 10, 6000  # tokens of a step that the page holds: fewer where there are many steps
DIGITS = 6  # of a log-probability: what is no tie is none on the page


@torch.no_grad()
def steps(roles: Roles, tokenizer: Any, episode: Episode) -> dict[str, Any]:
    """What the page's sliders need, ready for JSON; log-probabilities are the policy's at temperature 1, in nats.

    "temperatures" are those that can be chosen; "texts" the tokens by place; "vocabulary" how many tokens there are. A step has "said", the
    token by place; "tokens" and "logprobs" of the likeliest, falling; "tied", how many others are as likely as the last of them; and "rest", for each temperature t, log Σ exp(log p / t) over all
    other tokens, with which shares are exact at t however many tokens are not on the page.
    """
    device = next(roles.parameters()).device
    batch = pack([episode.prompt_ids], [episode.completion.tokens], tokenizer.pad_token_id, device)
    hidden = roles.hidden(POLICY, batch.input_ids, batch.attention_mask)
    places: dict[int, int] = {}
    count = max(LEAST, min(MOST, IN_ALL // max(1, len(episode.completion.tokens))))
    found: list[dict[str, Any]] = []
    width = 0
    for start in range(0, batch.tokens.shape[1], CHUNK):
        at, said = batch.positions[0, start : start + CHUNK], batch.tokens[0, start : start + CHUNK].tolist()
        with roles.playing(POLICY):
            every = torch.log_softmax(logits(roles.causal, hidden[0, at]).float(), -1)
        width = every.shape[1]
        best, ids = every.topk(min(count, width), -1)
        equal = (every == best[:, -1:]).sum(-1) - (best == best[:, -1:]).sum(-1)
        columns = (said, best.tolist(), ids.tolist(), of_the_rest(every, ids).tolist(), equal.tolist())
        for token, likeliest, names, others, tied in zip(*columns, strict=True):
            found.append(
                {
                    "said": places.setdefault(token, len(places)),
                    "tokens": [places.setdefault(one, len(places)) for one in names],
                    "logprobs": [round(x, DIGITS) for x in likeliest],
                    "tied": tied,
                    "rest": [None if x == -torch.inf else round(x, DIGITS) for x in others],
                }
            )
    texts = [shown(tokenizer, token) for token in places]
    return {"temperatures": TEMPERATURES, "texts": texts, "vocabulary": width, "steps": found}


def of_the_rest(logprobs: Tensor, ids: Tensor) -> Tensor:
    """log Σ exp(log p / t) (N, temperatures) over the tokens that are not among `ids` (N, K), of `logprobs` (N, V); -inf where all are."""
    others = logprobs.scatter(1, ids, -torch.inf)
    return torch.stack([torch.logsumexp(others / t, -1) for t in TEMPERATURES], -1)
