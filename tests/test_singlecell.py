"""`SingleCellVAE`: scverse's names, all forms of counts, errors that name cell and gene, files."""

import copy
import functools
import json
import os
import re
import shutil
import signal
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import pyrovae as pv
from pyrovae import files, posteriors, priors, programs
from pyrovae.files import FileError
from pyrovae.singlecell import counts, simulate
from pyrovae.training import TrainingError

anndata = pytest.importorskip("anndata")
import pandas as pd  # noqa: E402
from scipy.sparse import csc_matrix, csr_matrix  # noqa: E402

from pyrovae.singlecell import SingleCellVAE  # noqa: E402


def cells_like(seed=0, n=80, genes=30, batches=2):
    adata = simulate(cells=n, genes=genes, types=2, batches=batches, seed=seed).to_anndata()
    del adata.layers["rho"]
    return adata


def setup(adata, **keys):
    SingleCellVAE.setup_anndata(adata, batch_key="batch", labels_key="cell_type", **keys)
    return adata


def fitted(adata=None, epochs=2, **options):
    model = SingleCellVAE(
        setup(cells_like()) if adata is None else adata, n_hidden=8, n_latent=3, **options
    )
    model.train(max_epochs=epochs, progress=False)
    return model


@pytest.fixture(scope="module")
def model():
    return fitted()


# -------------------------------------------------------------------------------------------- names
@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_every_method_returns_the_right_shape(model):
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
    as_first, as_second = (
        model.get_normalized_expression(transform_batch=name) for name in ("batch 0", "batch 1")
    )
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
    for method in (
        "get_latent_representation",
        "get_elbo",
        "get_normalized_expression",
        "posterior_predictive_sample",
    ):
        with pytest.raises(RuntimeError, match=f"{method}: the model is not trained yet"):
            getattr(untrained, method)()
    for attribute in ("history", "fit_history", "train_indices", "validation_indices"):
        with pytest.raises(RuntimeError, match=f"{attribute}: the model is not trained yet"):
            getattr(untrained, attribute)
    assert not untrained.is_trained


def test_the_library_size_is_latent_by_default(model):
    observed = fitted(use_observed_lib_size=True)
    totals = np.asarray(observed.cells.adata.X.sum(1))
    np.testing.assert_allclose(observed.get_latent_library_size(), totals, rtol=1e-5)
    assert not np.allclose(model.get_latent_library_size(), totals, rtol=1e-2)


# --------------------------------------------------------------------------------------- same cells
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
    np.testing.assert_allclose(
        fitted(adata).get_latent_representation(),
        model.get_latent_representation(),
        rtol=1e-3,
        atol=1e-4,
    )


def test_genes_are_matched_by_name(model):
    adata = cells_like()
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    np.testing.assert_allclose(
        model.get_latent_representation(shuffled),
        model.get_latent_representation(),
        rtol=1e-5,
        atol=1e-6,
    )
    with pytest.raises(ValueError, match="gene 29"):
        model.get_latent_representation(adata[:, :29].copy())


def test_files_round_trip(model, tmp_path):
    model.save(tmp_path / "model")
    with pytest.raises(FileExistsError, match="overwrite"):
        model.save(tmp_path / "model")
    again = SingleCellVAE.load(tmp_path / "model", cells_like())
    np.testing.assert_allclose(
        again.get_latent_representation(), model.get_latent_representation(), rtol=1e-6
    )
    assert again.get_elbo() == pytest.approx(model.get_elbo())
    (tmp_path / "model" / "cells.json").write_text("{")
    with pytest.raises(ValueError, match="truncated"):
        SingleCellVAE.load(tmp_path / "model")


