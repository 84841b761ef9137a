"""Minibatches: every row once, bad values found wherever they are, binarization of the right law."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrovae.data import batches


@given(n=st.integers(1, 60), size=st.integers(1, 70), seed=st.integers(0, 5))
def test_every_row_is_seen_once_and_no_batch_but_a_lone_one_has_one_row(n, size, seed):
    parts = batches.shuffled_batches(n, size, torch.Generator().manual_seed(seed))
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert all(len(part) <= size + 1 for part in parts)
    if size > 1 and n > 1:
        assert min(len(part) for part in parts) > 1


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 40),
    row=st.integers(0, 39),
    column=st.integers(0, 4),
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_bad_value_is_found_wherever_it_is(rows, row, column, bad):
    x = np.zeros((rows, 5), np.float32)
    row %= rows
    x[row, column] = bad
    with pytest.raises(ValueError, match=rf"{float(bad)} in row {row}, position \({column},\)"):
        batches.as_tensors(x)


def test_a_bad_value_is_found_beyond_the_first_piece(monkeypatch):
    monkeypatch.setattr(batches, "_CHECKED_AT_ONCE", 10)
    x = torch.zeros(100, 5)
    x[97, 3] = torch.nan
    with pytest.raises(ValueError, match=r"nan in row 97, position \(3,\)"):
        batches.as_tensors(x)
    c = torch.zeros(100, 2)
    c[4, 1] = torch.inf
    with pytest.raises(ValueError, match=r"validation: context 1: inf in row 4"):
        batches.as_tensors((torch.zeros(100, 5), c), "validation")


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
    (x,) = batches.as_tensors(np.ones((3, 2), kind))
    (taken,) = batches.take((x,), torch.tensor([0, 2]), torch.device("cpu"), torch.float32)
    assert torch.equal(taken, torch.ones(2, 2))


def test_arrays_that_torch_cannot_share_are_copied():
    x = np.arange(6.0).reshape(2, 3)
    x.flags.writeable = False
    assert batches.as_tensors(x[::-1])[0].tolist() == [[3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize(
    "bad",
    [
        np.array(["a"]),
        np.ones((2, 2), complex),
        np.array([object()]),
        torch.ones(2, 2, dtype=torch.cfloat),
        "text",
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused(bad):
    with pytest.raises(TypeError, match="expected real numbers"):
        batches.as_tensors(bad)


@pytest.mark.parametrize("bad", [(), torch.zeros(0, 3), torch.zeros(3, 0), 5.0])
def test_empty_data_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        batches.as_tensors(bad)


def test_binarization_has_the_law_of_a_bernoulli():
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).repeat(40_000, 1)
    drawn = batches.binarize(x)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), x[0], atol=0.01, rtol=0)  # four standard errors
    assert torch.equal(drawn[:, [0, 4]], x[:, [0, 4]])


@given(n=st.integers(2, 200), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 3))
def test_a_split_parts_the_rows(n, fraction, seed):
    train, held_out = batches.split(n, fraction, seed)
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(n))
    assert min(len(train), len(held_out)) >= 1


@pytest.mark.parametrize("call", [(1, 0.5), (10, 0.0), (10, 1.0)])
def test_nothing_to_split_is_refused(call):
    with pytest.raises(ValueError, match="expected at least 2 rows"):
        batches.split(*call)


def test_the_fingerprint_tells_data_apart():
    x = torch.arange(12.0).reshape(3, 4)
    prints = [
        batches.fingerprint(part)
        for part in ((x,), (x.clone(),), (x.reshape(4, 3),), (x.double(),), (x + 1,), (x, x))
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 5
