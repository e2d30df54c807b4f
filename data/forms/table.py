"""Which forms of data are known?

To add one, write a function `(row, at)` with the helpers of `checks.py` in a file of this folder, and an entry in
FORMATS that says which rows are its own; put three rows under tests/data/forms/ and they are tested with the others.
"""

from data.forms import argilla_nested, graded, instructions, json_min, pairs, prism, published, rated, tools, trees, trl
from data.forms.pairs import REJECTED
from data.forms.shapes import Format, Shape, has

CONTENT = {"prompt", "messages", "completion", "completions", "ranking", "chosen", "rejected"}
"""Our field names: what `columns` may map to, and what a key is compared with to find a misspelling."""
OTHERS = (CONTENT - {"prompt"}) | {"response", "answers", "response_0", "response1", "output", "ratings"}
OTHERS |= {"conversations", "conversation"}
SAFETY = " ".join(
    f"{before}_{one}{after}"
    for one in (0, 1)
    for before, after in (("is_response", "_safe"), ("response", "_harm_category"), ("response", "_severity_level"))
)
"""What PKU-SafeRLHF says of each response beside its two judgements."""
ARENA = "openai_moderation toxic_chat_tag turn language anony tstamp conv_metadata category_tag full_conversation"
ARENA += " evaluation_session_id evaluation_order is_code is_refusal dedup_tag timestamp judge_hash occupational_tags"
TREES = "emojis labels detoxify review_result review_count tree_state synthetic"
PEOPLE = "unranked note seconds"
"""What our own rows say of a person's order beside it: of unranked completions no pair is made, and the rest is of no completion."""
NO_PAIR = ("prompt", "instruction", "conversations", "conversation")
"""Where one of these stands beside `chosen` and `rejected`, they do not begin with the prompt."""


def _transcripts(shape: Shape) -> bool:
    return shape.is_transcript("chosen") or shape.is_transcript("rejected")


def _binarized(shape: Shape) -> bool:
    """Whether conversations stand beside a prompt that is a text, each with a score."""
    talks = (shape.is_list("chosen") or shape.is_list("rejected")) and not shape.is_list("prompt")
    return talks and shape.has("prompt", "chosen", "rejected", "score_chosen", "score_rejected")


def _talk(shape: Shape) -> bool:
    """Whether there is a conversation and no other answer beside it."""
    answered = shape.has("chosen", "rejected") or pairs.is_side_by_side(shape)
    return shape.has("messages", without=["completions", "ranking", *REJECTED]) and not answered


def _only_a_prompt(shape: Shape) -> bool:
    answered = "replies" in shape.inside("prompt") or tools.is_argilla(shape) or pairs.is_side_by_side(shape)
    answered = answered or json_min.is_json_min(shape)
    return shape.has("prompt", without=OTHERS) and not answered


