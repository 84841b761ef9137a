"""A model knows which cells it was trained on, and takes no other's for them."""

import numpy as np
import pytest

anndata = pytest.importorskip("anndata")
import pandas as pd  # noqa: E402

from pyrovae.singlecell import (  # noqa: E402
    CellLabels,
    SingleCellVAE,
    compare,
    open_shards,
    simulate,
)

SMALL = {"n_hidden": 8, "n_latent": 3}


def cells(genes=30, **columns):
    adata = simulate(120, genes, seed=3).to_anndata()
    adata.layers["half"] = (adata.X / 2).floor()
    for name, values in columns.items():
        adata.obs[name] = values
    return adata


def trained(adata, seed=0, **keys):
    SingleCellVAE.setup_anndata(adata, **keys)
    model = SingleCellVAE(adata, seed=seed, **SMALL)
    model.train(1, progress=False)
    return model


@pytest.fixture(scope="module")
def model():
    return trained(cells())


def test_a_second_fit_leaves_no_cell_of_the_first_to_be_tested_on(model):
    again = trained(cells())
    first = set(again.train_indices)
    again.train(1, train_size=0.4, validation_size=0.3, seed=1, progress=False)
    assert first <= set(again.train_indices)
    assert not set(again.train_indices) & {*again.validation_indices, *again.test_indices}


def test_a_refused_fit_changes_nothing(tmp_path):
    depth = np.random.default_rng(0).normal(size=120)
    model = trained(cells(depth=depth), continuous_covariate_keys=["depth"])
    before, prior = model.get_elbo(return_mean=False), model.graph.library_prior
    for wrong, error in (
        ({"resume": tmp_path / "nothing.ckpt"}, FileNotFoundError),
        ({"clip_norm": -1.0}, ValueError),
        ({"hooks": [print]}, TypeError),
    ):
        with pytest.raises(error):
            model.train(2, train_size=0.3, progress=False, **wrong)
        np.testing.assert_array_equal(model.get_elbo(return_mean=False), before)
        assert model.graph.library_prior is prior


def test_cells_in_another_order_have_no_split(model, tmp_path):
    folder = model.save(tmp_path / "model")
    same = SingleCellVAE.load(folder, model.adata.copy())
    np.testing.assert_array_equal(same.validation_indices, model.validation_indices)
    for other in (model.adata[::-1].copy(), model.adata[:60].copy()):
        loaded = SingleCellVAE.load(folder, other)
        assert loaded.get_latent_representation().shape == (other.n_obs, 3)
        for name in ("train_indices", "validation_indices", "test_indices"):
            with pytest.raises(ValueError, match=f"{name.replace('test', 'train')}: .*other cells"):
                getattr(loaded, name)
        with pytest.raises(ValueError, match=r"compare: .*other cells"):
            compare({"loaded": loaded})
        again = SingleCellVAE.load(loaded.save(tmp_path / "again", overwrite=True), other)
        with pytest.raises(ValueError, match="other cells"):
            _ = again.train_indices
        loaded.train(1, progress=False)  # which tells nothing of the cells of the fit before
        with pytest.raises(ValueError, match="other cells"):
            _ = loaded.validation_indices


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")
def test_models_of_other_counts_are_not_compared(model):
    few, half = trained(cells(20)), trained(cells(), layer="half")
    for other, words in ((few, "genes"), (half, "layer")):
        with pytest.raises(ValueError, match=f"the same {words}"):
            compare({"one": model, "other": other}, adata=model.adata)
    reversed_ = trained(cells()[::-1].copy())
    with pytest.raises(ValueError, match="the same cells"):
        compare({"one": model, "other": reversed_}, indices=[0, 1, 2])
    assert len(compare({"one": model, "other": reversed_}, adata=model.adata, n_samples=2)) == 2


def test_cells_that_another_model_minified_are_refused(tmp_path):
    model, other = trained(cells()), trained(cells(), seed=1)
    folders = [m.save(tmp_path / str(i)) for i, m in enumerate((model, other))]
    expression = model.get_normalized_expression()
    model.minify_adata()
    model.adata.write_h5ad(tmp_path / "small.h5ad")
    small = anndata.read_h5ad(tmp_path / "small.h5ad")
    loaded = SingleCellVAE.load(folders[0], small)
    np.testing.assert_allclose(loaded.get_normalized_expression(), expression, rtol=1e-5)
    with pytest.raises(ValueError, match="minified by another model"):
        SingleCellVAE.load(folders[1], small)


def test_the_unit_of_a_covariate_does_not_matter():
    dose = np.random.default_rng(0).choice([0.0, 1e-8, 1e-7], 120)
    latents = [
        trained(cells(dose=values), continuous_covariate_keys=["dose"]).get_normalized_expression()
        for values in (dose, dose * 1e9)
    ]
    np.testing.assert_allclose(*latents, rtol=1e-3)
    same = trained(cells(dose=3.3e-7), continuous_covariate_keys=["dose"])
    assert same.cells.encoding.scales["dose"][1] == 1.0


@pytest.mark.parametrize("has_x", [True, False])
def test_some_cells_of_files_have_the_layer_of_all(tmp_path, has_x):
    adata = cells()
    adata.layers["counts"] = adata.X
    adata.X = adata.X * 2 if has_x else None
    adata.write_h5ad(tmp_path / "a.h5ad")
    model, files = trained(cells()), open_shards(tmp_path, layer="counts")
    every = model.get_latent_representation(files)
    some = model.get_latent_representation(files, indices=[5, 2])
    np.testing.assert_allclose(some, every[[5, 2]], atol=1e-6)


def test_names_of_cells_may_be_nullable(tmp_path):
    adata = cells()
    with anndata.settings.override(allow_write_nullable_strings=True):
        adata.obs.index = adata.obs.index.astype("string")
        adata.write_h5ad(tmp_path / "a.h5ad")
    files = open_shards(tmp_path)
    assert files.shape == adata.shape
    assert list(files.obs_names) == list(adata.obs_names)


def test_a_classifier_predicts_after_training(model):
    labels = CellLabels.from_model(model, "cell_type")
    for method in ("predict", "get_latent_representation"):
        with pytest.raises(RuntimeError, match=f"{method}: the classifier is not trained"):
            getattr(labels, method)()
    with pytest.warns(UserWarning, match="unlabeled_category is 'unknwon'"):
        CellLabels.from_model(model, "cell_type", unlabeled_category="unknwon")


def test_arguments_out_of_range_are_named(model):
    for size in (-1, 0, 2.5):
        with pytest.raises(ValueError, match="batch_size is"):
            model.get_normalized_expression(batch_size=size)
    default = model.get_normalized_expression()
    np.testing.assert_allclose(model.get_normalized_expression(batch_size=None), default, rtol=1e-5)
    for size in (-5, float("nan")):
        with pytest.raises(ValueError, match="library_size is"):
            model.get_normalized_expression(library_size=size)
    nothing = np.zeros(30, bool)
    with pytest.raises(ValueError, match="gene_list is empty, or a mask"):
        model.get_normalized_expression(gene_list=nothing)
    with pytest.raises(ValueError, match="a mask of 120 with a cell"):
        model.get_elbo(indices=np.zeros(120, bool))


def test_a_cell_without_a_sample_is_in_none(model):
    sample = pd.Series(np.where(np.arange(120) % 2, "a", "b"), model.adata.obs_names)
    adata = model.adata.copy()
    adata.obs["sample"] = sample.where(np.arange(120) > 5)
    table = model.differential_abundance("sample", adata)
    assert list(table) == ["a", "b"]
    assert len(table) == 120
