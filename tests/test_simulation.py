"""The simulator against its own truth."""

import numpy as np
import pytest
import torch

from pyrovae.singlecell import simulate


def test_means_and_zeros_are_those_of_the_model():
    s = simulate(cells=4000, genes=60, seed=1)
    mu = s.library[:, None] * s.rho
    np.testing.assert_allclose(s.counts.mean(0), (1 - s.dropout) * mu.mean(0), rtol=0.12)
    zero = s.dropout + (1 - s.dropout) * (s.theta / (s.theta + mu)) ** s.theta
    np.testing.assert_allclose((s.counts == 0).mean(0), zero.mean(0), atol=0.03)


def test_same_seed_same_cells_and_no_side_effect():
    before = torch.get_rng_state()
    first, second = simulate(50, 20, seed=3), simulate(50, 20, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first.counts, second.counts)
    assert (first.counts != simulate(50, 20, seed=4).counts).any()


def test_as_anndata():
    pytest.importorskip("anndata")
    adata = simulate(50, 20).to_anndata()
    assert adata.X.format == "csr"
    assert set(adata.obs) == {"batch", "cell_type", "library"}
    np.testing.assert_allclose(adata.layers["rho"].sum(1), 1, rtol=1e-5)


def test_refuses_nothing_to_draw():
    with pytest.raises(ValueError, match="at least 1"):
        simulate(cells=0)