def states_while(folder, copies, call, monkeypatch):
    """Return copies of a folder as a process that is killed during a call could leave it."""
    states = []

    def noted(function):
        def wrapper(*args, **kwargs):
            states.append(shutil.copytree(folder, copies / f"{len(states)}"))
            return function(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", noted(os.replace))
        patch.setattr(Path, "unlink", noted(Path.unlink))
        call()
    return [*states, folder]


@pytest.mark.parametrize("same_weights", [False, True])
def test_killed_at_any_moment_saving_leaves_the_old_model_or_the_new(
    tmp_path, monkeypatch, same_weights
):
    """model.json was replaced first: until cells.json was, neither model could be loaded."""
    new = fitted()
    old = SingleCellVAE.load(new.save(tmp_path / "first"))
    old.seed, new.seed = 7, 8
    with torch.no_grad():
        for parameter in old.graph.parameters() if not same_weights else ():
            parameter.mul_(0.5)
    folder = tmp_path / "model"
    old.save(folder, metrics={"which": 7})
    save = functools.partial(new.save, folder, overwrite=True, metrics={"which": 8})
    states = states_while(folder, tmp_path, save, monkeypatch)
    assert len(states) >= 5
    found = []
    for state in states:
        again, metrics = SingleCellVAE.load(state), files.description(state)["metrics"]
        found.append(again.seed)
        assert metrics == {"which": again.seed}
        expected = (old if again.seed == 7 else new).graph.state_dict()
        for name, value in again.graph.state_dict().items():
            assert torch.equal(value, expected[name])
        again.save(state, overwrite=True)  # and it can be saved there again
        assert SingleCellVAE.load(state).seed == again.seed
    assert found == sorted(found)
    assert (found[0], found[-1]) == (7, 8)
    assert len(list(folder.iterdir())) == 3
    assert "before" not in json.loads((folder / "cells.json").read_text())


def test_a_disk_that_is_full_at_cells_json_leaves_the_old_model(model, tmp_path, monkeypatch):
    model.save(tmp_path)
    new, really = fitted(seed=1), os.replace

    def full(source, target):
        if Path(target).name == "cells.json":
            raise OSError(28, "No space left on device")
        really(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"cells\.json cannot be written"):
        new.save(tmp_path, overwrite=True)
    monkeypatch.undo()
    again = SingleCellVAE.load(tmp_path)
    pairs = zip(again.graph.parameters(), model.graph.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_model_saved_within_another_save_is_whole(model, tmp_path, monkeypatch):
    """Its cells.json was overwritten by that of the save that had begun before."""
    new, other, really = fitted(seed=1), fitted(seed=2), os.replace
    model.save(tmp_path)

    def replaced(source, target):
        really(source, target)
        if Path(target).name == "model.json":
            monkeypatch.setattr(os, "replace", really)
            other.save(tmp_path, overwrite=True)

    monkeypatch.setattr(os, "replace", replaced)
    new.save(tmp_path, overwrite=True)
    again = SingleCellVAE.load(tmp_path)
    assert again.seed == other.seed
    pairs = zip(again.graph.parameters(), other.graph.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class OwnPrior(priors.StandardNormal):
    """A part of the user's."""

    def __init__(self, d, spread=1.0):
        super().__init__(d)
        self.spread = spread


def test_a_graph_of_the_users_gets_the_library_prior_that_training_learned(tmp_path):
    """It lay in no weight: the graph to load into kept that of all cells, without a word."""
    model = fitted(prior=OwnPrior(3))
    model.save(tmp_path)

    def new(spread):
        return SingleCellVAE(
            setup(cells_like()), n_hidden=8, n_latent=3, prior=OwnPrior(3, spread)
        ).graph

    graph = new(1.0)
    assert graph.library_prior.mean != model.graph.library_prior.mean
    again = SingleCellVAE.load(tmp_path, cells_like(), into=graph)
    assert again.graph.library_prior.mean == model.graph.library_prior.mean
    assert again.get_elbo() == pytest.approx(model.get_elbo())
    other = new(2.0)
    own = other.library_prior
    with pytest.raises(FileError, match=r"graph\.prior\.spread was 1\.0"):
        SingleCellVAE.load(tmp_path, into=other)
    assert other.library_prior is own


def test_an_edited_encoding_is_refused_by_name(model, tmp_path):
    changes = [
        lambda content: content["encoding"].update(genes=content["encoding"]["genes"][1:]),
        lambda content: content["encoding"].update(genes=["gene 1"] * 30),
        lambda content: content["encoding"].update(batches=["batch 0"]),
        lambda content: content["encoding"].update(labelled=True),
        lambda content: content["encoding"].update(scales={"age": [1.0, 0.0]}),
        lambda content: content["encoding"]["setup"].update(layer=3),
        lambda content: content.update(training=["x"]),
        lambda content: content.update(training=[3, 2]),
        lambda content: content.update(held_out=content["training"][:1]),
        lambda content: content.update(seed=None),
        lambda content: content.pop("encoding"),
    ]
    model.save(tmp_path)
    path = tmp_path / "cells.json"
    kept = json.loads(path.read_text())
    for change in changes:
        content = copy.deepcopy(kept)
        format, _ = content.pop("format"), content.pop("sha256")
        change(content)
        path.write_text(json.dumps(content | {"format": format, "sha256": kept["sha256"]}))
        with pytest.raises(FileError, match=r"cells\.json: altered"):
            SingleCellVAE.load(tmp_path)
        path.write_text(json.dumps(files.sealed(format, content)))  # and the digest again
        with pytest.raises(FileError, match=r"cells\.json"):
            SingleCellVAE.load(tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        dict(prior=priors.Mixture(3, components=4)),
        dict(prior=lambda q: priors.Vamp(q, torch.rand(5, 30), low=0.0)),
        dict(
            posterior=lambda encoder: posteriors.IAF(encoder(2 * 3 + 4), 3, context=4, hidden=(8,))
        ),
        dict(
            posterior=lambda encoder: posteriors.FullRankNormal(encoder(9)), encode_covariates=True
        ),
    ],
    ids=["mixture", "Vamp", "IAF", "full rank"],
)
@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_another_prior_or_posterior_works_and_is_saved(parts, tmp_path):
    model = fitted(**parts)
    assert model.get_latent_representation().shape == (len(model.cells.adata), 3)
    assert model.get_elbo() < model.get_marginal_ll(n_mc_samples=50)
    assert (
        model.differential_expression("cell_type", group1="type 0")["proba_de"].between(0, 1).all()
    )
    model.save(tmp_path / "model")
    again = SingleCellVAE.load(tmp_path / "model", cells_like())
    np.testing.assert_allclose(
        again.get_latent_representation(), model.get_latent_representation(), rtol=1e-5
    )


def test_a_model_saved_by_version_0_1_0_computes_what_it_did():
    """Written at commit 853ea95: 60 cells of 20 genes in 2 batches, with a covariate, 2 epochs."""
    folder = Path(__file__).parent / "fixtures" / "format-1" / "single_cell"
    cells, expected = np.load(folder / "cells.npz"), np.load(folder / "outputs.npz")
    obs = pd.DataFrame({name: cells[name] for name in ("batch", "cell_type", "age")})
    obs.index = [f"cell {n}" for n in range(len(obs))]
    var = pd.DataFrame(index=[f"gene {g}" for g in range(cells["counts"].shape[1])])
    adata = anndata.AnnData(cells["counts"].astype(np.float32), obs=obs, var=var)
    model = SingleCellVAE.load(folder / "model", adata)
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(model.get_latent_representation(), expected["latent"], **close)
    expression = model.get_normalized_expression(return_numpy=True)
    np.testing.assert_allclose(expression, expected["expression"], **close)
    np.testing.assert_allclose(model.get_latent_library_size(), expected["library"], **close)
    np.testing.assert_allclose(model.get_elbo(return_mean=False), expected["elbo"], **close)
    np.testing.assert_array_equal(model.train_indices, expected["training"])
    np.testing.assert_array_equal(model.validation_indices, expected["validation"])
    np.testing.assert_array_equal(model.history["elbo"]["elbo"], expected["history"])


# ---------------------------------------------------------------------------- untrained, and loaded
def test_the_library_prior_of_an_untrained_model_is_that_of_its_cells():
    adata = setup(cells_like())
    log_totals = np.log(np.asarray(adata.X.sum(1)).ravel())
    prior = SingleCellVAE(adata, n_hidden=8, n_latent=3).graph.library_prior
    for s, name in enumerate(["batch 0", "batch 1"]):
        of_batch = log_totals[(adata.obs["batch"] == name).to_numpy()]
        assert prior.means[s].item() == pytest.approx(of_batch.mean(), rel=1e-5)
        assert prior.deviations[s].item() == pytest.approx(of_batch.std(), rel=1e-5)


def test_training_sets_the_library_prior_to_that_of_the_training_cells(model):
    adata = model.cells.adata
    log_totals = np.log(np.asarray(adata.X.sum(1)).ravel())
    training = np.isin(np.arange(adata.n_obs), model.train_indices)
    for s, name in enumerate(["batch 0", "batch 1"]):
        of_batch = log_totals[(adata.obs["batch"] == name).to_numpy() & training]
        assert model.graph.library_prior.means[s].item() == pytest.approx(of_batch.mean(), rel=1e-5)


def test_a_loaded_model_holds_what_the_saved_one_held(model, tmp_path):
    model.save(tmp_path / "model", metrics={"cells": 80})
    adata = cells_like()
    loaded = SingleCellVAE.load(tmp_path / "model", adata)
    assert type(loaded) is SingleCellVAE
    assert vars(loaded).keys() == vars(model).keys()
    assert loaded.cells.encoding == model.cells.encoding
    assert (loaded.seed, loaded.is_trained) == (model.seed, True)
    assert loaded.fit_history.to_dict() == model.fit_history.to_dict()
    np.testing.assert_array_equal(loaded.train_indices, model.train_indices)
    loaded.train(max_epochs=1, progress=False)
    assert len(loaded.history["elbo"]) == len(model.history["elbo"]) + 1
    with pytest.raises(ValueError, match="loaded without cells"):
        SingleCellVAE.load(tmp_path / "model").get_elbo()


def test_warnings_point_at_the_line_of_the_user():
    adata = cells_like()
    x = adata.X.toarray()
    x[:5] = 0
    adata.X = x
    adata.obs["batch"] = np.where(np.arange(80) == 40, "lonely", "batch 0")
    with pytest.warns(UserWarning, match="5 cells have no counts") as caught:
        model = SingleCellVAE(setup(adata), n_hidden=8, n_latent=2)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="lonely") as caught:
        model.train(max_epochs=1, train_size=1.0, progress=False)
    assert [warning.filename for warning in caught] == [__file__]


# ---------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "gene 7"), (-1.0, "gene 7"), (0.5, "gene 7"), (np.inf, "gene 7")],
)
def test_a_value_that_is_not_a_count_is_named_by_cell_and_gene(value, words):
    adata = cells_like()
    x = adata.X.toarray()
    x[11, 7] = value
    adata.X = x
    with pytest.raises(ValueError, match=words) as error:
        SingleCellVAE(setup(adata))
    assert "cell 11" in str(error.value)


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix, np.asarray], ids=["csr", "csc", "dense"])
def test_whole_numbers_with_rounding_errors_are_counts(form):
    """61 in cell 'c0', gene 'g0', was called not a whole number."""
    adata = cells_like()
    x = adata.X.toarray().astype(np.float64)
    adata.X = form(x * (1 + 1e-12))
    model = SingleCellVAE(setup(adata))
    np.testing.assert_array_equal(model.cells.data[0][:], x)
    x[3, 5] = 61.00001
    adata.X = form(x)
    with pytest.raises(ValueError, match=r"61\.00001\d* in cell 'cell 3', gene 'gene 5'"):
        SingleCellVAE(setup(adata))


@pytest.mark.parametrize("kind", [np.float64, np.int64, np.float32])
def test_counts_that_single_precision_cannot_hold_are_refused(kind):
    adata = cells_like()
    x = adata.X.toarray().astype(kind)
    x[3, 5] = 2**24 - 1
    adata.X = x
    assert SingleCellVAE(setup(adata)).cells.data[0][3, 5] == 2**24 - 1
    x[3, 5] = 2**24 + 1
    adata.X = csr_matrix(x)
    with pytest.raises(ValueError, match=r"in cell 'cell 3', gene 'gene 5': no cell has 2\^24"):
        SingleCellVAE(setup(adata))


@pytest.mark.parametrize("layer", [None, "counts"])
def test_masked_counts_are_refused(layer):
    adata = cells_like()
    x = np.ma.array(adata.X.toarray(), mask=np.zeros(adata.shape, bool))
    adata.layers["counts"] = adata.X = x
    SingleCellVAE(setup(adata, layer=layer))  # nothing is masked
    x = x.copy()
    x[3, 5] = np.ma.masked
    adata.layers["counts"] = adata.X = x
    where = r"adata\.X" if layer is None else r"adata\.layers\['counts'\]"
    with pytest.raises(ValueError, match=rf"{where} has masked values.*\.filled\(0\)"):
        SingleCellVAE(setup(adata, layer=layer))


def test_adata_raw_is_told_how_it_becomes_an_anndata(model):
    adata = cells_like()
    adata.raw = adata
    for call in (model.get_latent_representation, model.get_elbo):
        with pytest.raises(TypeError, match=r"got a Raw: adata\.raw\.to_adata\(\) makes one"):
            call(adata.raw)
        with pytest.raises(TypeError, match="got a ndarray"):
            call(np.ones((3, 30)), indices=[0])


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


def test_a_new_batch_and_a_new_category_are_told_to_be_mapped():
    adata = cells_like()
    adata.obs["sex"] = np.where(np.arange(80) % 2, "f", "m")
    model = fitted(setup(adata, categorical_covariate_keys=["sex"]), dispersion="gene-label")
    other = cells_like(n=20)
    other.obs["sex"], other.obs["batch"] = "f", "batch 9"
    with pytest.raises(ValueError, match=r"batch 9.*by SingleCellVAE\.load_query_data"):
        model.get_latent_representation(other)
    other.obs["batch"], other.obs["sex"] = "batch 0", "unknown"
    words = r"sex.*'unknown'.*cells of a new category.*by SingleCellVAE\.load_query_data"
    with pytest.raises(ValueError, match=words):
        model.get_latent_representation(other)


def test_a_bound_takes_more_draws_and_another_seed(model):
    for method, value in (
        (model.get_elbo, lambda bound: bound),
        (model.get_reconstruction_error, lambda terms: terms["reconstruction_loss"]),
    ):

        def draws(method=method, value=value, **options):
            return value(method(return_mean=False, **options))

        first = draws()
        np.testing.assert_array_equal(first, draws(seed=0))
        assert not np.array_equal(first, draws(seed=1))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            assert not np.array_equal(draws(seed=None), draws(seed=None))
        # The variance of a mean of 25 draws is a 25th.
        single = np.var(np.stack([draws(seed=s) for s in range(8)]), axis=0, ddof=1).mean()
        many = np.stack([draws(seed=s, n_mc_samples=25) for s in range(8)])
        assert np.var(many, axis=0, ddof=1).mean() < single / 10


