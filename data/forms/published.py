"""How are the published preference sets read?

Each function names the set on the Hugging Face Hub that its rows come from. All give rankings.
"""

from typing import Any

from data.forms import checks, transcripts
from data.forms.place import Place
from data.forms.rankings import by_score, pair
from data.forms.transcripts import Answer
from data.schema import Completion, PromptText, Ranking

OVERALL = ("overall_score", "fine-grained_score")
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
WINNERS = {"model_a": (1, 0), "model_b": (0, 1), "tie": (0, 0), "tie (bothbad)": (0, 0), "both_bad": (0, 0)}
ZERO = 1e-6
"""Within this of zero is the sum of two scores that were written down as opposites."""


def hh_rlhf(row: dict[str, Any], at: Place) -> Ranking | None:
    """Anthropic/hh-rlhf: two transcripts that are the same up to the assistant's last answer."""
    return pair(row, at, transcripts.dialogues(row, "chosen", "rejected", at))


def ultrafeedback(row: dict[str, Any], at: Place) -> Ranking | None:
    """openbmb/UltraFeedback: several completions, each with ratings; `at.axis` says which of them to go by.

    A completion without that rating ("N/A") is left out of the ranking; it keeps its place in the ids of the others.
    """
    prompt = checks.text(row, "instruction", at)
    given = checks.records(row, "completions", at, least=0)
    before = len(at.problems)
    rated: list[Completion] = []
    for place, one in enumerate(given or ()):
        here = at.within(f"completions[{place}]")
        said = checks.text(one, "response", here)
        model = checks.optional_name(one, "model", here)
        rating = _rating(one, here)
        if said is not None and rating is not None:
            rated.append(Completion(f"c{place}", said, model, (rating,)))
    if prompt is None or given is None or len(at.problems) > before:
        return None
    if len(rated) < 2:
        at.leave_out("not rated")
        return None
    scores = [one.rating or 0.0 for one in rated]
    return by_score(row, at, prompt, rated, scores, gap=at.tie_gap)


def _rating(completion: dict[str, Any], at: Place) -> float | None:
    """The completion's rating on the chosen axis; None where there is none, a mistake or not."""
    axis = at.axis or OVERALL[0]
    if axis in OVERALL:
        return checks.number(completion, axis, at)
    annotations = checks.record(completion, "annotations", at)
    inner = at.within("annotations")
    aspect = None if annotations is None else checks.record(annotations, axis, inner)
    if aspect is None or aspect.get("Rating") == "N/A":
        return None
    return checks.number(aspect, "Rating", inner.within(axis), 1, 5)


def ultrafeedback_binarized(row: dict[str, Any], at: Place) -> Ranking | None:
    """HuggingFaceH4/ultrafeedback_binarized: conversations that repeat the prompt, and a score for each."""
    prompt = checks.text(row, "prompt", at)
    answers = {key: checks.conversation(row, key, at) for key in ("chosen", "rejected")}
    chosen, rejected = (checks.number(row, key, at) for key in ("score_chosen", "score_rejected"))
    if prompt is None or chosen is None or rejected is None:
        return None
    for key, answer in answers.items():
        if answer is not None and isinstance(answer[0], list) and answer[0][-1]["content"].strip() != prompt.strip():
            at.report(key, "its last question is not the prompt", "give both the same, or take the prompt column out")
            return None
    if chosen < rejected:
        at.report("score_chosen", "it is below score_rejected", "let chosen and rejected change places, or the scores")
        return None
    return pair(row, at, answers, (chosen, rejected), gap=at.tie_gap, rated=True)


def shp(row: dict[str, Any], at: Place) -> Ranking | None:
    """stanfordnlp/SHP: two comments on a Reddit post; label 1 says that the first had more votes, 0 the second."""
    answers = _texts(row, "history", ("human_ref_A", "human_ref_B"), at)
    label = checks.choice(row, "labels", (0, 1), at)
    return pair(row, at, answers, None if label is None else (label, 1 - label))


def nectar(row: dict[str, Any], at: Place) -> Ranking | None:
    """berkeley-nest/Nectar: several answers to a transcript, ranked from 1; equal ranks are ties."""
    prompt = transcripts.prompt(row, "prompt", at)
    given = checks.records(row, "answers", at)
    before = len(at.problems)
    ranks: list[float] = []
    completions: list[Completion] = []
    for place, one in enumerate(given or ()):
        here = at.within(f"answers[{place}]")
        said = checks.text(one, "answer", here)
        model = checks.optional_name(one, "model", here)
        rank = checks.number(one, "rank", here, 1, len(given or ()))
        if said is not None and rank is not None:
            completions.append(Completion(f"c{place}", said, model))
            ranks.append(-rank)
    if given is None or len(at.problems) > before:
        return None
    return by_score(row, at, prompt, completions, ranks, field="answers")


