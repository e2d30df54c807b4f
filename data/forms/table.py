"""Which forms of data are known?

To add one, write a function `(row, at)` with the helpers of `checks.py` in a file of this folder, and an entry in
FORMATS that says which rows are its own; put three rows under tests/data/forms/ and they are tested with the others.
"""

from data.forms import instructions, published, rated, tools, trees, trl
from data.forms.shapes import Format, Shape, has

CONTENT = {"prompt", "messages", "completion", "completions", "ranking", "chosen", "rejected"}
"""Our field names: what `columns` may map to, and what a key is compared with to find a misspelling."""
OTHERS = (CONTENT - {"prompt"}) | {"response", "answers", "response_0", "response1", "output", "ratings"}
OTHERS |= {"conversations", "conversation"}
NO_PAIR = ("prompt", "instruction", "conversations", "conversation")
"""Where one of these stands beside `chosen` and `rejected`, they do not begin with the prompt."""


def _transcripts(shape: Shape) -> bool:
    return shape.is_transcript("chosen") or shape.is_transcript("rejected")


def _binarized(shape: Shape) -> bool:
    """Whether conversations stand beside a prompt that is a text, each with a score."""
    talks = (shape.is_list("chosen") or shape.is_list("rejected")) and not shape.is_list("prompt")
    return talks and shape.has("prompt", "chosen", "rejected", "score_chosen", "score_rejected")


def _only_a_prompt(shape: Shape) -> bool:
    answered = "replies" in shape.inside("prompt") or tools.is_argilla(shape)
    return shape.has("prompt", without=OTHERS) and not answered


FORMATS: dict[str, Format] = {
    "ranking": Format(
        "rankings", has("completions", "ranking"), trl.ranking, "ranking lists the best first, an inner list is a tie"
    ),
    "preference": Format(
        "rankings",
        lambda shape: shape.has("prompt", "chosen", "rejected") and not _binarized(shape),
        trl.preference,
        "chosen is better than rejected",
    ),
    "preference_implicit": Format(
        "rankings",
        lambda shape: shape.has("chosen", "rejected", without=NO_PAIR) and not _transcripts(shape),
        trl.preference_implicit,
        "chosen is better than rejected",
    ),
    "prompt_completion": Format(
        "demonstrations",
        lambda shape: shape.has("prompt", "completion") and shape.kinds.get("label") != "bool",
        trl.prompt_completion,
    ),
    "unpaired": Format(
        "judgements",
        lambda shape: shape.has("prompt", "completion") and shape.kinds.get("label") == "bool",
        trl.unpaired,
        "label true: the completion is liked, false: disliked",
    ),
    "messages": Format(
        "demonstrations",
        lambda shape: shape.has("messages", without=["completions", "ranking"]) and not _binarized(shape),
        trl.messages,
    ),
    "prompt": Format("prompts", _only_a_prompt, trl.prompt_only),
    # Published preference sets
    "hh_rlhf": Format(
        "rankings",
        lambda shape: shape.has("chosen", "rejected", without=NO_PAIR) and _transcripts(shape),
        published.hh_rlhf,
        "chosen is better than rejected",
    ),
    "ultrafeedback": Format(
        "rankings",
        lambda shape: (
            shape.has("instruction", "completions", without=["prompt", "messages", "ranking", "ratings"])
            and ("response" in shape.inside("completions") or not shape.inside("completions"))
        ),
        published.ultrafeedback,
        "the higher score is better, the higher Rating on the other axes",
        axes=published.OVERALL + published.ASPECTS,
        default_axis=published.OVERALL[0],
    ),
    "ultrafeedback_binarized": Format(
        "rankings", _binarized, published.ultrafeedback_binarized, "chosen is better than rejected, equal scores tie"
    ),
    "shp": Format(
        "rankings",
        has("history", "human_ref_A", "human_ref_B"),
        published.shp,
        "labels 1: human_ref_A is better, 0: human_ref_B",
    ),
    "nectar": Format(
        "rankings",
        lambda shape: shape.has("prompt", "answers") and "answer" in shape.inside("answers"),
        published.nectar,
        "rank 1 is best, equal ranks tie",
    ),
    "webgpt": Format(
        "rankings",
        has("question", "answer_0", "answer_1"),
        published.webgpt,
        "the answer with the higher score is better, 0 is a tie",
    ),
    "tldr": Format(
        "rankings",
        has("info", "summaries", "choice"),
        published.tldr,
        "choice 0: the first summary is better, 1: the second",
    ),
    "pku_saferlhf": Format(
        "rankings",
        has("prompt", "response_0", "response_1"),
        published.pku_saferlhf,
        "better_response_id or safer_response_id 0: response_0 is better, 1: response_1",
        axes=("better", "safer"),
    ),
    "helpsteer3": Format(
        "rankings",
        has("context", "response1", "response2"),
        published.helpsteer3,
        "overall_preference below 0: response1 is better, above 0: response2, 0 is a tie",
    ),
    "chatbot_arena": Format(
        "rankings",
        has("conversation_a", "conversation_b", "winner"),
        published.chatbot_arena,
        "winner names the better one, tie and tie (bothbad) are ties",
    ),
    # Trees, ratings, instructions, and what labelling tools export
    "ratings": Format(
        "rankings",
        lambda shape: (
            shape.has("completions", "ratings", without=["ranking"]) and (shape.has("prompt") or shape.has("messages"))
        ),
        rated.ratings,
        "the higher mean rating is better, nearer than tie_gap is a tie",
    ),
    "helpsteer": Format(
        "rankings",
        has("prompt", "response", "helpfulness"),
        rated.helpsteer,
        "the higher rating is better, nearer than tie_gap is a tie",
        rated.by_prompt,
        rated.HELPSTEER,
        rated.HELPSTEER[0],
    ),
    "openassistant": Format(
        "rankings", has("message_id", "role", "text"), trees.openassistant, "rank 0 is best", trees.by_parent
    ),
    "openassistant_tree": Format(
        "rankings", lambda shape: "replies" in shape.inside("prompt"), trees.openassistant_tree, "rank 0 is best"
    ),
    "text": Format("demonstrations", instructions.is_plain_text, instructions.text),
    "alpaca": Format(
        "demonstrations",
        has("instruction", "output", without=["chosen", "rejected", "completions"]),
        instructions.alpaca,
    ),
    "alpaca_preference": Format(
        "rankings",
        has("instruction", "chosen", "rejected", without=["prompt"]),
        instructions.alpaca_preference,
        "chosen is better than rejected",
    ),
    "sharegpt": Format("demonstrations", instructions.is_dialogue, instructions.sharegpt),
    "sharegpt_preference": Format(
        "rankings",
        instructions.is_dialogue_preference,
        instructions.sharegpt_preference,
        "chosen is better than rejected",
    ),
    "argilla": Format(
        "rankings", tools.is_argilla, tools.argilla, "the lowest rank is best, equal ranks tie; of bare names the first"
    ),
    "label_studio": Format(
        "rankings", has("data", "annotations"), tools.label_studio, "the first id of the ranker is best"
    ),
}
