"""A model of single cells on a GPU that is pretended; see `pretended_gpu.py`."""

from typing import Any

import numpy as np
import pytest
from pretended_gpu import pretended

import pyrovae as pv
from pyrovae.singlecell import CellLabels

ADATA = pv.singlecell.simulate(cells=40, genes=12, batches=2, types=2, seed=0).to_anndata()


def results(accelerator: str, folder: Any) -> dict[str, np.ndarray]:
    """Return what a model gives: fitted, saved, loaded and moved again."""
    pv.SingleCellVAE.setup_anndata(ADATA, batch_key="batch")
    fitted = pv.SingleCellVAE(ADATA, n_hidden=8, n_latent=3, seed=0)
    fitted.train(max_epochs=2, batch_size=20, accelerator=accelerator, progress=False)
    fitted.save(folder / accelerator)
    model = pv.SingleCellVAE.load(folder / accelerator, ADATA)
    model.to_device(fitted.device)
    assert model.device.type == {"cpu": "cpu", "gpu": "cuda"}[accelerator]
    labels = CellLabels.from_model(model, "cell_type")
    labels.train(max_epochs=1, progress=False)
    return {
        "latent": model.get_latent_representation(),
        "library": model.get_latent_library_size(),
        "expression": np.asarray(model.get_normalized_expression()),
        "sample": np.asarray(model.posterior_predictive_sample(n_samples=2)),
        "elbo": np.asarray(model.get_elbo()),
        "change": model.differential_expression(groupby="cell_type")["lfc_mean"].to_numpy(),
        "labels": np.asarray(labels.predict(soft=True)),
    }


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_cells_is_that_of_the_cpu(monkeypatch, tmp_path):
    on_cpu = results("cpu", tmp_path)
    with monkeypatch.context() as patch, pretended(patch):
        there = results("gpu", tmp_path)
    for name, value in on_cpu.items():
        if name != "sample":  # counts may differ by one at the edge of an interval
            np.testing.assert_allclose(there[name], value, rtol=1e-2, atol=1e-2, err_msg=name)
    assert there["sample"].shape == on_cpu["sample"].shape