def webgpt(row: dict[str, Any], at: Place) -> Ranking | None:
    """openai/webgpt_comparisons: two answers with scores from -1 to 1 that are each other's opposite."""
    if isinstance(row.get("question"), dict):
        prompt = checks.text(row["question"], "full_text", at.within("question"))
    else:
        prompt = checks.text(row, "question", at)
    answers = {key: _answer(row, prompt, key, at) for key in ("answer_0", "answer_1")}
    first, second = (checks.number(row, key, at, -1, 1) for key in ("score_0", "score_1"))
    if first is None or second is None:
        return None
    if abs(first + second) > ZERO:
        at.report("score_1", "it is not the opposite of score_0", "give scores that sum to 0, or write a ranking")
        return None
    return pair(row, at, answers, (first, second), gap=at.tie_gap, rated=True)


def tldr(row: dict[str, Any], at: Place) -> Ranking | None:
    """openai/summarize_from_feedback, comparisons: two summaries of a Reddit post, `choice` is the better one.

    The prompt is that of Stiennon et al. (2020); a completion begins with one space. The set has news articles as well,
    which no such prompt fits: they are left out.
    """
    info = checks.record(row, "info", at)
    given = checks.records(row, "summaries", at)
    choice = checks.choice(row, "choice", (0, 1), at)
    if info is None or given is None:
        return None
    if len(given) > 2:
        at.report("summaries", "there are more than 2", "write the row as a ranking")
        return None
    if info.get("post") is None and isinstance(info.get("article"), str):
        at.leave_out("a news article, not a post")
        return None
    inner = at.within("info")
    subreddit, title, post = (checks.text(info, key, inner) for key in ("subreddit", "title", "post"))
    prompt = None
    if subreddit is not None and title is not None and post is not None:
        name = subreddit.strip().removeprefix("r/")
        prompt = f"SUBREDDIT: r/{name}\n\nTITLE: {title.strip()}\n\nPOST: {post.strip()}\n\nTL;DR:"
    answers: dict[str, Answer] = {}
    for place, one in enumerate(given):
        said = checks.text(one, "text", at.within(f"summaries[{place}]"))
        answers[f"summaries[{place}]"] = None if said is None or prompt is None else (prompt, f" {said.strip()}")
    models = [checks.optional_name(one, "policy", at.within(f"summaries[{n}]")) for n, one in enumerate(given)]
    scores = None if choice is None else (1 - choice, choice)
    return pair(row, at, answers, scores, models=models, annotator="worker")


def pku_saferlhf(row: dict[str, Any], at: Place) -> Ranking | None:
    """PKU-Alignment/PKU-SafeRLHF: two responses, the position of the better and that of the safer one."""
    answers = _texts(row, "prompt", ("response_0", "response_1"), at)
    best = checks.choice(row, f"{at.axis}_response_id", (0, 1), at)
    return pair(row, at, answers, None if best is None else (1 - best, best))


def helpsteer3(row: dict[str, Any], at: Place) -> Ranking | None:
    """nvidia/HelpSteer3, preference: two responses to a conversation; a preference below 0 is for the first."""
    prompt = checks.prompt(row, at, "context")
    answers = {key: _answer(row, prompt, key, at) for key in ("response1", "response2")}
    preference = checks.number(row, "overall_preference", at, -3, 3)
    return pair(row, at, answers, None if preference is None else (-preference, 0), gap=at.tie_gap)


def chatbot_arena(row: dict[str, Any], at: Place) -> Ranking | None:
    """lmsys/chatbot_arena_conversations and lmarena-ai/arena-human-preference-140k: two conversations and which of them
    won. Where the models' earlier answers differ the winner is of a whole conversation, and the row is left out."""
    answers = {key: checks.conversation(row, key, at) for key in ("conversation_a", "conversation_b")}
    winner = checks.text(row, "winner", at)
    if winner is not None and winner not in WINNERS:
        at.report("winner", f'"{winner}" is none of {", ".join(WINNERS)}', "correct it or take the row out")
    models = [checks.optional_name(row, key, at) for key in ("model_a", "model_b")]
    name = checks.optional_name(row, "question_id", at)
    if _part_early(*answers.values()) and not at.problems:
        at.leave_out("the answers part before the last turn")
        return None
    return pair(row, at, answers, WINNERS.get(winner or ""), models=models, name=name, annotator="judge")


def _part_early(first: Answer, second: Answer) -> bool:
    """Whether the same was asked all along, and one of the answers before the last was another."""
    if first is None or second is None or not isinstance(first[0], list) or not isinstance(second[0], list):
        return False
    one, other = first[0], second[0]
    alike = [turn["role"] for turn in one] == [turn["role"] for turn in other]
    asked = all(mine == theirs for mine, theirs in zip(one, other, strict=False) if mine["role"] != "assistant")
    return alike and asked and one != other


def _answer(row: dict[str, Any], prompt: PromptText | None, key: str, at: Place) -> Answer:
    said = checks.text(row, key, at)
    return None if said is None or prompt is None else (prompt, said)


def _texts(row: dict[str, Any], asked: str, keys: tuple[str, str], at: Place) -> dict[str, Answer]:
    """The texts under two keys as answers to the text under `asked`."""
    prompt = checks.text(row, asked, at)
    return {key: _answer(row, prompt, key, at) for key in keys}
