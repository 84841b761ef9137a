"""Cells as a biologist has them: what is taken as it is meant, and what is refused in words."""

import sys

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
