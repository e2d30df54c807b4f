"""Does a row stay on its side, whatever comes beside it, and does a fingerprint tell rows apart?"""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.refining.split import alike, asked, fingerprint, held_out, key_of, split_by
from data.schema import Completion, Demonstration, Prompt, Ranking, prompt_key

ROWS = st.lists(st.tuples(st.sampled_from("abcdefghé"), st.integers(0, 9)), max_size=12)


def first(row):
    return row[0]


@settings(deadline=None, derandomize=True, database=None)
@given(ROWS, ROWS, st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.integers(0, 99))
def test_the_split_keeps_all_rows_their_order_their_keys_together_and_their_side(rows, more, fraction, seed):
    train, held_out = split_by(rows, first, fraction, seed)
    keys = {key for key, _ in train}
    assert not keys & {key for key, _ in held_out}
    assert train == [row for row in rows if row[0] in keys]
    assert held_out == [row for row in rows if row[0] not in keys]
    bigger, bigger_held_out = split_by(more + rows, first, fraction, seed)
    assert bigger[len(bigger) - len(train) :] == train
    assert bigger_held_out[len(bigger_held_out) - len(held_out) :] == held_out


def test_the_side_is_the_hash_of_seed_and_key():
    """sha256("7:key") read as a fraction of 2**256, on the digest's hex instead of its bytes."""
    keys = [f"key {number}" for number in range(200)]
    train, held_out = split_by(keys, str, 0.3, 7)
    expected = [key for key in keys if int(hashlib.sha256(f"7:{key}".encode()).hexdigest(), 16) / 2**256 < 0.3]
    assert held_out == expected
    assert train == [key for key in keys if key not in expected]


def test_the_fraction_holds_and_seeds_differ():
    """2000 fair draws of 0.1: mean 200, standard deviation 13.4; four of them is 54."""
    keys = [str(number) for number in range(2000)]
    sides = [set(split_by(keys, str, 0.1, seed)[1]) for seed in range(3)]
    assert all(146 <= len(side) <= 254 for side in sides)
    assert sides[0] != sides[1] != sides[2]
    assert split_by(keys, str, 0.0, 0) == (keys, [])
    assert split_by(keys, str, 1.0, 0) == ([], keys)


def test_a_larger_fraction_only_adds_to_eval():
    keys = [str(number) for number in range(300)]
    assert set(split_by(keys, str, 0.1, 3)[1]) < set(split_by(keys, str, 0.2, 3)[1])


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_lies_between_nothing_and_all(fraction):
    with pytest.raises(ValueError, match="eval_fraction"):
        split_by([], str, fraction, 0)


# By prompt, in each source by the same share


def alone(*strata):
    """Each key a group of its own."""
    return {key: key for keys in strata for key in keys}


def keys(prefix, count):
    return [f"{prefix}{number}" for number in range(count)]


def lowest(names, count, seed):
    """The names with the smallest sha256 of seed and name, in hexadecimal."""
    return set(sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())[:count])


def test_of_each_source_the_same_share_is_held_out_by_hash():
    """A tenth of 20, 50 and 14 is 2, 5 and 1.4, which is 1."""
    strata = {"a": keys("a", 20), "b": keys("b", 50), "c": keys("c", 14)}
    expected = lowest(strata["a"], 2, 3) | lowest(strata["b"], 5, 3) | lowest(strata["c"], 1, 3)
    assert held_out(alone(*strata.values()), strata, 0.1, 3) == expected
    backwards = {name: strata[name][::-1] for name in "cba"}
    assert held_out(dict(reversed(alone(*strata.values()).items())), backwards, 0.1, 3) == expected
    assert held_out(alone(*strata.values()), strata, 0.1, 4) != expected


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(0, 0.5, 0), (1, 0.9, 0), (2, 0.1, 1), (2, 0.9, 1), (9, 0.01, 1), (9, 0.99, 8)]
)
def test_at_least_one_prompt_of_two_is_held_out_and_never_all(count, fraction, held):
    assert len(held_out(alone(keys("a", count)), {"a": keys("a", count)}, fraction, 0)) == held


