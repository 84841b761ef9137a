"""Cells as a biologist has them: what is taken as it is meant, and what is refused in words."""

import sys

import numpy as np
import pytest

import pyrovae as pv
from pyrovae.singlecell import SingleCellVAE, open_shards, read, simulate


def trained(cells, epochs=1, options=None, **keys):
    SingleCellVAE.setup_anndata(cells, **keys)
    model = SingleCellVAE(cells, n_hidden=8, n_latent=2, **(options or {}))
    model.train(max_epochs=epochs, progress=False)
    return model


def test_without_anndata_the_extra_is_named(tmp_path, monkeypatch):
    cells, file = simulate(20, 5), tmp_path / "cells.h5ad"
    cells.to_anndata().write_h5ad(file)
    monkeypatch.setitem(sys.modules, "anndata", None)
    assert pv.SingleCellVAE is SingleCellVAE
    for call in (cells.to_anndata, lambda: read(file), lambda: open_shards(file)):
        with pytest.raises(ImportError, match=r"pip install 'pyrovae\[cells\]'"):
            call()


def test_clusters_that_became_floats_are_groups():
    cells = simulate(300, 12).to_anndata()
    model, leiden = trained(cells), np.arange(300.0) % 25
    leiden[:3] = np.nan
    cells.obs["leiden"], cells.obs["total"] = leiden, np.arange(300.0) // 3
    cells.obs["share"] = leiden + 0.5
    table = model.differential_expression("leiden", group1="24", n_samples=20)
    assert set(table.comparison) == {"24.0 vs Rest"}
    for key, numbers in (("total", 100), ("share", 25)):
        with pytest.raises(ValueError, match=f"holds {numbers} different numbers.*pandas.cut"):
            model.differential_expression(key, n_samples=20)