def test_cells_of_equal_names_are_warned_of_once():
    """Two blocks of cells with the same names can be swapped, and no name tells."""
    half = cells_like(n=40)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        both = anndata.concat([half, half])
    with pytest.warns(
        UserWarning, match=r"not unique \('cell 0', .* 35 more\).*make_unique"
    ) as said:
        setup(both)
    assert [warning.filename for warning in said] == [__file__]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        model = fitted(both, epochs=1)
        model.get_latent_representation()
    both.obs_names_make_unique()
    setup(both)  # warnings are errors


def test_genes_that_occur_twice_are_refused():
    adata = cells_like()
    adata.var_names = ["gene 0", *adata.var_names[1:-1], "gene 0"]
    with pytest.raises(ValueError, match="gene 0"):
        SingleCellVAE(setup(adata))


def test_empty_cells_and_a_batch_of_one_cell_only_warn():
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
    assert model.graph.library_prior.means[0].item() == pytest.approx(
        np.delete(full, 20).mean(), rel=1e-4
    )
    assert np.isfinite(model.get_elbo())


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    fitted()
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------------- backed files
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_a_backed_file_gives_the_same(model, form, tmp_path):
    adata = cells_like()
    if form == "dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert backed.isbacked
    again = fitted(setup(backed))
    np.testing.assert_allclose(
        again.get_latent_representation(), model.get_latent_representation(), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(model.get_elbo(backed), model.get_elbo(), rtol=1e-6)
    backed.file.close()


def test_a_backed_file_is_checked_to_its_last_row(tmp_path, monkeypatch):

    monkeypatch.setattr(counts, "_READ_AT_ONCE", 32)
    adata = cells_like()
    x = adata.X.toarray()
    x[79, 29] = -3
    adata.X = x
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match="-3 in cell 'cell 79', gene 'gene 29'"):
        SingleCellVAE(setup(backed))
    backed.file.close()


@pytest.mark.parametrize("form", ["CSR", "CSC", "dense", "layer", "backed", "backed, dense"])
def test_only_the_cells_asked_for_are_read(model, form, tmp_path):
    """Other cells are invalid, one in its counts and one in its batch; they are not looked at."""
    adata = cells_like()
    expected = model.get_latent_representation(adata)
    frame = model.get_normalized_expression(adata)
    x = adata.X.toarray()
    x[70, 7] = 0.5
    adata.obs["batch"] = adata.obs["batch"].where(np.arange(80) != 71, "batch 9")
    forms = {"CSC": csc_matrix, "dense": np.asarray, "backed, dense": np.asarray}
    adata.X = forms.get(form, csr_matrix)(x)
    mine = model
    if form == "layer":
        adata.layers["counts"], adata.X = adata.X, np.log1p(x)
        reference = cells_like()
        reference.layers["counts"] = reference.X
        mine = fitted(setup(reference, layer="counts"))
    if form.startswith("backed"):
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    mask = np.isin(np.arange(80), [3, 11, 69])
    for indices in ([69, 3, 11], [5, 5, -80, 2], mask, [60]):
        z = mine.get_latent_representation(adata, indices)
        np.testing.assert_allclose(z, expected[indices], rtol=1e-4, atol=1e-5)
        rho = mine.get_normalized_expression(adata, indices)
        assert list(rho.index) == list(adata.obs_names[indices])
        np.testing.assert_allclose(rho, frame.iloc[indices], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"0\.5 in cell 'cell 70', gene 'gene 7'"):
        mine.get_elbo(adata, [2, 70])
    with pytest.raises(ValueError, match=r"batch 9.*first in cell 'cell 71'"):
        mine.get_elbo(adata, [2, 71])
    with pytest.raises(ValueError, match="expected row numbers below 80 or a mask of 80"):
        mine.get_elbo(adata, [80])
    if adata.isbacked:
        adata.file.close()


# ------------------------------------------------------------------------ dispersion and covariates
def test_dispersion_by_label_takes_the_cell_s_own():
    adata = setup(cells_like())
    model = fitted(adata, dispersion="gene-label")
    labels = adata.obs["cell_type"].to_numpy()
    theta = model.get_likelihood_parameters()["dispersions"]
    rows = np.exp(model.graph.likelihood.log_theta.detach().numpy())
    assert rows.shape == (2, adata.n_vars)
    assert not np.allclose(rows[0], rows[1], rtol=1e-2)
    for k, name in enumerate(["type 0", "type 1"]):
        np.testing.assert_allclose(
            theta[labels == name], np.broadcast_to(rows[k], theta[labels == name].shape), rtol=1e-4
        )
    other = adata.copy()
    other.obs["cell_type"] = "type 0"
    np.testing.assert_allclose(
        model.get_latent_representation(other),
        model.get_latent_representation(),
        rtol=1e-5,
        atol=1e-6,
    )
    assert not np.isclose(model.get_elbo(other), model.get_elbo())
    other.obs["cell_type"] = "type 7"
    theta = model.get_likelihood_parameters(other)["dispersions"]  # of neither: their mean
    np.testing.assert_allclose(theta[0], np.sqrt(rows[0] * rows[1]), rtol=1e-4)


def test_dispersion_by_label_needs_labels():
    adata = cells_like()
    SingleCellVAE.setup_anndata(adata, batch_key="batch")
    with pytest.raises(ValueError, match="labels_key"):
        SingleCellVAE(adata, dispersion="gene-label")


def test_dispersion_by_cell_differs_between_cells(tmp_path):
    adata = setup(cells_like())
    model = fitted(adata, dispersion="gene-cell")
    theta = model.get_likelihood_parameters()["dispersions"]
    assert theta.shape == adata.shape
    assert (theta > 0).all()
    assert (theta.std(0) / theta.mean(0)).min() > 1e-4
    model.save(tmp_path / "model")
    again = SingleCellVAE.load(tmp_path / "model", adata)
    np.testing.assert_allclose(again.get_likelihood_parameters()["dispersions"], theta, rtol=1e-5)


def with_covariates(adata):
    n = adata.n_obs
    adata.obs["site"] = np.array(["ant", "bee", "cat"])[np.arange(n) % 3]
    adata.obs["age"] = np.linspace(20, 80, n)
    SingleCellVAE.setup_anndata(
        adata,
        batch_key="batch",
        categorical_covariate_keys=["site"],
        continuous_covariate_keys=["age"],
    )
    return adata


def test_covariates_reach_the_decoder_and_are_scaled_on_the_training_cells(tmp_path):
    adata = with_covariates(cells_like())
    model = fitted(adata)
    assert model.cells.data[1].shape == (80, 2 + 3 + 1)
    ages = adata.obs["age"].to_numpy()
    training = ages[model.train_indices]
    np.testing.assert_allclose(
        model.cells.data[1][:, -1], (ages - training.mean()) / training.std(), rtol=1e-5
    )
    np.testing.assert_allclose(model.cells.data[1][:, 2:5].argmax(1), np.arange(80) % 3)
    own = model.get_normalized_expression(return_numpy=True)
    for key, value in (("site", "ant"), ("age", 95.0)):
        changed = adata.copy()
        changed.obs[key] = value
        np.testing.assert_allclose(
            model.get_latent_representation(changed), model.get_latent_representation(), atol=1e-6
        )
        assert (
            np.abs(model.get_normalized_expression(changed, return_numpy=True) - own).max() > 1e-5
        ), key
    model.save(tmp_path / "model")
    assert SingleCellVAE.load(tmp_path / "model", adata).get_elbo() == pytest.approx(
        model.get_elbo()
    )


def test_columns_that_are_edited_after_the_model_was_made_do_not_reach_it():
    """With a continuous covariate, training read all columns again, beside the counts of before."""
    adata = with_covariates(cells_like())
    model = SingleCellVAE(adata, n_hidden=8, n_latent=3, dispersion="gene")
    before = model.cells.data[1].clone()
    adata.obs["batch"], adata.obs["site"], adata.obs["age"] = "batch 0", "ant", 0.0
    model.train(max_epochs=1, progress=False)
    after = model.cells.data[1]
    assert torch.equal(after[:, :-1], before[:, :-1])
    ages = np.linspace(20, 80, 80)
    training = ages[model.train_indices]
    np.testing.assert_allclose(after[:, -1], (ages - training.mean()) / training.std(), rtol=1e-5)


def test_covariates_stand_between_batches_and_labels_when_they_are_scaled_again():
    adata = with_covariates(cells_like())
    setup(
        adata,
        categorical_covariate_keys=["site"],
        continuous_covariate_keys=["age", "library"],
    )
    model = fitted(adata, dispersion="gene-label")
    assert torch.equal(model.cells.data[1], model.cells.encoding.context(adata))


def test_a_value_far_from_all_others_is_named():
    adata = with_covariates(cells_like())
    adata.obs.loc["cell 7", "age"] = 1e12
    with pytest.warns(UserWarning, match=r"obs\['age'\] is 1e\+12 in cell 'cell 7', so far"):
        SingleCellVAE(adata)
    adata.obs["age"] = np.random.default_rng(0).lognormal(0, 3, 80)
    SingleCellVAE(adata)  # warnings are errors