def test_a_group_is_held_out_whole_and_passed_over_where_it_takes_too_much():
    """Eight of ten keys are one group and a fifth is two: the two others are held out. Where groups are five and five,
    one of them is, though a fifth is less; of one and nine, the one."""
    names = keys("k", 10)
    eight = {name: "big" if int(name[1:]) < 8 else name for name in names}
    assert held_out(eight, {"a": names}, 0.2, 0) == {"k8", "k9"}
    halves = held_out({name: int(name[1:]) // 5 for name in names}, {"a": names}, 0.2, 0)
    assert halves in (set(names[:5]), set(names[5:]))
    assert held_out({name: int(name[1:]) // 9 for name in names}, {"a": names}, 0.05, 0) == {"k9"}
    assert held_out(dict.fromkeys(names, "one"), {"a": names}, 0.2, 0) == set()


def test_prompts_of_two_sources_stand_on_one_side():
    """b's prompts are all among a's: of both together two in ten are held out, and b has its share if it had none."""
    a, b = keys("k", 10), keys("k", 5)
    held = held_out(alone(a), {"a": a, "b": b}, 0.2, 0)
    assert lowest(a, 2, 0) <= held and len(held) <= 3 and held & set(b)


def test_prompts_that_are_fixed_are_held_out_with_their_group_and_count_to_the_share():
    names = keys("k", 10)
    groups = {name: int(name[1:]) // 2 for name in names} | {"x": 0}
    assert held_out(groups, {"a": names}, 0.2, 0, fixed=["x"]) == {"k0", "k1", "x"}
    assert held_out(groups, {}, 0.2, 0, fixed=["k4"]) == {"k4", "k5"}


def test_rows_added_later_move_few_others():
    """The hashes below which 100 of 1,000 and 110 of 1,100 keys lie are both 0.1, give or take 0.01 (one standard
    deviation); keys between them move, about 10. Forty is four times that; a new draw would move 180."""
    old = keys("old", 1000)
    before = held_out(alone(old), {"a": old}, 0.1, 0)
    after = held_out(alone(old, keys("new", 100)), {"a": old + keys("new", 100)}, 0.1, 0)
    assert len(before) == 100 and len(after) == 110
    assert len(before ^ {name for name in after if name.startswith("old")}) <= 40


@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(
    st.dictionaries(st.sampled_from([f"k{n}" for n in range(30)]), st.integers(0, 9), max_size=30),
    st.sampled_from([0.05, 0.1, 0.3, 0.9]),
    st.integers(0, 9),
)
def test_whatever_the_groups_they_stay_whole_and_both_sides_have_one(groups, fraction, seed):
    names = sorted(groups)
    strata = {"a": names[::2], "b": names[1::2]}
    held = held_out(groups, strata, fraction, seed)
    assert held_out(dict(reversed(groups.items())), strata, fraction, seed) == held
    assert not {groups[name] for name in held} & {groups[name] for name in names if name not in held}
    for stratum in strata.values():
        if len({groups[name] for name in stratum}) > 1:
            assert held & set(stratum)
    if len(set(groups.values())) > 1:
        assert set() < held_out(groups, {"all": names}, fraction, seed) < set(names)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_share_held_out_is_neither_nothing_nor_all(fraction):
    with pytest.raises(ValueError, match="eval_fraction"):
        held_out({}, {}, fraction, 0)


def user(*texts, system=None):
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": "user", "content": text} for text in texts]


def test_a_row_goes_by_its_prompt_or_without_one_by_its_text():
    assert key_of(Prompt("1", "a  b", "f:1")) == key_of(Demonstration("2", "a b", "x", "f:2")) == prompt_key("a b")
    made = Ranking("3", "a b", (Completion("0", "x"), Completion("1", "y")), (("0",), ("1",)), "f:3")
    assert key_of(made) == prompt_key("a b")
    assert key_of(Demonstration("4", "", "text", "f:4")) != key_of(Demonstration("5", "", "other", "f:5"))
    assert asked(user("a", "b", system="s")) == "a\nb" and asked("a") == "a"


def test_prompts_that_are_alike_are_one_group():
    """28 characters have 24 runs of five; but for the last one, 23 of 25 are shared: 0.92. What the system says
    does not count, and a conversation of one turn is like the text."""
    prompts = [
        "The cat sat on the mat, yes.",
        "The cat sat on the mat, yes!",
        "Something else altogether",
        user("the cat sat on the mat, yes.", system="Something else altogether"),
    ]
    rows = [Prompt(str(n), prompt, "f:1") for n, prompt in enumerate(prompts)]
    groups = [alike(rows, 0.9)[key_of(row)] for row in rows]
    assert groups[0] == groups[1] == groups[3] != groups[2]
    strict = [alike(rows, 0.99)[key_of(row)] for row in rows]
    assert strict[0] == strict[3] and len(set(strict)) == 3
    assert len(set(alike(rows, None).values())) == 4


def test_a_fingerprint_is_the_hash_of_canonical_json_lines():
    """The lines as written by hand from the definition: keys sorted, no spaces, UTF-8, one line feed each."""
    rows = [Demonstration("1", [{"role": "user", "content": "Hé"}], " x", "f:1"), Prompt("2", "p", "f:2")]
    lines = (
        '{"completion":" x","id":"1","prompt":[{"content":"Hé","role":"user"}],"source":"f:1"}\n'
        '{"id":"2","prompt":"p","source":"f:2"}\n'
    )
    assert fingerprint(rows) == hashlib.sha256(lines.encode("utf-8")).hexdigest()
    assert fingerprint(rows) != fingerprint(rows[::-1]) != fingerprint(rows[:1])
