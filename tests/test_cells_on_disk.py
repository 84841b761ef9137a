"""A model of cells that stay on the disk gives what it gives for the same cells in memory."""

import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import call
from scipy import sparse

from pyrovae.singlecell import CellLabels, SingleCellVAE, open_shards, simulate

N, SIZES = 240, (100, 3, 137)


def cells():
    adata = simulate(N, 30, seed=1).to_anndata()
    adata.layers["counts"] = adata.X.copy()
    adata.obs["depth"] = np.linspace(0, 1, N)
    return adata


def write(adata, folder):
    folder.mkdir(exist_ok=True)
    for i, rows in enumerate(np.split(np.arange(N), np.cumsum(SIZES)[:-1])):
        adata[rows].copy().write_h5ad(folder / f"{i}.h5ad")
    return folder


@pytest.fixture(scope="module", params=["sparse", "dense"])
def folder(request, tmp_path_factory):
    adata = cells()
    if request.param == "dense":
        adata.X = adata.X.toarray()
    return write(adata, tmp_path_factory.mktemp("cells"))


def set_up(adata):
    SingleCellVAE.setup_anndata(
        adata,
        layer="counts",
        batch_key="batch",
        labels_key="cell_type",
        continuous_covariate_keys=["depth"],
    )
    return adata


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model = SingleCellVAE(set_up(cells()), n_latent=3, n_hidden=16, seed=0)
    model.train(4, progress=False)
    return model.save(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def pair(trained, folder):
    """The same model with the same cells, in memory and on the disk."""
    return SingleCellVAE.load(trained, set_up(cells())), SingleCellVAE.load(
        trained, set_up(open_shards(folder))
    )


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-5)


METHODS = {
    "z": lambda m, **c: m.get_latent_representation(**c),
    "draws": lambda m, **c: m.get_latent_representation(give_mean=False, **c),
    "library": lambda m, **c: m.get_latent_library_size(**c),
    "expression": lambda m, **c: m.get_normalized_expression(n_samples=2, **c),
    "elbo": lambda m, **c: m.get_elbo(**c),
    "evidence": lambda m, **c: m.get_marginal_ll(n_mc_samples=5, **c),
    "predictive": lambda m, **c: m.posterior_predictive_sample(**c).toarray(),
    "correlation": lambda m, **c: m.get_feature_correlation_matrix(n_samples=2, **c),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [None, [200, 3, 3, 99, 101]], ids=["all", "some"])
def test_methods_give_the_same(pair, method, rows):
    values = []
    for model in pair:
        torch.manual_seed(0)
        values.append(METHODS[method](model, indices=rows))
    close(*values)


@pytest.mark.parametrize("indices", [None, np.arange(N) % 7 == 0], ids=["all", "mask"])
def test_other_cells_may_lie_on_the_disk_with_genes_in_another_order(pair, tmp_path, indices):
    model = pair[0]
    shuffled = cells()[:, np.random.default_rng(0).permutation(30)].copy()
    files = open_shards(write(shuffled, tmp_path / "shuffled"))
    close(*(model.get_latent_representation(c, indices=indices) for c in (cells(), files)))


def test_groups_are_compared_alike(pair):
    by_group = [m.differential_expression("cell_type", n_samples=50, seed=0) for m in pair]
    for column in ("proba_de", "lfc_mean", "raw_mean1", "non_zeros_proportion2"):
        close(*(frame[column].sort_index() for frame in by_group))
    by_rows = [m.differential_expression(idx1="depth > 0.5", n_samples=50, seed=0) for m in pair]
    close(*(frame["lfc_mean"].sort_index() for frame in by_rows))
    close(*(m.differential_abundance("batch") for m in pair))


def test_minified_cells_are_the_same(pair):
    for model in pair:
        model.minify_adata()
    close(*(model.adata.obsm["_pyrovae_z"] for model in pair))
    assert all(model.adata.obs_names.equals(cells().obs_names) for model in pair)


