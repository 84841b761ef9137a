"""Minibatches: every row once, any array of real numbers taken, binarization of the right law."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyrovae.data import batches
from pyrovae.data.minibatches import epoch_order, number_of_batches


@given(n=st.integers(1, 60), size=st.integers(1, 70), seed=st.integers(0, 5))
def test_every_row_is_seen_once_and_no_batch_but_a_lone_one_has_one_row(n, size, seed):
    parts = batches.shuffled_batches(n, size, torch.Generator().manual_seed(seed))
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert all(len(part) <= size + 1 for part in parts)
    if size > 1 and n > 1:
        assert min(len(part) for part in parts) > 1


@given(n=st.integers(1, 60), size=st.integers(1, 70), drop_last=st.booleans())
def test_the_number_of_minibatches_is_that_of_an_epoch(n, size, drop_last):
    expected = len(epoch_order(n, size, drop_last, seed=0))
    assert number_of_batches(n, size, drop_last) == expected


@pytest.mark.parametrize(
    "kind",
    [
        np.bool_,
        np.uint8,
        np.int8,
        np.uint16,
        np.uint32,
        np.int64,
        np.float16,
        np.float32,
        np.float64,
    ],
)
def test_every_real_type_is_taken(kind):
    (x,) = batches.as_sources(np.ones((3, 2), kind))
    (taken,) = batches.take((x,), torch.tensor([0, 2]), torch.device("cpu"), torch.float32)
    assert torch.equal(taken, torch.ones(2, 2))


@pytest.mark.parametrize(
    "bad",
    [
        np.array(["a"]),
        np.ones((2, 2), complex),
        np.array([object()]),
        torch.ones(2, 2, dtype=torch.cfloat),
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused(bad):
    with pytest.raises(TypeError, match="expected real numbers"):
        batches.as_sources(bad)


def test_a_number_is_no_data():
    with pytest.raises(TypeError, match=r"is the number 0\.2, expected rows.*split\(n, fraction\)"):
        batches.as_sources(0.2)


@pytest.mark.parametrize("path", ["rows.npy", Path("rows.npy")])
def test_a_path_in_place_of_data_is_told_how_to_be_read(path):
    with pytest.raises(TypeError, match=r"is the path 'rows.npy', .* by numpy\.load"):
        batches.as_sources(path)


@pytest.mark.parametrize("bad", [(), torch.zeros(0, 3), torch.zeros(3, 0)])
def test_empty_data_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        batches.as_sources(bad)


def test_binarization_has_the_law_of_a_bernoulli():
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).repeat(40_000, 1)
    drawn = batches.binarize(x)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), x[0], atol=0.01, rtol=0)  # four standard errors
    assert torch.equal(drawn[:, [0, 4]], x[:, [0, 4]])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.tensor([0.0, 255.0]), "from 0 to 255.*255 for bytes"),
        (torch.tensor([0, 16], dtype=torch.uint8), "from 0 to 16"),
        (torch.tensor([-0.5, 0.5]), r"from -0\.5 to 0\.5"),
        (torch.tensor([0.5, torch.nan]), "NaN"),
    ],
)
def test_what_is_no_probability_is_not_binarized(x, words):
    with pytest.raises(ValueError, match=f"binarize: x h.*{words}"):
        batches.binarize(x)


def test_bits_of_any_type_stay_and_rounding_is_no_error():
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16):
        bits = torch.tensor([0, 1, 1]).to(dtype)
        assert torch.equal(batches.binarize(bits), bits)
        assert batches.binarize(bits).dtype == dtype
    assert batches.binarize(torch.tensor([-1e-7, 1.0000001])).tolist() == [0.0, 1.0]
    assert batches.binarize(torch.zeros(0, 3)).shape == (0, 3)


@given(n=st.integers(2, 200), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 3))
def test_a_split_parts_the_rows(n, fraction, seed):
    train, held_out = batches.split(n, fraction, seed)
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(n))
    assert min(len(train), len(held_out)) >= 1


@pytest.mark.parametrize("call", [(1, 0.5), (10, 0.0), (10, 1.0)])
def test_nothing_to_split_is_refused(call):
    with pytest.raises(ValueError, match="expected at least 2 rows"):
        batches.split(*call)


@given(n=st.integers(1, 300), k=st.integers(1, 320))
def test_spread_rows_are_distinct_and_reach_both_ends(n, k):
    rows = batches.spread(n, k).tolist()
    assert len(set(rows)) == len(rows) == min(n, k)
    assert rows == sorted(rows)
    assert rows[0] == 0
    assert rows[-1] == (n - 1 if len(rows) > 1 else 0)
    gaps = np.diff(rows)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_batches_in_order_hold_every_row_once():
    x = torch.arange(2500)
    parts = list(batches.batches_in_order(None, batches.as_sources((x, x % 7))))
    assert torch.equal(torch.cat([part[0] for part in parts]), x.float())
    assert torch.equal(torch.cat([part[1] for part in parts]), (x % 7).float())
    assert max(len(part[0]) for part in parts) <= 1024