def test_a_continuous_column_is_no_batch():
    adata = cells_like()
    adata.obs["batch"] = np.linspace(0, 1, 80)
    with pytest.raises(ValueError, match=r"obs\['batch'\] holds 80 different numbers.*continuous_"):
        SingleCellVAE(setup(adata))
    adata.obs["batch"] = np.arange(80) % 40.0  # donors, some of which were missing once
    SingleCellVAE(setup(adata))


@pytest.mark.parametrize("form", [csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_genes_that_a_batch_lacks_after_an_outer_join_are_warned_of(form):
    parts = [cells_like(seed=s, n=100, genes=60, batches=1) for s in range(3)]
    for part in parts:
        part.X = form(part.X.toarray())
    few, many = (
        anndata.concat(
            [parts[0], parts[1][:, lacking:].copy(), parts[2]],
            join="outer",
            label="batch",
            keys=list("abc"),
            index_unique="-",
            fill_value=0,
        )
        for lacking in (9, 40)
    )
    SingleCellVAE(setup(few))  # warnings are errors
    words = r"\d\d of 60 genes have no counts in batch 'b', but many in others: 'gene "
    with pytest.warns(UserWarning, match=words):
        SingleCellVAE(setup(many))
    small = many[np.r_[:119, 200:300]].copy()  # 19 cells of batch b
    SingleCellVAE(setup(small))


def test_a_number_that_is_also_there_as_text_is_warned_of():
    adata = cells_like()
    adata.obs["batch"] = pd.Series([1, "1", 2, 2] * 20, adata.obs_names, dtype=object)
    with pytest.warns(UserWarning, match=r"obs\['batch'\] holds '1' both as numbers and as text"):
        model = SingleCellVAE(setup(adata))
    assert model.registry["batches"] == ["1", "2"]


def test_encoders_see_covariates_on_request():
    adata = with_covariates(cells_like())
    model = fitted(adata, encode_covariates=True)
    changed = adata.copy()
    changed.obs["age"] = 95.0
    assert not np.allclose(
        model.get_latent_representation(changed), model.get_latent_representation(), atol=1e-4
    )


def test_covariates_that_cannot_be_used_are_refused():
    model = fitted(with_covariates(cells_like()))
    adata = with_covariates(cells_like())
    adata.obs["site"] = "dog"
    with pytest.raises(ValueError, match=r"dog.*ant.*bee.*cat"):
        model.get_elbo(adata)
    adata = with_covariates(cells_like())
    adata.obs["age"] = adata.obs["age"].where(np.arange(80) != 7)
    with pytest.raises(ValueError, match=r"'age'.*missing or infinite in 1 cells: 'cell 7'"):
        SingleCellVAE(adata)


# -------------------------------------------------------------------- validation, interrupt, resume
def test_validation_cells_are_drawn_from_the_whole_file():
    """A file lies sorted by batch: the held-out cells must not be its first rows."""
    model = SingleCellVAE(setup(cells_like(n=400)), n_hidden=4, n_latent=2)
    model.train(max_epochs=1, train_size=0.6, validation_size=0.2, progress=False)
    held_out = model.validation_indices
    assert (len(model.train_indices), len(held_out)) == (240, 80)
    assert not set(held_out) & set(model.train_indices)
    others = np.setdiff1d(np.arange(400), np.concatenate([held_out, model.train_indices]))
    # The difference of the mean rows has a standard deviation of 18 where the 80 cells are drawn at
    # random from the 160; between the first and the last 80 it would be 200.
    assert abs(held_out.mean() - others.mean()) < 80


def interrupt(history):
    if len(history.elbo) == 2:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_leaves_a_usable_model_that_resumes_exactly(tmp_path):
    adata, plan = setup(cells_like()), {"max_epochs": 4, "progress": False, "batch_size": 16}
    whole, stopped, resumed = (SingleCellVAE(adata, n_hidden=8, n_latent=3) for _ in range(3))
    whole.train(**plan)
    history = stopped.train(**plan, callback=interrupt, checkpoint=tmp_path / "state")
    assert history.stopped == "interrupted"
    assert len(history.elbo) == 2
    assert np.isfinite(stopped.get_latent_representation()).all()
    stopped.save(tmp_path / "model")
    loaded = SingleCellVAE.load(tmp_path / "model", adata)
    assert loaded.get_elbo() == pytest.approx(stopped.get_elbo())
    history = resumed.train(**plan, resume=tmp_path / "state")
    assert len(history.elbo) == 4
    for name, value in whole.graph.state_dict().items():
        assert torch.equal(value, resumed.graph.state_dict()[name]), name


def test_divergence_leaves_the_last_good_weights():
    model = SingleCellVAE(setup(cells_like()), n_hidden=8, n_latent=3)
    with pytest.raises(TrainingError):
        model.train(max_epochs=3, lr=1e30, batch_size=16, progress=False)
    assert model.is_trained
    assert all(torch.isfinite(value).all() for value in model.graph.state_dict().values())


# -------------------------------------------------------------------------- any bad value, anywhere
@settings(max_examples=30, deadline=None)
@given(
    row=st.integers(0, 79),
    gene=st.integers(0, 29),
    value=st.one_of(
        st.floats(-1e6, -1e-3),
        st.floats(0.001, 0.999),
        st.sampled_from([np.nan, np.inf, -np.inf]),
        st.floats(7.01, 7.99),
    ),
    form=st.sampled_from(["csr", "csc", "dense", "layer"]),
)
def test_any_value_that_is_not_a_count_is_named_by_cell_and_gene(row, gene, value, form):
    adata = cells_like()
    x = adata.X.toarray()
    x[row, gene] = value
    if form == "layer":
        adata.layers["counts"] = x
    else:
        adata.X = {"csr": csr_matrix, "csc": csc_matrix, "dense": np.asarray}[form](x)
    with pytest.raises(ValueError, match=re.escape(f"in cell 'cell {row}', gene 'gene {gene}'")):
        SingleCellVAE(setup(adata, layer="counts" if form == "layer" else None))


@settings(max_examples=20, deadline=None)
@given(
    x=arrays(
        np.int64, st.tuples(st.integers(2, 6), st.integers(1, 5)), elements=st.integers(0, 10**6)
    ),
    seed=st.integers(0, 100),
)
def test_any_counts_are_accepted_or_refused_before_training(x, seed):
    """No NaN, and no error but the one that says what is wrong."""
    obs = pd.DataFrame(
        {"batch": ["a" if i % 2 else "b" for i in range(len(x))]},
        index=[f"cell {i}" for i in range(len(x))],
    )
    adata = anndata.AnnData(
        x.astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=[f"gene {g}" for g in range(x.shape[1])]),
    )
    SingleCellVAE.setup_anndata(adata, batch_key="batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if not x.any():
            with pytest.raises(ValueError, match="every value is zero"):
                SingleCellVAE(adata)
            return
        model = SingleCellVAE(adata, n_hidden=4, n_latent=2, seed=seed)
        model.train(max_epochs=1, train_size=1.0, progress=False)
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.get_elbo())


# ------------------------------------------------------------------------- what happens to the data
@pytest.mark.parametrize("form", [csr_matrix, csc_matrix, np.asarray], ids=["csr", "csc", "dense"])
def test_what_is_done_to_an_anndata_in_place_does_not_reach_the_model(form):
    adata = setup(cells_like())
    adata.X = form(adata.X.toarray().astype(np.float32))
    model = fitted(adata)
    z, elbo = model.get_latent_representation(), model.get_elbo()
    values = adata.X if isinstance(adata.X, np.ndarray) else adata.X.data
    np.log1p(values, out=values)  # as scanpy does
    np.testing.assert_array_equal(model.get_latent_representation(), z)
    assert model.get_elbo() == elbo


def test_cells_dropped_in_place_are_noticed():
    model = fitted()
    adata = model.cells.adata
    z = model.get_latent_representation(adata=adata[:50].copy())
    adata._inplace_subset_obs(np.arange(50))
    for method in (
        model.get_latent_representation,
        lambda: model.differential_expression("cell_type"),
    ):
        with pytest.raises(
            ValueError, match="made of 80 cells, but its AnnData was changed in place and has 50"
        ):
            method()
    np.testing.assert_allclose(
        model.get_latent_representation(adata=adata), z, rtol=1e-5, atol=1e-6
    )


def test_genes_dropped_in_place_are_noticed():
    model = fitted()
    model.cells.adata._inplace_subset_var(np.arange(20))
    with pytest.raises(ValueError, match=r"made of 30 genes, but its AnnData .* has 20"):
        model.get_normalized_expression()


def test_a_large_table_is_dense_one_minibatch_at_a_time(monkeypatch):
    from pyrovae.data import SparseRows

    adata = setup(cells_like(n=3000))
    model = fitted(adata, epochs=1)
    most, gather, alive = [], SparseRows.__getitem__, []

    def counting(self, rows):
        dense = gather(self, rows)
        alive.append(weakref.ref(dense))
        most.append(sum(len(part()) for part in alive if part() is not None))
        return dense

    monkeypatch.setattr(SparseRows, "__getitem__", counting)
    model.get_latent_representation()
    model.get_latent_library_size()
    assert max(most) <= 2 * 1024 < 3000


def test_another_batch_is_refused_by_a_model_of_one():
    adata = cells_like()
    adata.obs["batch"] = "only"
    model = fitted(setup(adata))
    other = adata.copy()
    other.obs["batch"] = "other"
    with pytest.raises(ValueError, match=r"'other' was not there in training.*knows 'only'"):
        model.get_latent_representation(other)


def test_labels_do_not_reach_the_encoder():
    model = fitted(dispersion="gene-label", encode_covariates=True)
    other = model.cells.adata.copy()
    other.obs["cell_type"] = other.obs["cell_type"].to_numpy()[::-1]
    np.testing.assert_array_equal(
        model.get_latent_representation(other), model.get_latent_representation()
    )
    other.obs["batch"] = other.obs["batch"].to_numpy()[::-1]
    assert not np.allclose(
        model.get_latent_representation(other), model.get_latent_representation()
    )


def test_labels_that_do_not_enter_the_model_may_be_missing():
    adata = cells_like()
    adata.obs["cell_type"] = [
        None if i % 3 == 0 else name for i, name in enumerate(adata.obs["cell_type"])
    ]
    model = fitted(setup(adata))
    assert model.cells.encoding.labels == ["type 0", "type 1"]
    table = model.differential_expression("cell_type", n_samples=50)
    assert set(table["comparison"]) == {"type 0 vs Rest", "type 1 vs Rest"}
    labelled = adata[adata.obs["cell_type"].notna()]
    rest = labelled[labelled.obs["cell_type"] == "type 1"].X.toarray().mean(0)
    first = table[table["comparison"] == "type 0 vs Rest"].loc[list(adata.var_names), "raw_mean2"]
    np.testing.assert_allclose(first, rest, rtol=1e-5)
    assert set(
        model.differential_expression("cell_type", group2="type 0", n_samples=50)["comparison"]
    ) == {"type 1 vs type 0"}
    with pytest.raises(ValueError, match="is missing in 27 cells"):
        SingleCellVAE(adata, dispersion="gene-label")


def test_a_constant_covariate_is_not_divided_by_its_rounding_error():
    adata = cells_like()
    adata.obs["age"] = 0.1
    SingleCellVAE.setup_anndata(adata, continuous_covariate_keys=["age"])
    model = fitted(adata)
    assert model.cells.encoding.scales["age"][1] == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.get_normalized_expression(n_samples=0), "n_samples is 0"),
        (lambda m: m.posterior_predictive_sample(n_samples=0), "n_samples is 0"),
        (lambda m: m.get_normalized_expression(n_samples=2.0), "n_samples is 2.0"),
        (lambda m: m.get_normalized_expression(n_samples=None), "n_samples is None"),
        (lambda m: m.get_normalized_expression(library_size=None), "library_size is None"),
        (
            lambda m: m.get_normalized_expression(library_size=np.ones(900)),
            r"^library_size is .{1,40}, expected one number above 0",
        ),
        (lambda m: m.get_elbo(indices=m.test_indices), "got no cell.*test_indices.*: lower them"),
        (lambda m: m.get_latent_representation(indices=[]), "indices: .* got no cell"),
        (lambda m: m.get_elbo(indices=np.zeros(80, bool)), "indices: .* got no cell"),
        (
            lambda m: m.get_latent_representation(indices=m.adata.obs_names[:3]),
            r"shape \(3,\)\. Names .* adata\.obs_names\.get_indexer",
        ),
        (
            lambda m: m.get_normalized_expression(gene_list="gene 1"),
            r"expected a list of genes: \['gene 1'\]",
        ),
        (lambda m: m.get_normalized_expression(transform_batch=[]), "transform_batch is empty"),
        (
            lambda m: m.get_normalized_expression(transform_batch=np.int64(7)),
            "batch '7' is unknown",
        ),
        (lambda m: m.get_elbo(n_mc_samples=0), "get_elbo: n_mc_samples is 0"),
        (lambda m: m.get_elbo(n_mc_samples=2.0), "get_elbo: n_mc_samples is 2.0"),
        (
            lambda m: m.get_reconstruction_error(n_mc_samples=0),
            "get_reconstruction_error: n_mc_samples is 0",
        ),
        (lambda m: m.get_marginal_ll(n_mc_samples=0), "get_marginal_ll: n_mc_samples is 0"),
        (lambda m: m.differential_expression("cell_type", fdr_target=5), "fdr_target is 5"),
        (lambda m: m.differential_expression("cell_type", delta=-1), "delta -1"),
        (lambda m: m.train(max_epochs=1.5), "max_epochs is 1.5"),
        (lambda m: m.train(lr=0), "lr 0"),
        (lambda m: SingleCellVAE(m.cells.adata, n_latent=0), "n_latent 0"),
        (
            lambda m: SingleCellVAE(m.cells.adata, prior=priors.Mixture(7, 2)),
            "prior and posterior do not fit each other.*n_latent is 10",
        ),
        (
            lambda m: SingleCellVAE(m.cells.adata, prior=priors.StandardNormal(1)),
            r"z has shape \(1,\) under the prior, \(10,\) under the posterior",
        ),
        (
            lambda m: SingleCellVAE(
                m.cells.adata, posterior=lambda encoder: posteriors.DiagonalNormal(encoder(6))
            ),
            "prior and posterior do not fit each other.*n_latent is 10",
        ),
        (lambda m: SingleCellVAE(m.cells.adata, dispersion="cell"), "dispersion is 'cell'.*'gene-"),
        (lambda m: SingleCellVAE(m.cells.adata, gene_likelihood="normal"), "is 'normal'.*'zinb'"),
    ],
)
def test_arguments_out_of_range_are_named(model, call, words):
    with pytest.raises(ValueError, match=words):
        call(model)


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_genes_that_are_called_changed_are_so(seed):
    truth = simulate(cells=1000, genes=200, types=2, seed=seed)
    adata = setup(truth.to_anndata())
    model = SingleCellVAE(adata, n_hidden=64)
    model.train(max_epochs=60, progress=False)
    first = (adata.obs["cell_type"] == "type 0").to_numpy()
    change = np.log2(truth.rho[first].mean(0) + 1e-6) - np.log2(truth.rho[~first].mean(0) + 1e-6)
    changed = np.abs(change) > 0.25
    for mode in ("change", "vanilla"):
        table = model.differential_expression("cell_type", "type 0", "type 1", mode=mode).loc[
            list(adata.var_names)
        ]
        called = table["is_de_fdr_0.05"].to_numpy()
        assert (called & (change > 0.5)).any()
        assert (called & (change < -0.5)).any()
        assert (np.sign(table["lfc_median"]) == np.sign(change))[called & changed].all()
        if mode == "change":
            assert (called & ~changed).sum() <= 0.05 * called.sum()
            assert (called & changed).sum() >= 0.3 * changed.sum()