def test_a_model_is_trained_on_the_files(folder, tmp_path):
    on_disk, in_memory = set_up(open_shards(folder)), set_up(cells())
    models = [SingleCellVAE(c, n_latent=3, n_hidden=16, seed=3) for c in (on_disk, in_memory)]
    for model in models:
        model.train(3, progress=False)
    assert np.array_equal(models[0].train_indices, models[1].train_indices)
    close(models[0].graph.library_prior.mean, models[1].graph.library_prior.mean)
    assert models[0].cells.encoding.scales == models[1].cells.encoding.scales
    model = models[0]
    elbo = model.fit_history.validation_elbo
    assert elbo[-1] > elbo[0]
    again = SingleCellVAE.load(model.save(tmp_path / "model"), on_disk)
    close(model.get_latent_representation(), again.get_latent_representation())


def test_a_fit_of_files_is_resumed(folder, tmp_path):
    def fitted(epochs, **options):
        model = SingleCellVAE(set_up(open_shards(folder)), n_latent=3, n_hidden=16)
        model.train(4, seed=0, progress=False, callback=lambda h: len(h.loss) == epochs, **options)
        return model.graph.state_dict()

    whole, file = fitted(4), tmp_path / "fit.safetensors"
    fitted(2, checkpoint=file)
    resumed = fitted(4, resume=file)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_labels_are_predicted_for_files(folder):
    model = SingleCellVAE(set_up(open_shards(folder)), n_latent=3, n_hidden=16)
    model.train(3, progress=False)
    labels = CellLabels.from_model(model, "cell_type")
    labels.train(2, progress=False)
    assert len(labels.predict()) == N
    close(
        labels.predict(open_shards(folder), soft=True, indices=np.arange(N) < 9),
        labels.predict(soft=True)[:9],
    )


@pytest.mark.parametrize("value", [0.5, -1, np.nan, 2**24])
def test_a_value_that_is_no_count_names_file_and_cell(tmp_path, value):
    adata = cells()
    x = adata.X.toarray()
    x[150, 4] = value
    adata.X = sparse.csr_matrix(x)
    shards = open_shards(write(adata, tmp_path / "cells"))
    SingleCellVAE.setup_anndata(shards)
    cell, gene = adata.obs_names[150], adata.var_names[4]
    with pytest.raises(ValueError, match=rf"2\.h5ad: adata\.X: .* in cell '{cell}', gene '{gene}'"):
        SingleCellVAE(shards)


def test_whole_numbers_with_rounding_errors_are_the_same_counts_as_in_memory(tmp_path):
    adata = cells()
    adata.X = adata.X.astype(np.float64) * (1 + 1e-9)
    shards = open_shards(write(adata, tmp_path / "cells"))
    for some in (adata, shards):
        SingleCellVAE.setup_anndata(some)
        x = SingleCellVAE(some).cells.data[0][:]
        np.testing.assert_array_equal(x, cells().X.toarray())


def test_columns_and_layers_that_are_missing_are_named(folder):
    shards = open_shards(folder)
    with pytest.raises(ValueError, match=r"'donor' is not in adata\.obs"):
        SingleCellVAE.setup_anndata(shards, batch_key="donor")
    with pytest.raises(ValueError, match=r"'raw' is not in adata\.layers"):
        SingleCellVAE.setup_anndata(shards, layer="raw")
    with pytest.raises(ValueError, match="not set up"):
        SingleCellVAE(open_shards(folder))


def test_some_cells_in_memory_are_those_of_the_files(folder):
    adata, shards = cells(), set_up(open_shards(folder))
    for rows in (None, [7, 239, 100], adata.obs["depth"].to_numpy() > 0.9):
        found = shards.to_memory(rows)
        expected = adata if rows is None else adata[rows]
        assert isinstance(found, anndata.AnnData)
        assert found.obs.equals(expected.obs.astype(found.obs.dtypes))
        for mine, given in ((found.X, expected.X), (found.layers["counts"], expected.X)):
            close(*(m.toarray() if sparse.issparse(m) else m for m in (mine, given)))
    assert found.uns["_pyrovae_setup"]["batch_key"] == "batch"


def test_the_files_are_scanned_once_before_training(folder, monkeypatch):
    shards = set_up(open_shards(folder))
    read = []
    load = type(shards).load
    monkeypatch.setattr(
        type(shards), "load", lambda self, rows: [read.append(len(rows)), load(self, rows)][1]
    )
    SingleCellVAE(shards)
    assert sum(read) == N


