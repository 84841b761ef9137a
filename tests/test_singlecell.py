"""The AnnData face: scverse's names, genes by name, sparse and dense alike, bad input by the name of its cell or gene, files."""

import numpy as np
import pytest
import torch

from pyrovae.simulation import simulate

anndata = pytest.importorskip("anndata")
from pyrovae.singlecell import SingleCellVAE  # noqa: E402


def cells_like(seed=0, n=80, genes=30, batches=2):
    adata = simulate(cells=n, genes=genes, types=2, batches=batches, seed=seed).to_anndata()
    del adata.layers["rho"]
    return adata


def setup(adata, **keys):
    SingleCellVAE.setup_anndata(adata, batch_key="batch", labels_key="cell_type", **keys)
    return adata


def fitted(adata=None, epochs=2, **options):
    model = SingleCellVAE(setup(cells_like()) if adata is None else adata, n_hidden=8, n_latent=3, **options)
    model.train(max_epochs=epochs, progress=False)
    return model


@pytest.fixture(scope="module")
def model():
    return fitted()


# ------------------------------------------------------------------------------------------------------------------- names
def test_every_question_has_an_answer_of_the_right_shape(model):
    n, genes = model.cells.adata.shape
    assert model.is_trained
    assert sorted([*model.train_indices, *model.validation_indices]) == list(range(n))
    assert model.get_latent_representation().shape == (n, 3)
    assert model.get_latent_library_size().shape == (n, 1)
    assert set(model.get_likelihood_parameters()) == {"mean", "dispersions", "dropout"}
    assert model.posterior_predictive_sample().shape == (n, genes)
    assert model.posterior_predictive_sample(n_samples=3).shape == (n, genes, 3)
    assert model.get_elbo() < model.get_marginal_ll(n_mc_samples=50)
    assert model.get_reconstruction_error()["reconstruction_loss"] > 0
    assert list(model.history["elbo"].index) == [0, 1]
    table = model.differential_expression("cell_type", group1="type 0")
    assert len(table) == genes
    assert table["proba_de"].between(0, 1).all()


def test_normalized_expression(model):
    frame = model.get_normalized_expression()
    np.testing.assert_allclose(frame.sum(1), 1, rtol=1e-4)
    assert list(frame.columns) == list(model.cells.adata.var_names)
    some = model.get_normalized_expression(gene_list=["gene 3", "gene 1"], indices=[4, 2])
    np.testing.assert_allclose(some, frame.iloc[[4, 2]][["gene 3", "gene 1"]], rtol=1e-5)
    as_first, as_second = (model.get_normalized_expression(transform_batch=name) for name in ("batch 0", "batch 1"))
    assert not np.allclose(as_first, as_second)
    both = model.get_normalized_expression(transform_batch=["batch 0", "batch 1"])
    np.testing.assert_allclose(both, (as_first + as_second) / 2, rtol=1e-4)
    out = np.zeros(frame.shape, np.float32)
    assert model.get_normalized_expression(out=out) is out
    np.testing.assert_allclose(out, frame, rtol=1e-5)
    mean = model.get_normalized_expression(library_size="latent")
    np.testing.assert_allclose(mean, model.get_likelihood_parameters()["mean"], rtol=1e-4)


def test_nothing_is_written_to_the_cells(model):
    adata = model.cells.adata
    assert set(adata.uns) == {"_pyrovae_setup"}
    assert not adata.obsm
    assert set(adata.obs) == {"batch", "cell_type", "library"}


def test_untrained_is_refused():
    untrained = SingleCellVAE(setup(cells_like()))
    for question in ("get_latent_representation", "get_elbo", "get_normalized_expression", "posterior_predictive_sample"):
        with pytest.raises(RuntimeError, match="not trained"):
            getattr(untrained, question)()


def test_the_library_is_latent_unless_asked(model):
    observed = fitted(use_observed_lib_size=True)
    totals = np.asarray(observed.cells.adata.X.sum(1))
    np.testing.assert_allclose(observed.get_latent_library_size(), totals, rtol=1e-5)
    assert not np.allclose(model.get_latent_library_size(), totals, rtol=1e-2)