def high_middle_low(seed, cells=900, genes=60, steps=8):
    """Three types; the first `steps` genes are high in A, low in B and in the middle in C."""
    random = np.random.default_rng(seed)
    kind = random.integers(3, size=cells)
    rho = np.exp(0.5 * random.standard_normal(genes)) * np.ones((cells, 1))
    rho[:, :steps] *= np.array([8.0, 1 / 8, 1.0])[kind][:, None]
    for k in range(3):  # markers, by which the types can be told apart
        rho[:, 10 + 5 * k : 15 + 5 * k] *= np.where(kind == k, 6.0, 1.0)[:, None]
    rho /= rho.sum(1, keepdims=True)
    x = random.poisson(2000 * rho).astype(np.float32)
    obs = pd.DataFrame({"type": np.array(["A", "B", "C"])[kind]}, index=map(str, range(cells)))
    var = pd.DataFrame(index=[f"gene {g}" for g in range(genes)])
    return anndata.AnnData(x, obs=obs, var=var)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_group_in_the_middle_of_mixed_cells_is_not_called_changed(seed):
    """|lfc| exceeds delta in every pair, but up in half of them and down in the others."""
    adata = high_middle_low(seed)
    SingleCellVAE.setup_anndata(adata)
    model = SingleCellVAE(adata, n_hidden=32, n_latent=4, use_observed_lib_size=True)
    model.train(max_epochs=60, progress=False)
    middle = [f"gene {g}" for g in range(8)]
    called = {}
    for test_mode in ("three", "two"):
        table = model.differential_expression("type", "C", test_mode=test_mode)
        called[test_mode] = table.loc[middle, "is_de_fdr_0.05"].sum()
    assert called == {"three": 0, "two": 8}
    for group, sign in (("A", 1), ("B", -1)):
        table = model.differential_expression("type", group).loc[middle]
        assert table["is_de_fdr_0.05"].all()
        assert (np.sign(table["lfc_median"]) == sign).all()


