"""`compare`: the right model wins on held-out cells, by paired differences."""

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae.singlecell import simulate

anndata = pytest.importorskip("anndata")
import pandas as pd  # noqa: E402

from pyrovae.singlecell import SingleCellVAE, compare  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")


@pytest.fixture(scope="module")
def models():
    adata = simulate(cells=600, genes=60, types=3, batches=1, seed=2).to_anndata()
    SingleCellVAE.setup_anndata(adata)
    options = {
        "zinb": {},
        "poisson": {"gene_likelihood": "poisson"},
        "observed": {"use_observed_lib_size": True},
    }
    found = {}
    for name, arguments in options.items():
        found[name] = SingleCellVAE(adata, n_hidden=32, n_latent=5, **arguments)
        found[name].train(max_epochs=25, progress=False, train_size=0.8)
    return found


def test_overdispersed_counts_are_no_poisson(models):
    pair = {name: models[name] for name in ("zinb", "poisson")}
    for measure in ("evidence", "thinned"):
        table = compare(pair, measure=measure, n_samples=50)
        assert list(table.index) == ["zinb", "poisson"]
        worse = table.loc["poisson"]
        assert worse["difference"] < -3 * worse["difference_standard_error"]
        assert worse["difference_standard_error"] < worse["standard_error"]
        assert (table["cells"] == 120).all()
        assert table.loc["zinb", "difference"] == 0


def test_evidence_agrees_with_get_marginal_ll(models):
    model = models["zinb"]
    table = compare({"zinb": model}, n_samples=50)
    values = model.get_marginal_ll(
        indices=model.validation_indices, n_mc_samples=50, return_mean=False
    )
    assert table.loc["zinb", "log_p"] == pytest.approx(values.mean(), rel=1e-5)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert table.loc["zinb", "standard_error"] == pytest.approx(error, rel=1e-4)


def test_one_cell_has_no_standard_error(models):
    table = compare({"zinb": models["zinb"]}, indices=[0], n_samples=5)
    assert np.isfinite(table.loc["zinb", "log_p"])
    assert table[["standard_error", "difference_standard_error"]].isna().all(axis=None)


def test_latent_and_observed_libraries_are_compared_by_thinning_only(models):
    with pytest.raises(ValueError, match="measure='thinned'"):
        compare(models)
    table = compare(models, measure="thinned", n_samples=30)
    assert table.index[-1] == "poisson"
    assert abs(table.loc["observed", "log_p"] - table.loc["zinb", "log_p"]) < 20


def test_the_thinned_measure_is_the_predictive_density_of_the_second_half():
    """A Poisson with known mean: thinning gives independent halves with half the mean each."""
    torch.manual_seed(0)
    from pyrovae.singlecell.comparison import _thinned

    x = torch.poisson(torch.full((4000, 3), 6.0))
    first = _thinned(x, torch.Generator().manual_seed(1))
    again = _thinned(x, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    second = x - first
    assert (second >= 0).all()
    assert first.mean().item() == pytest.approx(3, abs=4 * (3 / 12000) ** 0.5)
    correlation = np.corrcoef(first.flatten(), second.flatten())[0, 1]
    assert abs(correlation) < 4 / 12000**0.5


def test_cells_that_all_models_were_trained_on_are_refused(models):
    adata = models["zinb"].adata
    model = SingleCellVAE(adata, n_hidden=8, n_latent=2)
    model.train(max_epochs=1, progress=False, train_size=1.0)
    with pytest.raises(ValueError, match="every cell was trained on"):
        compare({"all": model})
    with pytest.raises(ValueError, match="no model"):
        compare({})
    few = compare({"all": model}, adata=adata[:50].copy(), n_samples=5)
    assert isinstance(few, pd.DataFrame)


def test_the_picture_of_a_comparison_shows_the_table():
    columns = {"difference": [0.0, -3.0], "difference_standard_error": [0.0, 0.5]}
    figure = pv.plots.comparison(pd.DataFrame(columns, index=["zinb", "poisson"]))
    (axis,) = figure.axes
    figure.draw_without_rendering()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["zinb", "poisson"]
    (points,) = [line for line in axis.lines if list(line.get_xdata()) == [0.0, -3.0]]
    assert points is not None
    (bars,) = axis.collections
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[0, 0], [-4, -2]]


def test_models_without_names_are_refused(models):
    with pytest.raises(TypeError, match=r"models is of type SingleCellVAE, .*compare\(\{"):
        compare(models["zinb"])
