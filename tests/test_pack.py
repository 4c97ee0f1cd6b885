"""Sequences packed into a table: end tokens, lengths, and what happens to those that are too long."""

import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqforge.data.pack import LONGEST_BY_ITSELF, Lengths, choose_lengths, pack
from seqforge.data.tokens import Encoded


def encoded(rows: list[list[int]]) -> Encoded:
    flat = np.array([i for row in rows for i in row], np.int32)
    return Encoded(flat, np.array([len(row) for row in rows], np.int64))


def place(i: int) -> str:
    return f"a.txt:{i + 1}"


ROWS = [[5, 6], [7, 8, 9, 5], [6]]


def test_every_sequence_ends_with_one_end_token():
    split, kept = pack(encoded(ROWS), 0, Lengths(5, "stop"), place, "a.txt")
    assert split.ids.tolist() == [[5, 6, 0, 0, 0], [7, 8, 9, 5, 0], [6, 0, 0, 0, 0]]
    assert split.lengths.tolist() == [3, 5, 2]
    assert kept.tolist() == [0, 1, 2]
    assert split.ids.dtype == torch.int64


def test_an_end_token_that_is_not_0():
    split, _ = pack(encoded(ROWS), 3, Lengths(6, "stop"), place, "a.txt")
    assert split.ids.tolist() == [[5, 6, 3, 0, 0, 0], [7, 8, 9, 5, 3, 0], [6, 3, 0, 0, 0, 0]]


def test_without_an_end_token():
    split, _ = pack(encoded([[5, 6], [7, 8]]), None, Lengths(2, "stop"), place, "a.txt")
    assert (split.ids.tolist(), split.lengths.tolist()) == ([[5, 6], [7, 8]], [2, 2])


def test_too_long_stops_and_names_the_first():
    told = r"a\.txt:2: 5 tokens with its end token, but max_length is 3 \(1 such\); raise --data\.max_length, or pass "
    with pytest.raises(ValueError, match=told + r"--data\.overlong truncate or skip"):
        pack(encoded(ROWS), 0, Lengths(3, "stop"), place, "a.txt")
    with pytest.raises(ValueError, match=r"a\.txt:1: 3 tokens with .* is 2 \(2 such\)"):
        pack(encoded(ROWS), 0, Lengths(2, "stop"), place, "a.txt")
    with pytest.raises(ValueError, match=r"a\.txt:2: 4 tokens, but max_length is 3 "):
        pack(encoded(ROWS), None, Lengths(3, "stop"), place, "a.txt")


def test_what_is_cut_has_no_end_token():
    with pytest.warns(UserWarning, match=r"a: 1 of 3 sequences .* 3 tokens and are cut there \(the first: a\.txt:2\)"):
        split, kept = pack(encoded(ROWS), 0, Lengths(3, "truncate"), place, "a")
    assert split.ids.tolist() == [[5, 6, 0], [7, 8, 9], [6, 0, 0]]
    assert (split.lengths.tolist(), kept.tolist()) == ([3, 3, 2], [0, 1, 2])


def test_what_is_left_out():
    with pytest.warns(UserWarning, match=r"a: 1 of 3 .* left out \(the first: a\.txt:2\).*--data\.max_length"):
        split, kept = pack(encoded(ROWS), 0, Lengths(3, "skip"), place, "a")
    assert (split.ids.tolist(), split.lengths.tolist(), kept.tolist()) == ([[5, 6, 0], [6, 0, 0]], [3, 2], [0, 2])


@given(st.lists(st.lists(st.integers(4, 9), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(1, 10))
@pytest.mark.filterwarnings("ignore:a")
def test_packing_by_brute_force(rows, longest):
    for eos in (0, 3, None):
        ended = [row + [eos] * (eos is not None) for row in rows]
        for policy in ("truncate", "skip"):
            keep = [row for row in ended if policy == "truncate" or len(row) <= longest]
            split, kept = pack(encoded(rows), eos, Lengths(longest, policy), place, "a")
            assert [row[:n] for row, n in zip(split.ids.tolist(), split.lengths.tolist(), strict=True)] == [
                row[:longest] for row in keep
            ]
            assert [ended[i] for i in kept] == keep
            outside = torch.arange(longest)[None, :] >= split.lengths[:, None]
            assert not split.ids[outside].any()


# --- which length --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "longest"),
    [
        ([3, 4, 5], 6),  # that of the longest, its end token included
        ([5] * 200 + [31], 32),  # a short table needs no cutting
        ([5] * 200 + [32], 6),  # one that is far longer than the others is cut where 99 % fit
        ([20] * 200 + [41], 42),  # twice as long is not far longer
        ([20] * 200 + [42], 21),
        ([20] * 100 + [41] * 100, 42),  # half of them are no exception
        ([255], 256),
        ([300] * 9, LONGEST_BY_ITSELF),
    ],
)
def test_the_length_that_is_chosen(lengths, longest):
    found = choose_lengths(np.array(lengths), None, "auto", True)
    assert found == Lengths(longest, "truncate")
    assert choose_lengths(np.array(lengths) + 1, None, "auto", False) == found  # without end tokens


@pytest.mark.parametrize(("overlong", "policy"), [("auto", "stop"), ("truncate", "truncate"), ("skip", "skip")])
def test_a_length_that_is_given_is_kept_to(overlong, policy):
    assert choose_lengths(np.array([3, 400]), 9, overlong, True) == Lengths(9, policy)


@pytest.mark.parametrize("overlong", ["skip", "stop"])
def test_a_policy_that_is_given_holds_for_a_length_that_is_not(overlong):
    assert choose_lengths(np.array([5] * 200 + [99]), None, overlong, True) == Lengths(6, overlong)


def test_one_line_of_100_000_tokens_among_short_ones_does_not_size_the_table():
    rows = [[4] * 10] * 1000
    rows.insert(500, [5] * 100_000)
    texts = encoded(rows)
    fit = choose_lengths(texts.lengths, None, "auto", True)
    assert fit == Lengths(11, "truncate")
    tracemalloc.start()
    with pytest.warns(UserWarning, match=re.escape("1 of 1001 sequences are longer than 11 tokens and are cut there")):
        split, _ = pack(texts, 0, fit, place, "a.txt")
    assert tracemalloc.get_traced_memory()[1] < 2e6  # the whole table at the longest line's width: 800 MB
    tracemalloc.stop()
    assert split.ids.shape == (1001, 11)
    assert split.ids[500].tolist() == [5] * 11