def test_the_table_of_differential_expression_agrees_with_the_counts(model):
    adata = model.cells.adata
    first = (adata.obs["cell_type"] == "type 0").to_numpy()
    by_name = model.differential_expression("cell_type", ["type 0"], n_samples=200)
    by_mask = model.differential_expression(idx1=first, n_samples=200)
    by_rows = model.differential_expression(idx1=first.nonzero()[0], idx2=~first, n_samples=200)
    by_query = model.differential_expression(idx1="cell_type == 'type 0'", n_samples=200)
    numbers = [name for name in by_name if by_name[name].dtype.kind in "fb"]
    for other in (by_mask, by_rows, by_query):
        assert by_name[numbers].equals(other[numbers])
    table = by_name.loc[list(adata.var_names)]
    x = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    for i, rows in ((1, first), (2, ~first)):
        group = x[rows]
        np.testing.assert_allclose(table[f"raw_mean{i}"], group.mean(0), rtol=1e-6)
        np.testing.assert_allclose(table[f"non_zeros_proportion{i}"], (group > 0).mean(0))
        normalized = (1e4 * group / group.sum(1, keepdims=True)).mean(0)
        np.testing.assert_allclose(table[f"raw_normalized_mean{i}"], normalized, rtol=1e-5)
    lfc = np.log2(table["scale1"]) - np.log2(table["scale2"])
    assert np.corrcoef(lfc, table["lfc_mean"])[0, 1] > 0.9
    assert set(by_name["group1"]) == {"type 0"}
    assert (
        model.differential_expression(idx1=first, delta=None, n_samples=200)["delta"].min() >= 0.3
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"groupby": "cell_type", "group1": "type 0", "group2": "type 0"}, "are both 'type 0'"),
        ({"groupby": "number"}, "pandas.cut"),
        ({}, "either groupby"),
        ({"idx1": np.zeros(3, bool)}, "idx1: expected a mask"),
        ({"idx1": "cell_type == 'none'"}, "idx1 holds no cell"),
        ({"groupby": "cell_type", "test_mode": "four"}, "test_mode 'four'"),
        (
            {"groupby": "cell_type", "group2": ["type 0", "type 1"]},
            "group2 is .* expected one group",
        ),
    ],
    ids=str,
)
def test_comparisons_that_make_no_sense_are_refused(model, arguments, words):
    adata = model.cells.adata.copy()
    adata.obs["number"] = np.random.default_rng(0).standard_normal(adata.n_obs)
    with pytest.raises(ValueError, match=words):
        model.differential_expression(adata=adata, **arguments)


def test_the_cells_in_the_place_of_groupby_are_told_their_name(model):
    with pytest.raises(TypeError, match=r"groupby is an AnnData.*adata=adata"):
        model.differential_expression(model.adata, "cell_type")


def test_no_group_is_none_to_compare(model):
    with pytest.raises(ValueError, match=r"no group1 to compare: adata\.obs"):
        model.differential_expression(groupby="cell_type", group1=[])


def test_the_second_group_may_be_a_list_of_one(model):
    tables = [
        model.differential_expression("cell_type", "type 1", two, n_samples=20)
        for two in ("type 0", ["type 0"])
    ]
    assert tables[0].equals(tables[1])


def test_a_model_without_batches_knows_none():
    adata = cells_like()
    SingleCellVAE.setup_anndata(adata)
    model = fitted(adata, epochs=1)
    for name in ("b0", ""):
        with pytest.raises(ValueError, match=rf"batch '{name}' is unknown .* without batch_key"):
            model.get_normalized_expression(transform_batch=name)


def test_genes_are_named_by_any_array_or_mask(model):
    names = model.cells.adata.var_names
    expected = model.get_normalized_expression(gene_list=list(names[[3, 1]]))
    series = pd.Series(names[[3, 1]])
    for given_names in (names[[3, 1]], names[[3, 1]].to_numpy(), series, tuple(names[[3, 1]])):
        assert model.get_normalized_expression(gene_list=given_names).equals(expected)
        assert model.posterior_predictive_sample(gene_list=given_names).shape[1] == 2
    by_mask = model.get_normalized_expression(gene_list=names.isin(names[[1, 3]]))
    assert list(by_mask) == list(names[[1, 3]])
    with pytest.raises(ValueError, match="gene_list is empty"):
        model.get_normalized_expression(gene_list=[])


def test_gene_names_may_be_numbers_and_one_covariate_is_a_list():
    adata = cells_like()
    adata.var_names = pd.Index(range(adata.n_vars))
    model = fitted(setup(adata))
    assert model.get_latent_representation(adata).shape == (adata.n_obs, 3)
    with pytest.raises(ValueError, match=r"expected a list of columns: \['batch'\]"):
        SingleCellVAE.setup_anndata(adata, categorical_covariate_keys="batch")


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix])
def test_damaged_indices_are_refused_before_scipy_reads_them(form):
    adata = cells_like()
    x = form(adata.X)
    x.indices[5] = 10_000
    adata.X = x
    with pytest.raises(ValueError, match="damaged"):
        SingleCellVAE(setup(adata))


def test_scverse_names_of_training_are_translated_or_refused(model):
    cells = setup(cells_like())
    a, b = (SingleCellVAE(cells, n_hidden=8, n_latent=3) for _ in range(2))
    a.train(max_epochs=2, progress=False, lr=0.01, weight_decay=0.0, accelerator="cpu")
    plan = {"lr": 0.01, "weight_decay": 0.0}
    b.train(max_epochs=2, progress=False, plan_kwargs=plan, accelerator="cpu", devices=1)
    assert a.fit_history.elbo == b.fit_history.elbo
    for arguments, words in (
        ({"plan_kwargs": {"optimizer": "SGD"}}, "pyrovae.fit"),
        ({"plan_kwargs": {"n_steps_kl_warmup": 10}}, "n_epochs_kl_warmup"),
        ({"early_stopping_monitor": "loss"}, "elbo_validation"),
        ({"accelerator": "tpu"}, "accelerator is 'tpu'"),
        ({"accelerator": "cpu", "devices": 2.5}, "devices is 2.5"),
        ({"n_epochs_kl_warmup": -1}, "n_epochs_kl_warmup is -1, expected epochs"),
    ):
        with pytest.raises(ValueError, match=words):
            model.train(max_epochs=1, progress=False, **arguments)


def test_a_second_training_continues_weights_and_history():
    model = fitted(epochs=3)
    before = model.fit_history
    model.train(max_epochs=2, progress=False)
    assert model.fit_history.elbo[:3] == before.elbo
    assert len(model.history["elbo_train"]) == 5
    assert model.fit_history.best_epoch is None or model.fit_history.best_epoch > 3
    assert (model.history["elbo_train"]["elbo_train"] == -model.history["elbo"]["elbo"]).all()
    assert model.history["kl_weight"]["kl_weight"].between(0, 1).all()


def test_a_model_says_what_it_is(model, capsys):
    untrained = SingleCellVAE(setup(cells_like()), n_hidden=8, n_latent=3)
    assert "not trained" in repr(untrained)
    for words in (
        "80 cells",
        "30 genes",
        "2 batches",
        "n_latent: 3",
        "trained for 2 epochs",
        "cpu",
    ):
        assert words.replace("80 cells", "cells: 80") in repr(model)
    assert model.adata is model.cells.adata
    assert model.device == torch.device("cpu")
    model.to_device("cpu")
    model.view_anndata_setup()
    shown = capsys.readouterr().out
    assert "batch_key: batch" in shown
    assert "'batch 0'" in shown
    assert model.registry["setup"]["labels_key"] == "cell_type"


