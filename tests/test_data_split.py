"""Does a row stay on its side, whatever comes beside it, and does a fingerprint tell rows apart?"""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.schema import Demonstration, Prompt
from data.split import fingerprint, split_by

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


def test_a_fingerprint_is_the_hash_of_canonical_json_lines():
    """The lines as written by hand from the definition: keys sorted, no spaces, UTF-8, one line feed each."""
    rows = [Demonstration("1", [{"role": "user", "content": "Hé"}], " x", "f:1"), Prompt("2", "p", "f:2")]
    lines = (
        '{"completion":" x","id":"1","prompt":[{"content":"Hé","role":"user"}],"source":"f:1"}\n'
        '{"id":"2","prompt":"p","source":"f:2"}\n'
    )
    assert fingerprint(rows) == hashlib.sha256(lines.encode("utf-8")).hexdigest()
    assert fingerprint(rows) != fingerprint(rows[::-1]) != fingerprint(rows[:1])