# --------------------------------------------------------------------------------------------------------------- same cells
@pytest.mark.parametrize("form", ["csc", "dense", "layer"])
def test_every_form_of_the_counts_gives_the_same(model, form):
    adata = cells_like()
    x = adata.X
    if form == "layer":
        adata.layers["counts"], adata.X = x, np.log1p(x.toarray())
        setup(adata, layer="counts")
    else:
        adata.X = x.tocsc() if form == "csc" else x.toarray()
        setup(adata)
    np.testing.assert_allclose(fitted(adata).get_latent_representation(), model.get_latent_representation(), rtol=1e-3, atol=1e-4)


def test_genes_are_matched_by_name(model):
    adata = cells_like()
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    np.testing.assert_allclose(model.get_latent_representation(shuffled), model.get_latent_representation(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="gene 29"):
        model.get_latent_representation(adata[:, :29].copy())


def test_files_round_trip(model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(FileExistsError, match="overwrite"):
        model.save(tmp_path / "model")
    again = SingleCellVAE.load(tmp_path / "model", cells_like())
    np.testing.assert_allclose(again.get_latent_representation(), model.get_latent_representation(), rtol=1e-6)
    assert again.get_elbo() == pytest.approx(model.get_elbo())
    (tmp_path / "model" / "cells.json").write_text("{")
    with pytest.raises(ValueError, match="truncated"):
        SingleCellVAE.load(tmp_path / "model")


# ----------------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "gene 7"), (-1.0, "gene 7"), (0.5, "gene 7"), (np.inf, "gene 7")],
)
def test_what_is_no_count_is_named(value, words):
    adata = cells_like()
    x = adata.X.toarray()
    x[11, 7] = value
    adata.X = x
    with pytest.raises(ValueError, match=words) as error:
        SingleCellVAE(setup(adata))
    assert "cell 11" in str(error.value)


def test_log_normalized_data_are_refused():
    adata = cells_like()
    adata.X = np.log1p(adata.X.toarray())
    with pytest.raises(ValueError, match="layer"):
        SingleCellVAE(setup(adata))


def test_keys_and_categories():
    adata = cells_like()
    with pytest.raises(ValueError, match=r"'donor'.*'batch'"):
        SingleCellVAE.setup_anndata(adata, batch_key="donor")
    adata.obs["batch"] = adata.obs["batch"].where(np.arange(adata.n_obs) != 5)
    with pytest.raises(ValueError, match="cell 5"):
        SingleCellVAE(setup(adata))


def test_an_unseen_batch_is_refused_with_the_known_ones(model):
    adata = cells_like(n=10)
    adata.obs["batch"] = "batch 9"
    with pytest.raises(ValueError, match=r"batch 9.*batch 0.*batch 1"):
        model.get_latent_representation(adata)
    with pytest.raises(ValueError, match=r"batch 9.*batch 0"):
        model.get_normalized_expression(transform_batch="batch 9")


def test_genes_that_occur_twice_are_refused():
    adata = cells_like()
    adata.var_names = ["gene 0", *adata.var_names[1:-1], "gene 0"]
    with pytest.raises(ValueError, match="gene 0"):
        SingleCellVAE(setup(adata))


def test_empty_cells_and_a_lonely_batch_are_survived_and_said():
    adata = cells_like()
    x = adata.X.toarray()
    x[:20], x[:, 3] = 0, 0
    adata.X = x
    adata.obs["batch"] = np.where(np.arange(80) == 40, "lonely", "batch 0")
    with pytest.warns(UserWarning, match="gene 3"), pytest.warns(UserWarning, match="cell 0"):
        model = SingleCellVAE(setup(adata), n_hidden=8, n_latent=2)
    with pytest.warns(UserWarning, match="lonely"):
        model.train(max_epochs=2, train_size=1.0, progress=False)
    full = np.log(x[20:].sum(1))
    assert model.graph.library_prior.means[0].item() == pytest.approx(np.delete(full, 20).mean(), rel=1e-4)
    assert np.isfinite(model.get_elbo())


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    fitted()
    assert torch.equal(before, torch.get_rng_state())