def test_few_cells_train_for_enough_steps():
    from pyrovae.singlecell import default_epochs

    for cells in (10, 100, 500, 1500, 3000, 1_000_000):
        steps = default_epochs(cells) * -(-cells // 128)
        assert steps >= 4000
    assert default_epochs(20_000) == 400


# --------------------------------------------------------------------- a reference and new batches
def reference_and_query(**options):
    adata = simulate(cells=300, genes=40, types=2, batches=3, seed=1).to_anndata()
    new = (adata.obs["batch"] == "batch 2").to_numpy()
    reference = fitted(setup(adata[~new].copy()), epochs=20, **options)
    return reference, adata[new].copy()


@pytest.mark.parametrize(
    "options",
    [{}, {"encode_covariates": True}, {"dispersion": "gene-batch"}, {"n_layers": 2}],
    ids=str,
)
def test_a_query_trains_the_new_batch_alone(options):
    reference, cells = reference_and_query(**options)
    own = reference.cells.adata
    before = {name: value.clone() for name, value in reference.graph.state_dict().items()}
    z, elbo = reference.get_latent_representation(), reference.get_elbo()
    query = SingleCellVAE.prepare_query_anndata(cells, reference)
    model = SingleCellVAE.load_query_data(query, reference)
    assert model.is_trained
    untrained = model.get_elbo()
    model.train(max_epochs=30, progress=False, batch_size=32)
    assert model.get_elbo() > untrained
    # The cells of the reference are seen as before, to the last bit but for the wider products.
    np.testing.assert_allclose(model.get_latent_representation(own), z, atol=1e-5)
    assert model.get_elbo(own) == pytest.approx(elbo, abs=1e-3)
    for name, value in reference.graph.state_dict().items():
        assert torch.equal(value, before[name]), name
    after = model.graph.state_dict()
    moved = 0
    for name, value in after.items():
        new = model.query.trained.get(name)
        mask = None if new is None else new.mask(value)
        if mask is None:
            assert torch.equal(value, before[name]), name
        else:
            kept = value[mask == 0]
            was = before[name].flatten()
            assert torch.equal(kept.sort().values, was.sort().values), name
            moved += int((value[mask == 1] != 0).sum())
    assert moved


@pytest.mark.parametrize("form", ["backed", "float16", "empty"])
def test_a_query_is_read_as_other_cells_are(form, tmp_path):
    reference, cells = reference_and_query()
    cells = cells[:, ::-1].copy()
    cells.X = cells.X.toarray()
    expected = SingleCellVAE.prepare_query_anndata(cells, reference)
    if form == "backed":
        cells.write_h5ad(tmp_path / "cells.h5ad")
        cells = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    elif form == "float16":
        cells.X = cells.X.astype(np.float16)
    else:
        cells.X = None
        with pytest.raises(ValueError, match=r"adata\.X is empty"):
            SingleCellVAE.prepare_query_anndata(cells, reference)
        return
    query = SingleCellVAE.prepare_query_anndata(cells, reference)
    assert (query.X != expected.X).nnz == 0
    assert query.X.sum() > 0


def test_a_date_is_no_continuous_covariate():
    adata = simulate(cells=40, genes=10, types=2, batches=2).to_anndata()
    for values in (pd.date_range("2020-01-01", periods=40), np.ones(40) * 1j):
        adata.obs["day"] = values
        SingleCellVAE.setup_anndata(adata, continuous_covariate_keys=["day"])
        with pytest.raises(ValueError, match=r"obs\['day'\] holds .* expected real numbers"):
            SingleCellVAE(adata)


def test_a_query_may_lack_genes_and_bring_others_in_another_order(tmp_path):
    reference, cells = reference_and_query()
    reference.save(tmp_path / "reference")
    order = np.random.default_rng(0).permutation(40)[:36]
    fewer = cells[:, order].copy()
    fewer.var_names = [*fewer.var_names[:-1], "another gene"]
    query = SingleCellVAE.prepare_query_anndata(fewer, tmp_path / "reference")
    assert list(query.var_names) == reference.cells.encoding.genes
    whole = pd.DataFrame(cells.X.toarray(), columns=cells.var_names)
    lacking = [g for g in whole if g not in set(fewer.var_names)]
    assert len(lacking) == 5
    whole[lacking] = 0
    np.testing.assert_array_equal(query.X.toarray(), whole[list(query.var_names)])
    model = SingleCellVAE.load_query_data(query, tmp_path / "reference")
    assert model.get_latent_representation().shape == (query.n_obs, 3)
    fewer.var_names = [f"ENSG{i}" for i in range(36)]
    with pytest.raises(ValueError, match="none of the reference's genes"):
        SingleCellVAE.prepare_query_anndata(fewer, reference)
    with pytest.warns(UserWarning, match="lacks 20 of"):
        SingleCellVAE.prepare_query_anndata(cells[:, :20].copy(), reference)


@pytest.mark.parametrize("dispersion", ["gene", "gene-label"])
def test_a_query_needs_no_labels(tmp_path, caplog, dispersion):
    reference, cells = reference_and_query(dispersion=dispersion)
    del cells.obs["cell_type"]
    query = SingleCellVAE.prepare_query_anndata(cells, reference)
    model = SingleCellVAE.load_query_data(query, reference)
    model.train(max_epochs=1, progress=False)
    again = SingleCellVAE.load(model.save(tmp_path / "model"), query)
    np.testing.assert_allclose(
        again.get_latent_representation(), model.get_latent_representation(), rtol=1e-5, atol=1e-6
    )
    assert ("have no label" in caplog.text) == (dispersion == "gene-label")


def test_cells_without_a_known_label_take_the_mean_of_the_log_dispersions(caplog):
    reference, cells = reference_and_query(dispersion="gene-label")
    cells.obs["batch"] = "batch 0"
    known = reference.get_likelihood_parameters(cells)["dispersions"]
    assert not caplog.text
    labels = cells.obs["cell_type"].astype(object)
    labels.iloc[0], labels.iloc[1] = "another", np.nan
    cells.obs["cell_type"] = labels
    query = SingleCellVAE.prepare_query_anndata(cells, reference)
    model = SingleCellVAE.load_query_data(query, reference)
    n = len(cells)
    assert f"'cell_type']: 2 of {n} cells have no label that" in caplog.text
    assert "('another' was not there in training)" in caplog.text
    theta = model.get_likelihood_parameters()["dispersions"]
    mean = reference.graph.likelihood.log_theta.mean(0).exp().detach().numpy()
    np.testing.assert_allclose(theta[:2], [mean, mean], rtol=1e-5)
    np.testing.assert_allclose(theta[2:], known[2:], rtol=1e-5)
    assert abs(known[2:] / mean - 1).max() > 0.1  # the labels' own are others


def test_a_query_keeps_what_belongs_to_its_cells():
    reference, cells = reference_and_query()
    cells.obsm["X_umap"] = np.ones((cells.n_obs, 2))
    cells.obsp["distances"] = csr_matrix((cells.n_obs, cells.n_obs))
    cells.uns["colors"] = ["red"]
    query = SingleCellVAE.prepare_query_anndata(cells[:, :36].copy(), reference)
    assert query.var["in_query"].tolist() == [True] * 36 + [False] * 4
    assert set(query.uns) == {"colors", "_pyrovae_setup"}
    assert (list(query.obsm), list(query.obsp)) == (["X_umap"], ["distances"])
    query.obsm["X_umap"][:] = 0
    query.uns["colors"].append("blue")
    assert cells.obsm["X_umap"].all()
    assert cells.uns["colors"] == ["red"]
    assert "_pyrovae_setup" not in cells.uns


def test_a_query_of_few_shared_genes_is_refused():
    reference, cells = reference_and_query()
    with pytest.raises(ValueError, match="has 7 of the reference's genes, expected at least 20%"):
        SingleCellVAE.prepare_query_anndata(cells[:, :7].copy(), reference)
    with pytest.warns(UserWarning, match="lacks 32 of the reference's 40 genes"):
        SingleCellVAE.prepare_query_anndata(cells[:, :8].copy(), reference)


def test_a_saved_query_trains_the_new_batch_alone_when_it_is_read(tmp_path):
    reference, cells = reference_and_query()
    query = SingleCellVAE.prepare_query_anndata(cells, reference)
    model = SingleCellVAE.load_query_data(query, reference)
    model.train(max_epochs=1, progress=False)
    model.save(tmp_path / "query")
    again = SingleCellVAE.load(tmp_path / "query", query)
    assert again.query == model.query
    before = {name: value.clone() for name, value in again.graph.state_dict().items()}
    again.train(max_epochs=2, progress=False)
    for name, value in again.graph.state_dict().items():
        new = again.query.trained.get(name)
        assert torch.equal(value, before[name]) == (new is None), name
    path = tmp_path / "query" / "cells.json"
    content = json.loads(path.read_text())
    name = next(iter(content["query"]))
    content["query"][name][2] = 10_000
    content.pop("sha256")
    path.write_text(json.dumps(files.sealed(content.pop("format"), content)))
    with pytest.raises(pv.FileError, match="is not in the graph"):
        SingleCellVAE.load(tmp_path / "query", query)


def test_a_query_of_known_batches_has_nothing_to_train():
    reference, _ = reference_and_query()
    query = SingleCellVAE.prepare_query_anndata(reference.adata[:50].copy(), reference)
    model = SingleCellVAE.load_query_data(query, reference)
    z = reference.get_latent_representation(indices=np.arange(50))
    np.testing.assert_allclose(model.get_latent_representation(), z, atol=1e-6)
    with pytest.raises(ValueError, match="unfrozen=True"):
        model.train(max_epochs=1, progress=False)
    whole = SingleCellVAE.load_query_data(query, reference, unfrozen=True)
    whole.train(max_epochs=1, progress=False)


# ------------------------------------------------------------------ populations, and scvi's methods
def test_the_aggregated_posterior_is_the_mean_of_the_cells_densities(model):
    z = torch.from_numpy(model.get_latent_representation()[:5])
    rows = np.arange(10)
    mixture = model.get_aggregated_posterior(indices=rows)
    data = model.cells.query(None, rows)
    with programs.evaluation(model.graph):
        q = programs.posterior(model.graph, tuple(part[:] for part in data), "z")
    expected = torch.stack([q.log_prob(one.expand(10, -1)).logsumexp(0) for one in z]) - np.log(10)
    torch.testing.assert_close(mixture.log_prob(z), expected, atol=1e-5, rtol=1e-5)


def test_a_sample_is_abundant_where_its_cells_are(model):
    table = model.differential_abundance("cell_type")
    assert list(table) == ["type 0", "type 1"]
    first = (model.adata.obs["cell_type"] == "type 0").to_numpy()
    difference = (table["type 0"] - table["type 1"]).to_numpy()
    assert difference[first].mean() > difference[~first].mean()
    z = torch.from_numpy(model.get_latent_representation())
    mixture = model.get_aggregated_posterior(indices=first.nonzero()[0])
    expected = mixture.log_prob(z)
    np.testing.assert_allclose(table["type 0"], expected, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="sample_key 'donor'"):
        model.differential_abundance("donor")


def test_correlations_of_genes_are_those_of_expression_without_counting_noise(model):
    genes = list(model.adata.var_names[:6])
    table = model.get_feature_correlation_matrix(gene_list=genes, n_samples=3)
    assert table.shape == (6, 6)
    np.testing.assert_allclose(np.diag(table), 1)
    np.testing.assert_allclose(table, table.T)
    pearson = model.get_feature_correlation_matrix(
        gene_list=genes, n_samples=3, correlation_type="pearson"
    )
    assert not np.allclose(pearson, table)
    with pytest.raises(ValueError, match="spearman"):
        model.get_feature_correlation_matrix(correlation_type="kendall")


def test_every_method_of_scvi_tools_is_there_or_in_the_docs():
    """The public names of scvi.model.SCVI 1.4.2."""
    listed = """
    adata adata_manager convert_legacy_save data_registry deregister_manager device
    differential_abundance differential_expression get_aggregated_posterior get_anndata_manager
    get_batch_representation get_elbo get_feature_correlation_matrix get_from_registry
    get_importance_weights get_latent_library_size get_latent_representation
    get_likelihood_parameters get_marginal_ll get_normalized_expression
    get_normalized_function_name get_reconstruction_error get_setup_arg get_state_registry
    get_var_names history is_trained load load_query_data load_registry minified_data_type
    minify_adata posterior_predictive_sample prepare_query_anndata prepare_query_mudata
    register_manager registry run_id run_name save setup_anndata summary_string test_indices
    to_device train train_indices transfer_fields update_setup_method_args validation_indices
    view_anndata_setup view_registry view_setup_args view_setup_method_args
    """
    names = re.findall(r"\w+", listed)
    page = (Path(__file__).parents[1] / "docs" / "coming_from_scvi_tools.md").read_text()
    for name in names:
        assert f"`{name}`" in page, name
    for line in page.splitlines():  # what the page calls the same is there
        if line.endswith("| the same |") or "| the same;" in line or "| the same:" in line:
            for name in re.findall(r"`(\w+)`", line.split("|")[1]):
                assert hasattr(SingleCellVAE, name), name


def test_a_small_step_uses_one_thread_and_the_setting_is_put_back():
    before = torch.get_num_threads()
    seen = []

    class Look(pv.hooks.Hook):
        def on_step(self, step):
            seen.append(torch.get_num_threads())

    torch.set_num_threads(2)
    try:
        model = SingleCellVAE(setup(cells_like()), n_hidden=8, n_latent=3)
        model.train(max_epochs=1, progress=False, hooks=Look())
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_density_of_real_numbers_is_refused_with_what_to_use():
    with pytest.raises(ValueError, match=r"likelihoods\.Gaussian"):
        SingleCellVAE(setup(cells_like()), gene_likelihood="normal")


def test_rows_of_a_view_of_a_file_are_refused_with_the_way_out(model, tmp_path):
    cells_like().write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    view = backed[:40]
    assert model.get_latent_representation(view).shape == (40, 3)
    with pytest.raises(ValueError, match=r"to_memory\(\)"):
        model.get_latent_representation(view, indices=[0, 1])
    assert model.get_latent_representation(view.to_memory(), indices=[0, 1]).shape == (2, 3)
    backed.file.close()


# ---------------------------------------------------------------------------------- minified cells
@pytest.mark.parametrize("options", [{}, {"use_observed_lib_size": True}], ids=str)
def test_minified_cells_give_what_the_cells_gave(tmp_path, options):
    adata = setup(simulate(cells=200, genes=30, types=2, batches=2, seed=1).to_anndata())
    whole = fitted(adata, epochs=5, **options)
    model = copy.deepcopy(whole)
    model.minify_adata()
    assert model.minified_data_type == "latent_posterior_parameters"
    assert whole.minified_data_type is None
    assert model.adata.X.nnz == 0
    assert adata.X.nnz > 0
    model.save(tmp_path / "model")
    model.adata.write_h5ad(tmp_path / "cells.h5ad")
    read = SingleCellVAE.load(tmp_path / "model", counts.read(tmp_path / "cells.h5ad"))
    rows = np.array([7, 3, 150])
    for small in (model, read):
        for method in (
            "get_latent_representation",
            "get_latent_library_size",
            "get_normalized_expression",
            "get_likelihood_parameters",
            "posterior_predictive_sample",
            "get_feature_correlation_matrix",
        ):
            a, b = (getattr(some, method)(indices=rows) for some in (small, whole))
            pairs = [(a[k], b[k]) for k in b] if isinstance(b, dict) else [(a, b)]
            for one, other in pairs:
                one, other = (x.toarray() if hasattr(x, "toarray") else x for x in (one, other))
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=method)
        options = {"n_samples": 500}
        table = small.differential_expression("cell_type", **options)
        expected = whole.differential_expression("cell_type", **options)
        np.testing.assert_allclose(
            table["lfc_mean"].sort_index(), expected["lfc_mean"].sort_index(), atol=0.02
        )
        assert "raw_mean1" not in table
        for call in (small.get_elbo, small.get_marginal_ll, small.train):
            with pytest.raises(ValueError, match="needs the counts"):
                call()
        with pytest.raises(ValueError, match="have counts"):
            small.get_latent_representation(adata)
    again = SingleCellVAE.load(tmp_path / "model", adata)
    assert again.get_elbo() == pytest.approx(whole.get_elbo(), abs=1e-3)