def test_the_command_fits_a_folder_of_files(folder, tmp_path):
    out, z = tmp_path / "run", tmp_path / "z.h5ad"
    options = ["--layer", "counts", "--batch-key", "batch", "--epochs", 2, "--samples", 2]
    assert f"{N} cells, 30 genes" in call("fit", folder, "--output", out, *options)
    call("encode", out, folder, "--part", "all", "--output", z)
    assert anndata.read_h5ad(z).obsm["X_pyrovae"].shape == (N, 10)


# -------------------------------------------------------------------------- what a reader found out
@pytest.fixture
def layered(tmp_path):
    """Files whose X and layer "un" hold other counts."""
    adata = cells()
    adata.layers["un"] = 3 * adata.X
    return write(adata, tmp_path / "layered")


def test_the_layer_that_the_files_were_opened_with_is_the_models(layered, tmp_path):
    shards = open_shards(layered, layer="un")
    SingleCellVAE.setup_anndata(shards)
    model = SingleCellVAE(shards, n_latent=3, n_hidden=16)
    model.train(2, progress=False)
    whole = model.get_elbo(shards)
    torch.manual_seed(0)
    assert model.get_elbo(shards, indices=np.arange(N)) == pytest.approx(whole, rel=0.05)
    again = SingleCellVAE.load(model.save(tmp_path / "model"), open_shards(layered))
    close(again.get_latent_library_size(), model.get_latent_library_size())


def test_masks_and_negative_numbers_are_rows(folder):
    shards = open_shards(folder)
    mask = torch.arange(N) >= 200
    assert torch.equal(shards.select(mask)[:], shards[200:])
    assert torch.equal(shards.load(mask)[:], shards[200:])
    assert torch.equal(shards[[-1, 0]], shards[torch.tensor([N - 1, 0])])
    for rows in ([N], [-N - 1], mask[1:]):
        with pytest.raises(IndexError):
            shards[rows]


def test_rows_may_be_drawn_with_replacement(folder):
    """Two of the same row in place of one between them were read as the rows in order."""
    shards, x = open_shards(folder), cells().X.toarray()
    for rows in ([0, 0, 2], [99, 99, 101], [7, 5, 5, 8]):
        close(shards[rows], x[rows])


def test_some_cells_of_the_files_are_cells_as_all_are(folder, tmp_path):
    rows = np.random.default_rng(0).permutation(N)[:150]
    whole = set_up(open_shards(folder))
    whole.obs["kit"] = np.arange(N) % 2
    some, in_memory = whole.select(rows), set_up(cells()[rows].copy())
    assert some.obs_names.equals(in_memory.obs_names)
    assert some.file_of(3).name == f"{np.searchsorted(np.cumsum(SIZES), rows[3], 'right')}.h5ad"
    models = []
    for own in (some, in_memory):
        own.obs["kit"] = (rows % 2).astype(str)
        SingleCellVAE.setup_anndata(own, batch_key="kit")
        models.append(SingleCellVAE(own, n_latent=3, n_hidden=16, seed=3))
        models[-1].train(3, progress=False)
    assert whole.uns["_pyrovae_setup"]["batch_key"] == "batch"
    close(*(model.graph.library_prior.mean for model in models))
    assert np.array_equal(*(model.train_indices for model in models))
    few = some.select([5, 2, 9])
    close(few[:], cells().X.toarray()[rows[[5, 2, 9]]])
    close(few.to_memory().layers["counts"].toarray(), few[:])
    saved = models[0].save(tmp_path / "model")
    both = [SingleCellVAE.load(saved, own) for own in (some, in_memory)]
    close(*(model.get_latent_representation() for model in both))
    close(*(model.get_elbo() for model in both))
    z = both[1].get_latent_representation(indices=[5, 2, 9])
    close(both[0].get_latent_representation(few), z)


def test_rows_may_be_a_series_with_any_index(folder):
    shards, obs = open_shards(folder), cells().obs
    mask = obs["batch"] == "batch 0"
    close(shards.select(mask)[:], cells().X.toarray()[mask.to_numpy()])
    numbers = pd.Series([7, 5, 200], index=[200, 7, 5])
    close(shards[numbers], cells().X.toarray()[numbers.to_numpy()])