FORMATS: dict[str, Format] = {
    "ranking": Format(
        "rankings",
        has("completions", "ranking"),
        trl.ranking,
        "ranking lists the best first, an inner list is a tie",
        reads="prompt messages completions ranking all_bad",
        leaves=PEOPLE,
        fronts=True,
    ),
    "preference": Format(
        "rankings",
        lambda shape: shape.has("prompt", "chosen", "rejected") and not _binarized(shape),
        trl.preference,
        "chosen is better than rejected",
        reads="prompt chosen rejected",
        fronts=True,
    ),
    "preference_implicit": Format(
        "rankings",
        lambda shape: shape.has("chosen", "rejected", without=NO_PAIR) and not _transcripts(shape),
        trl.preference_implicit,
        "chosen is better than rejected",
        reads="chosen rejected",
        fronts=True,
    ),
    "prompt_completion": Format(
        "demonstrations",
        lambda shape: shape.has("prompt", "completion", without=["label"]) and not graded.is_graded(shape),
        trl.prompt_completion,
        reads="prompt completion",
        fronts=True,
    ),
    "unpaired": Format(
        "judgements",
        lambda shape: shape.has("label") and (shape.has("prompt", "completion", without=["messages"]) or _talk(shape)),
        trl.unpaired,
        "label true, 1, yes or 👍: the completion is liked; false, 0, no or 👎: disliked",
        reads="prompt messages completion label",
        fronts=True,
    ),
    "messages": Format(
        "demonstrations",
        lambda shape: _talk(shape) and not shape.has("label"),
        trl.messages,
        reads="messages",
        fronts=True,
    ),
    "prompt": Format(
        "prompts",
        _only_a_prompt,
        trl.prompt_only,
        reads="prompt",
        fronts=True,
    ),
    # Published preference sets
    "hh_rlhf": Format(
        "rankings",
        lambda shape: shape.has("chosen", "rejected", without=NO_PAIR) and _transcripts(shape),
        published.hh_rlhf,
        "chosen is better than rejected",
        reads="chosen rejected",
        fronts=True,
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
        reads="instruction completions",
        leaves="correct_answers incorrect_answers",
    ),
    "ultrafeedback_binarized": Format(
        "rankings",
        _binarized,
        published.ultrafeedback_binarized,
        "chosen is better than rejected, equal scores tie",
        reads="prompt chosen rejected score_chosen score_rejected",
        fronts=True,
    ),
    "shp": Format(
        "rankings",
        has("history", "human_ref_A", "human_ref_B"),
        published.shp,
        "labels 1: human_ref_A is better, 0: human_ref_B",
        reads="history human_ref_A human_ref_B labels",
        leaves="score_A score_B score_ratio upvote_ratio c_root_id_A c_root_id_B",
    ),
    "nectar": Format(
        "rankings",
        lambda shape: shape.has("prompt", "answers") and "answer" in shape.inside("answers"),
        published.nectar,
        "rank 1 is best, equal ranks tie",
        reads="prompt answers",
        leaves="good_natured",
    ),
    "webgpt": Format(
        "rankings",
        has("question", "answer_0", "answer_1"),
        published.webgpt,
        "the answer with the higher score is better, 0 is a tie",
        reads="question answer_0 answer_1 score_0 score_1",
        leaves="quotes_0 quotes_1 tokens_0 tokens_1",
    ),
    "tldr": Format(
        "rankings",
        has("info", "summaries", "choice"),
        published.tldr,
        "choice 0: the first summary is better, 1: the second",
        reads="info summaries choice worker",
        leaves="extra",
    ),
    "pku_saferlhf": Format(
        "rankings",
        has("prompt", "response_0", "response_1"),
        published.pku_saferlhf,
        "better_response_id or safer_response_id 0: response_0 is better, 1: response_1",
        axes=("better", "safer"),
        reads="prompt response_0 response_1 better_response_id safer_response_id",
        leaves=SAFETY,
    ),
    "helpsteer3": Format(
        "rankings",
        has("context", "response1", "response2"),
        published.helpsteer3,
        "overall_preference below 0: response1 is better, above 0: response2, 0 is a tie",
        reads="context response1 response2 overall_preference",
        leaves="individual_preference",
    ),
    "chatbot_arena": Format(
        "rankings",
        has("conversation_a", "conversation_b", "winner"),
        published.chatbot_arena,
        "winner names the better one, tie, both_bad and tie (bothbad) are ties",
        reads="conversation_a conversation_b winner model_a model_b question_id judge",
        leaves=ARENA,
    ),
    "rejected_response": Format(
        "rankings",
        lambda shape: shape.has("messages", without=["chosen"]) and any(key in shape.kinds for key in REJECTED),
        pairs.rejected,
        "the last answer of messages is better than what was rejected; several rejected ones are tied",
        reads=" ".join(("messages", *REJECTED)),
        fronts=True,
    ),
    "side_by_side": Format(
        "rankings",
        lambda shape: pairs.is_side_by_side(shape) and not json_min.is_json_min(shape),
        pairs.side_by_side,
        "the answer that the verdict names is better; preference_strength below 0: the first; ties are left out",
        reads_of=pairs.reads,
        leaves="preference_statement preference_elaboration three_most_similar_preferences "
        "all_preferences_unprocessed orig_criteria orig_feedback orig_reference_answer orig_score_A orig_score_B",
        fronts=True,
    ),
    # Trees, ratings, instructions, and what labelling tools export
    "ratings": Format(
        "rankings",
        lambda shape: (
            shape.has("completions", "ratings", without=["ranking"]) and (shape.has("prompt") or shape.has("messages"))
        ),
        rated.ratings,
        "the higher mean rating is better, nearer than tie_gap is a tie",
        reads="prompt messages completions ratings",
        fronts=True,
    ),
    "helpsteer": Format(
        "rankings",
        has("prompt", "response", "helpfulness"),
        rated.helpsteer,
        "the higher rating is better, nearer than tie_gap is a tie",
        rated.by_prompt,
        rated.HELPSTEER,
        rated.HELPSTEER[0],
        reads="prompt response " + " ".join(rated.HELPSTEER),
    ),
    "graded": Format(
        "rankings",
        lambda shape: graded.is_graded(shape) and not shape.has("conversation_id", "turn"),
        graded.graded,
        "the higher grade is better, nearer than tie_gap is a tie",
        graded.by_question,
        reads_of=graded.reads,
        leaves=graded.EXPLAINED,
        fronts=True,
    ),
    "prism": Format(
        "rankings",
        has("conversation_id", "turn", "user_prompt", "model_response"),
        prism.utterance,
        "the higher score is better, nearer than tie_gap is a tie",
        prism.by_turn,
        reads=prism.READS,
        leaves=prism.LEAVES,
    ),
    "openassistant": Format(
        "rankings",
        has("message_id", "role", "text"),
        trees.openassistant,
        "rank 0 is best; of ranking events the first id",
        trees.by_parent,
        reads="message_id parent_id role text rank deleted events",
        leaves=TREES,
    ),
    "openassistant_tree": Format(
        "rankings",
        lambda shape: "replies" in shape.inside("prompt"),
        trees.openassistant_tree,
        "rank 0 is best; of ranking events the first id",
        reads="prompt",
        leaves="message_tree_id tree_state",
    ),
    "text": Format(
        "demonstrations",
        instructions.is_plain_text,
        instructions.text,
        reads="text",
    ),
    "alpaca": Format(
        "demonstrations",
        lambda shape: (
            shape.has("instruction", "output", without=["chosen", "rejected", "completions"])
            and not graded.is_graded(shape)
            and not pairs.is_side_by_side(shape)
        ),
        instructions.alpaca,
        reads="instruction input output system history tools",
        leaves="text",
    ),
    "alpaca_preference": Format(
        "rankings",
        has("instruction", "chosen", "rejected", without=["prompt"]),
        instructions.alpaca_preference,
        "chosen is better than rejected",
        reads="instruction input chosen rejected system history tools",
        leaves="output",
    ),
    "sharegpt": Format(
        "demonstrations",
        instructions.is_dialogue,
        instructions.sharegpt,
        reads="conversations conversation system tools",
    ),
    "sharegpt_preference": Format(
        "rankings",
        instructions.is_dialogue_preference,
        instructions.sharegpt_preference,
        "chosen is better than rejected",
        reads="conversations conversation chosen rejected system tools",
    ),
    "argilla": Format(
        "rankings",
        tools.is_argilla,
        tools.argilla,
        "the lowest rank is best, equal ranks tie; of bare names the first",
        reads_of=tools.reads,
        tells=True,
    ),
    "argilla_nested": Format(
        "rankings",
        argilla_nested.is_nested,
        argilla_nested.argilla_nested,
        "the lowest rank is best, equal ranks tie; of bare names the first",
        reads=argilla_nested.READS,
        leaves=argilla_nested.LEAVES,
    ),
    "label_studio": Format(
        "rankings",
        has("data", "annotations"),
        tools.label_studio,
        "the first id of the ranker is best; left: the first answer, right: the second",
        reads="data annotations",
        leaves="predictions drafts file_upload meta",
    ),
    "json_min": Format(
        "rankings",
        json_min.is_json_min,
        json_min.json_min,
        "the first id of the ranker is best; left: the first answer, right: the second",
        reads_of=json_min.reads,
        leaves="id created_at updated_at lead_time",
    ),
}