def test_moments_of_z_and_what_is_no_anndata(model):
    mean, variance = model.get_latent_representation(return_dist=True, batch_size=32)
    np.testing.assert_allclose(mean, model.get_latent_representation(), atol=1e-6)
    draws = [model.get_latent_representation(give_mean=False, seed=i) for i in range(400)]
    z = (np.var(draws, 0) / variance - 1) / np.sqrt(2 / 399)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    with pytest.raises(TypeError, match="expected an AnnData, got a ndarray"):
        SingleCellVAE(np.ones((3, 3)))


def test_only_a_diagonal_normal_is_minified():
    adata = setup(simulate(cells=100, genes=20, types=2, batches=2, seed=1).to_anndata())
    model = SingleCellVAE(
        adata,
        n_latent=3,
        posterior=lambda encoder: posteriors.IAF(encoder(9), 3, context=3, hidden=(8,)),
    )
    model.train(1, progress=False)
    with pytest.raises(ValueError, match="diagonal normal"):
        model.minify_adata()
    assert model.minified_data_type is None


# ----------------------------------------------------------------------- what a reviewer found
def test_arguments_of_the_other_way_to_name_groups_are_refused(model):
    rows = np.arange(10)
    for wrong, words in (
        (
            {"groupby": "cell_type", "group1": "type 0", "idx2": rows},
            "idx2 does not go with groupby",
        ),
        ({"idx1": rows, "group2": "type 1"}, "group2 does not go with idx1"),
        ({"idx1": "cell_type"}, "neither true nor false"),
        ({"idx1": "nothing == 1"}, "no query of adata.obs .* which has"),
    ):
        with pytest.raises(ValueError, match=words):
            model.differential_expression(n_samples=5, **wrong)


def test_a_query_of_a_reference_with_one_batch_trains_the_new_batch_alone():
    both = cells_like(batches=2)
    first = both.obs["batch"].astype(str) == both.obs["batch"].astype(str).iloc[0]
    reference = fitted(setup(both[first.to_numpy()].copy()), epochs=5)
    query = SingleCellVAE.prepare_query_anndata(both, reference)
    model = SingleCellVAE.load_query_data(query, reference)
    own = reference.cells.adata
    before = model.get_normalized_expression(own, return_numpy=True)
    model.train(max_epochs=20, progress=False)
    after = model.get_normalized_expression(own, return_numpy=True)
    np.testing.assert_allclose(after, before, rtol=1e-4)
    assert all(new.end - new.first == 1 for new in model.query.trained.values())


def test_cells_of_a_fit_that_is_not_known_are_not_called_held_out(model, tmp_path):
    model.save(tmp_path / "model")
    shuffled = model.cells.adata[np.random.default_rng(0).permutation(80)].copy()
    loaded = SingleCellVAE.load(tmp_path / "model", shuffled)
    loaded.train(max_epochs=1, progress=False)
    with pytest.raises(ValueError, match="cannot tell which of them it was trained on"):
        _ = loaded.validation_indices


def test_correlations_take_theta_of_the_batch_that_is_decoded():
    model = fitted(dispersion="gene-batch", gene_likelihood="nb")
    with torch.no_grad():
        model.graph.likelihood.log_theta[0] = -3.0  # of the cells' own batch
        model.graph.likelihood.log_theta[1] = 20.0  # no noise beside rho's
    own, other = model.registry["batches"][:2]
    rows = np.flatnonzero(model.cells.adata.obs["batch"].astype(str) == own)
    asked = {"indices": rows, "transform_batch": other, "n_samples": 20}
    found = model.get_feature_correlation_matrix(correlation_type="pearson", **asked)
    rho = model.get_normalized_expression(return_mean=False, **asked).reshape(-1, 30)
    np.testing.assert_allclose(found, np.corrcoef(rho.T), atol=0.02)


def test_whole_numbers_are_one_batch_however_they_are_stored():
    cells = cells_like()
    cells.obs["batch"] = pd.factorize(cells.obs["batch"])[0]
    model = fitted(setup(cells))
    as_float = model.get_normalized_expression(transform_batch=1.0)
    assert as_float.equals(model.get_normalized_expression(transform_batch=1))
    others = cells[:30].copy()
    others.obs["batch"] = others.obs["batch"].astype(float)
    query = SingleCellVAE.load_query_data(SingleCellVAE.prepare_query_anndata(others, model), model)
    assert query.registry["batches"] == model.registry["batches"]
    np.testing.assert_allclose(
        query.get_latent_representation(), model.get_latent_representation(indices=np.arange(30))
    )
    others.obs["batch"] = "1.5"
    query = SingleCellVAE.load_query_data(SingleCellVAE.prepare_query_anndata(others, model), model)
    assert query.registry["batches"] == [*model.registry["batches"], "1.5"]
