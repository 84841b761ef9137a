"""Correlations of genes, a block of draws after the other, against pandas."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pyrovae.singlecell import correlation


@pytest.fixture
def table():
    """Return draws of six genes with ties, a large mean, and one that is constant."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(500, 1))
    genes = common * [1, -1, 0.3, 2, 0] + rng.normal(size=(500, 5)) + [0, 5, 1e4, 0, 0]
    genes[:, 3] = genes[:, 3].round()
    return np.c_[genes, np.full(500, 0.1)].astype(np.float32)


def blocks(table):
    return iter(np.split(table, [1, 100, 120, 499]))


def test_pearson_is_that_of_pandas(table):
    expected = pd.DataFrame(table.astype(float)).corr().to_numpy()
    found = correlation.pearson(blocks(table))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.isnan(found[5]).all()
    assert (found[:5, :5] == found[:5, :5].T).all()


@pytest.mark.parametrize("in_memory", [1 << 28, 0], ids=["in memory", "in a file"])
def test_spearman_is_that_of_pandas(table, in_memory, monkeypatch):
    monkeypatch.setattr(correlation, "_IN_MEMORY", in_memory)
    monkeypatch.setattr(correlation, "_AT_ONCE", 600)
    expected = pd.DataFrame(table).rank().corr().to_numpy()
    found = correlation.spearman(blocks(table), *table.shape)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_disk_without_space_is_told_before_the_draws(table, monkeypatch):
    monkeypatch.setattr(correlation, "_IN_MEMORY", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=11_999))

    def none_is_drawn():
        pytest.fail("drawn")
        yield table

    with pytest.raises(OSError, match=r"1.2e-05 GB in a temporary file.*by .*TMPDIR"):
        correlation.spearman(none_is_drawn(), *table.shape)