@pytest.mark.parametrize("change", ["count", "batch"])
def test_a_fit_of_other_files_is_not_resumed(tmp_path, change):
    adata, file = cells(), tmp_path / "fit.safetensors"

    def fit(folder, epochs, **options):
        model = SingleCellVAE(set_up(open_shards(write(adata, folder))), n_latent=3, n_hidden=16)
        model.train(4, seed=0, progress=False, callback=lambda h: len(h.loss) == epochs, **options)

    fit(tmp_path / "a", 2, checkpoint=file)
    if change == "count":
        adata.layers["counts"][0, 0] += 1
    else:
        adata.obs["batch"] = adata.obs["batch"].to_numpy()[::-1]
    with pytest.raises(ValueError, match="another data"):
        fit(tmp_path / "b", 4, resume=file)


def test_minified_cells_are_not_taken_for_counts(pair, tmp_path):
    model = pair[0]
    model.minify_adata()
    model.adata.write_h5ad(tmp_path / "minified.h5ad")
    with pytest.raises(ValueError, match="minified and have no counts"):
        open_shards(tmp_path)
    with pytest.raises(ValueError, match="minified and have no counts"):
        pair[1].get_elbo(model.adata)


def damage(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def longer(file):
    names = file["obs"]["_index"][:]
    del file["obs"]["_index"]
    file["obs"]["_index"] = [*names, b"one more"]


DAMAGES = {
    "first row": lambda file: file["X/indptr"].__setitem__(0, 3),
    "last row": lambda file: file["X/indptr"].__setitem__(-1, 10**6),
    "rows of obs": longer,
    "a gene that is none": lambda file: file["X/indices"].__setitem__(5, 31),
}


def twice(file):
    """Write a column number that stands before it in its row."""
    first = int(np.flatnonzero(np.diff(file["X/indptr"][:]) > 1)[4])
    start = file["X/indptr"][first]
    file["X/indices"][start + 1] = file["X/indices"][start]


DAMAGES["a gene twice in a row"] = twice


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_named(tmp_path, kind):
    folder = write(cells(), tmp_path / "cells")
    damage(folder / "2.h5ad", DAMAGES[kind])
    with pytest.raises(ValueError, match=r"2\.h5ad: damaged"):
        open_shards(folder)[:]


def zarr_without(folder, place, dense=False):
    """Write cells in small chunks to a .zarr folder, of which one chunk is then lost."""
    zarr, adata = pytest.importorskip("zarr"), cells()
    adata.strings_to_categoricals()
    x, chunks = (adata.X.toarray(), (60, 10)) if dense else (adata.X, (50,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what zarr will write one day
        group = zarr.open_group(str(folder / "a.zarr"), mode="w")
        anndata.io.write_elem(group, "X", x, dataset_kwargs={"chunks": chunks})
        for name in ("obs", "var"):
            anndata.io.write_elem(group, name, getattr(adata, name))
    stored = [file for file in (folder / "a.zarr" / place).rglob("*") if file.is_file()]
    min(file for file in stored if file.suffix != ".json" and file.name[0] != ".").unlink()
    return folder


@pytest.mark.parametrize("part", ["indptr", "indices", "data"])
def test_a_lost_chunk_of_sparse_counts_is_noticed(tmp_path, part):
    """zarr reads it as zeros: counts became zeros, or those of the first gene or of other cells."""
    zarr_without(tmp_path, f"X/{part}")
    with pytest.raises(ValueError, match=r"a\.zarr: damaged \(X: (1 of \d+ chunks|its rows)"):
        open_shards(tmp_path)


def test_a_lost_chunk_of_dense_counts_is_warned_of(tmp_path):
    zarr_without(tmp_path, "X", dense=True)
    with pytest.warns(UserWarning, match=r"a\.zarr: X: 1 of 12 chunks are not stored"):
        shards = open_shards(tmp_path)
    shards.counts(columns=np.arange(3))  # it is warned of once; warnings are errors


@pytest.mark.parametrize("place", ["obs/_index", "obs/batch/categories"])
def test_lost_names_of_cells_and_categories_name_the_file(tmp_path, place):
    shards = open_shards(zarr_without(tmp_path, place))
    with pytest.raises(ValueError, match=r"a\.zarr: damaged \(obs: "):
        _ = shards.obs


def test_cells_without_a_gene_are_no_lost_chunks(tmp_path):
    """zarr stores no chunk of zeros, as of the first rows' ends, or of one gene's numbers."""
    pytest.importorskip("zarr")
    for name, x in (("none", np.zeros((4, 3))), ("one gene", np.ones((4, 1)))):
        adata = anndata.AnnData(sparse.csr_matrix(x.astype(np.float32)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Writing zarr v2", UserWarning)
            adata.write_zarr(tmp_path / f"{name}.zarr")
        assert open_shards(tmp_path / f"{name}.zarr")[:].sum() == x.sum()


def test_files_of_a_folder_are_found_and_none_twice(tmp_path):
    folder = write(cells(), tmp_path / "cells")
    (folder / "1.h5ad").rename(folder / "1.H5AD")
    (folder / "._1.h5ad").write_bytes(b"of a Mac")
    assert len(open_shards(folder)) == N
    path = folder / "0.h5ad"
    with pytest.raises(ValueError, match=r"0\.h5ad: the same file as .*0\.h5ad"):
        open_shards([path, folder / ".." / "cells" / "0.h5ad"])
    (folder / "link.h5ad").symlink_to(path)
    with pytest.raises(ValueError, match=r"link\.h5ad: the same file as .*0\.h5ad"):
        open_shards(folder)


def test_a_file_without_cells_changes_no_column(tmp_path):
    folder = write(cells(), tmp_path / "cells")
    cells()[:0].copy().write_h5ad(folder / "3.h5ad")
    shards = open_shards(folder)  # pandas warned of it
    assert shards.obs["batch"].tolist() == cells().obs["batch"].tolist()
    with pytest.raises(ValueError, match=r"3\.h5ad: there is no cell in '3\.h5ad'"):
        open_shards(folder / "3.h5ad")


def test_a_column_that_a_file_lacks_names_the_file(tmp_path):
    folder = write(cells(), tmp_path / "cells")
    adata = anndata.read_h5ad(folder / "2.h5ad")
    del adata.obs["batch"], adata.obs["depth"]
    adata.write_h5ad(folder / "2.h5ad")
    shards = open_shards(folder)
    for keys in ({"batch_key": "batch"}, {"continuous_covariate_keys": ["depth"]}):
        SingleCellVAE.setup_anndata(shards, **keys)
        with pytest.raises(ValueError, match=r"in 137 cells \(the first in .*2\.h5ad\)"):
            SingleCellVAE(shards)


def test_a_column_of_numbers_in_one_file_and_of_text_in_another_is_warned_of(tmp_path):
    folder = write(cells(), tmp_path / "cells")
    for name, kind in (("0.h5ad", int), ("2.h5ad", str)):
        adata = anndata.read_h5ad(folder / name)
        adata.obs["batch"] = adata.obs["batch"].str.removeprefix("batch ").astype(kind)
        adata.write_h5ad(folder / name)
    shards = open_shards([folder / "0.h5ad", folder / "2.h5ad"])
    SingleCellVAE.setup_anndata(shards, batch_key="batch")
    with pytest.warns(
        UserWarning, match=r"'0' and .*both as numbers and as text|'0', '1'|'1', '0'"
    ):
        assert SingleCellVAE(shards).registry["batches"] == ["0", "1"]


def test_a_file_that_was_replaced_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.singlecell.shard_files._OPEN", 1)
    folder = write(cells(), tmp_path / "cells")
    shards = open_shards(folder)
    cells()[:100, ::-1].copy().write_h5ad(folder / "0.h5ad")
    with pytest.raises(ValueError, match=r"0\.h5ad: was changed"):
        shards[:]


def test_a_layer_that_no_other_file_has_is_not_read(tmp_path, trained):
    folder = write(cells(), tmp_path / "cells")
    adata = anndata.read_h5ad(folder / "0.h5ad")
    adata.layers["other"] = adata.X
    adata.write_h5ad(folder / "0.h5ad")
    model = SingleCellVAE.load(trained)
    assert len(model.get_latent_representation(open_shards(folder), indices=[0, 200])) == 2


def test_what_needs_memory_says_so(pair, folder):
    with pytest.raises(ValueError, match=r"cells\.to_memory\(\)"):
        SingleCellVAE.prepare_query_anndata(open_shards(folder), pair[0])
    with pytest.raises(TypeError, match="open_shards: got a AnnData"):
        open_shards(cells())
    with pytest.raises(ValueError, match="obs has 10 rows"):
        open_shards(folder).obs = cells().obs[:10]


def test_the_command_says_that_a_folder_has_no_cells(tmp_path):
    output = call("fit", tmp_path, "--batch-key", "batch", code=2)
    assert "is a folder without .h5ad or .zarr files in it" in output
