"""Cells as a biologist has them: what is taken as it is meant, and what is refused in words."""

import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata.experimental import AnnCollection
from scipy import sparse

import pyrovae as pv
from pyrovae.singlecell import SingleCellVAE, open_shards, read, simulate
from pyrovae.singlecell.masks import checked_rows


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


@pytest.mark.parametrize(
    "options", [{}, {"encode_covariates": True}, {"dispersion": "gene-batch"}], ids=str
)
@pytest.mark.parametrize("batches", [1, 2])
def test_a_query_trains_the_weights_of_new_categories_alone(batches, options, tmp_path):
    cells = simulate(300, 30, batches=batches + 1, seed=1).to_anndata()
    old = (cells.obs["batch"] != f"batch {batches}").to_numpy()
    cells.obs["sex"] = np.where(np.arange(300) % 2, "f", "m")
    cells.obs["kit"], cells.obs["age"] = np.where(old, "v2", "v3"), np.arange(300.0) % 7
    keys = {"categorical_covariate_keys": ["kit", "sex"], "continuous_covariate_keys": ["age"]}
    own, new = cells[old].copy(), cells[~old].copy()
    reference = trained(own, 5, options, batch_key="batch", **keys)
    new.obs["sex"] = ["other" if i % 3 == 0 else sex for i, sex in enumerate(new.obs["sex"])]
    query = SingleCellVAE.prepare_query_anndata(new, reference)
    model = SingleCellVAE.load_query_data(query, reference)
    columns = model.cells.data[1].shape[1]
    assert columns == (batches + 1) + 2 + 3 + 1
    assert model.registry["categories"] == {"kit": ["v2", "v3"], "sex": ["f", "m", "other"]}
    elbo, weight = model.get_elbo(), "likelihood.net.blocks.0.0.weight"
    before = {name: value.clone() for name, value in model.graph.named_parameters()}
    model.train(max_epochs=5, progress=False, batch_size=32)
    assert model.get_elbo() > elbo
    changed = (model.graph.get_parameter(weight) != before[weight]).any(0).nonzero().flatten()
    kit, sex = batches + 1, batches + 3
    assert (changed - 2).tolist() == [batches, kit + 1, sex + 2]
    for name, value in model.graph.named_parameters():
        entries = model.query.trained.get(name)
        new = torch.zeros_like(value) if entries is None else entries.mask(value)
        assert torch.equal(value[new == 0], before[name][new == 0]), name
    expected = reference.get_elbo()
    assert model.get_elbo(own) == pytest.approx(expected, abs=1e-3)
    again = SingleCellVAE.load(model.save(tmp_path / "model"), query)
    assert again.query == model.query
    assert again.get_elbo() == pytest.approx(model.get_elbo(), abs=1e-4)


def test_a_view_is_set_up_in_silence_and_one_of_a_file_refused(tmp_path):
    cells = simulate(60, 12).to_anndata()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    view = cells[:40]
    assert trained(view, batch_key="batch").get_latent_representation().shape == (40, 2)
    assert "_pyrovae_setup" not in cells.uns
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"a view of a file.*to_memory\(\)"):
        SingleCellVAE.setup_anndata(backed[:40])


def test_what_is_no_anndata_is_refused_with_a_way_to_one(tmp_path):
    cells = simulate(60, 12).to_anndata()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells.raw = cells
    rows = open_shards(tmp_path).view(torch.arange(9))
    for other, words in (
        (cells.raw, r"a Raw: adata\.raw\.to_adata\(\)"),
        (cells.X, r"a csr_matrix: anndata\.AnnData\(counts\)"),
        (tmp_path / "cells.h5ad", r"PosixPath: pyrovae\.singlecell\.read"),
        ({"rna": cells, "adt": cells}, r"a dict: pass one of those in it, which are 'rna', 'adt'"),
        (SimpleNamespace(uns={}, mod={"rna": cells}), "a SimpleNamespace: pass one .* are 'rna'"),
        (SimpleNamespace(uns={}, obs=type("Dataset2D", (), {})()), r"read_lazy.*to_memory\(\)"),
        (AnnCollection([cells]), r"AnnCollection: anndata\.concat"),
        (rows, r"rows of shards.*cells\.select\(rows\)"),
    ):
        with pytest.raises(TypeError, match=words):
            SingleCellVAE.setup_anndata(other)


def test_arguments_in_another_order_are_named(tmp_path):
    cells = simulate(60, 12).to_anndata()
    model = trained(cells, batch_key="batch")
    for call, words in (
        (lambda: SingleCellVAE.prepare_query_anndata(model, cells), "got AnnData as the reference"),
        (lambda: SingleCellVAE.load_query_data(model, cells), "got AnnData as the reference"),
        (lambda: SingleCellVAE.prepare_query_anndata(cells.X, model), "got a csr_matrix"),
        (lambda: SingleCellVAE.load_query_data(cells.X, model), "got a csr_matrix"),
        (lambda: SingleCellVAE.load(cells, tmp_path), r"load\(folder, adata\)"),
    ):
        with pytest.raises(TypeError, match=words):
            call()
    with pytest.raises(ValueError, match=r"obs_names\.get_indexer"):
        model.differential_expression(idx1=list(cells.obs_names[:5]))
    with pytest.raises(ValueError, match="key is a list, expected the name of one column"):
        SingleCellVAE.setup_anndata(cells, batch_key=["batch"])
    with pytest.raises(ValueError, match="name each column once"):
        SingleCellVAE.setup_anndata(cells, continuous_covariate_keys=["library", "library"])


def test_counts_that_an_outer_join_left_missing_are_told_so():
    cells = simulate(60, 12).to_anndata()
    cells.X = cells.X.toarray()
    joined = anndata.concat([cells[:30, :8].copy(), cells[30:, 4:].copy()], join="outer")
    SingleCellVAE.setup_anndata(joined)
    with pytest.raises(ValueError, match=r"nan in cell .*outer join.*join='inner'"):
        SingleCellVAE(joined)
    cells.X = cells.X.astype(object)
    SingleCellVAE.setup_anndata(cells)
    with pytest.raises(TypeError, match=r"dtype object.*astype\('float32'\)"):
        SingleCellVAE(cells)


def test_sizes_that_are_no_whole_numbers_and_groups_of_no_cell_are_named():
    cells = simulate(60, 12).to_anndata()
    model = trained(cells)
    for sizes in ({"n_hidden": 12.5}, {"n_latent": "10"}):
        with pytest.raises(ValueError, match="expected whole numbers of at least 1"):
            SingleCellVAE(cells, **sizes)
    cells.obs["leiden"] = np.nan
    with pytest.raises(ValueError, match=r"'leiden'.* is missing in every cell"):
        model.differential_expression("leiden")


def test_a_lost_chunk_of_categories_is_warned_of(tmp_path):
    zarr = pytest.importorskip("zarr")
    cells, file = simulate(60, 12).to_anndata(), tmp_path / "a.zarr"
    cells.obs["one"] = pd.Categorical(["same"] * 60)  # of which zarr stores nothing
    cells.strings_to_categoricals()
    group = zarr.open_group(str(file), mode="w", zarr_format=2)
    anndata.io.write_elem(group, "/", cells)
    assert len(open_shards(file).obs) == 60
    codes = file / "obs" / "batch" / "codes"
    (codes / "0").unlink()
    with pytest.warns(UserWarning, match=r"a\.zarr: obs: chunks of the column 'batch' are not"):
        assert set(open_shards(file).obs["batch"]) == {"batch 0"}


def test_lost_strings_of_a_file_are_refused_before_they_are_read(tmp_path, monkeypatch):
    """The HDF5 library loops for ever where a heap of strings is zeros from some byte on."""
    file = tmp_path / "cells.h5ad"
    simulate(60, 12).to_anndata().write_h5ad(file)
    assert read(file).shape == (60, 12)
    content = bytearray(file.read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 512 : heap + 2048] = bytes(1536)
    file.write_bytes(content)
    monkeypatch.setattr(anndata, "read_h5ad", lambda path: pytest.fail("was read"))
    with pytest.raises(ValueError, match=rf"cells\.h5ad: trunc.*strings at byte {heap} are overw"):
        read(file)
    file.write_bytes(b"")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"cells\.h5ad: truncated"):
        read(file)


def test_lost_strings_of_a_file_are_refused_when_it_is_opened(tmp_path, monkeypatch):
    file = tmp_path / "cells.h5ad"
    simulate(60, 12).to_anndata().write_h5ad(file)
    assert len(open_shards(file).obs) == 60
    content = bytearray(file.read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 512 : heap + 2048] = bytes(1536)
    file.write_bytes(content)
    monkeypatch.setattr(anndata.io, "read_elem", lambda part: pytest.fail("was read"))
    with pytest.raises(ValueError, match=rf"cells\.h5ad: trunc.*strings at byte {heap} are overw"):
        open_shards(file)


def test_a_column_is_named_once_among_batch_and_covariates():
    cells = simulate(20, 5).to_anndata()
    cells.obs["day"] = np.arange(20.0)
    for keys, words in (
        ({"categorical_covariate_keys": ["batch"]}, "leave it out of categorical"),
        ({"continuous_covariate_keys": ["batch"]}, "leave it out of continuous"),
        (
            {"categorical_covariate_keys": ["day"], "continuous_covariate_keys": ["day"]},
            "'day' in both",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            SingleCellVAE.setup_anndata(cells, batch_key="batch", **keys)


def test_a_column_that_is_there_twice_is_refused():
    cells = simulate(20, 5).to_anndata()
    cells.obs = pd.concat([cells.obs, cells.obs[["batch"]]], axis=1)
    for keys in ({"batch_key": "batch"}, {"continuous_covariate_keys": ["batch"]}):
        with pytest.raises(ValueError, match="several columns 'batch': rename them"):
            SingleCellVAE.setup_anndata(cells, **keys)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16])
def test_counts_at_the_limit_of_their_integers_are_warned_of(kind, form):
    cells, largest = simulate(20, 5).to_anndata(), np.iinfo(kind).max
    x = np.minimum(cells.X.toarray(), largest - 1).astype(kind)
    cells.X = form(x)
    SingleCellVAE.setup_anndata(cells)
    SingleCellVAE(cells)
    x[3, 2] = largest
    cells.X = form(x)
    with pytest.warns(UserWarning, match=f"{np.dtype(kind)} and reach {largest}.*as int32"):
        model = SingleCellVAE(cells)
    assert model.cells.data[0][torch.arange(20)][3, 2] == largest


def test_counts_that_half_precision_rounded_are_warned_of(recwarn):
    cells = simulate(20, 5).to_anndata()
    x = np.minimum(cells.X.toarray(), 2047).astype(np.float16)
    for largest in (2047, 2049):
        x[3, 2] = largest
        cells.X = x.copy()
        SingleCellVAE.setup_anndata(cells)
        model = SingleCellVAE(cells)
        assert model.cells.data[0][3, 2] == (2047 if largest == 2047 else 2048)
        said = [str(one.message) for one in recwarn if "float16 and reach 2048" in str(one.message)]
        assert len(said) == (largest > 2048)


def test_counts_that_became_negative_are_told_so():
    cells = simulate(20, 5).to_anndata()
    x = np.minimum(cells.X.toarray(), 100).astype(np.int64)
    x[3, 2] = 200
    cells.X = x.astype(np.int8)
    SingleCellVAE.setup_anndata(cells)
    with pytest.raises(ValueError, match=r"never negative.*too large for their integers"):
        SingleCellVAE(cells)


def test_categories_that_differ_by_spaces_are_warned_of():
    cells = simulate(60, 8).to_anndata()
    model = trained(cells, batch_key="batch")
    cells.obs["batch"] = cells.obs["batch"].astype(str).replace("batch 0", "batch 0 ")
    query = SingleCellVAE.prepare_query_anndata(cells, model)
    words = r"'batch'\]: 'batch 0 ' differs by spaces alone"
    with pytest.warns(UserWarning, match=words):
        SingleCellVAE.load_query_data(query, model)
    cells.obs.iloc[:5, list(cells.obs).index("batch")] = "batch 0"
    SingleCellVAE.setup_anndata(cells, batch_key="batch")
    with pytest.warns(UserWarning, match=words):
        SingleCellVAE(cells)


def test_the_genes_of_a_query_of_another_kind_are_shown():
    cells = simulate(60, 8).to_anndata()
    model = trained(cells, batch_key="batch")
    cells.var_names = cells.var_names + ".3"
    with pytest.raises(ValueError, match=r"'gene 0'.*the query's are 'gene 0\.3'.*version"):
        SingleCellVAE.prepare_query_anndata(cells, model)


def test_two_cells_are_told_to_be_trained_on_both():
    cells = simulate(2, 5).to_anndata()
    cells.X = cells.X.toarray()
    SingleCellVAE.setup_anndata(cells)
    model = SingleCellVAE(cells, n_hidden=8, n_latent=2)
    with pytest.raises(ValueError, match=r"1 training cells.*\. train_size=1 trains on all"):
        model.train(1, progress=False)
    with pytest.raises(ValueError, match=r"batch_size 1: .* at least 2 of each$"):
        model.train(1, train_size=1, batch_size=1, progress=False)
    cells.X[1] = cells.X[0]
    model = SingleCellVAE(cells, n_hidden=8, n_latent=2)
    with pytest.warns(UserWarning, match="library sizes hardly vary: the standard"):
        model.train(1, train_size=1, progress=False)


def test_numbers_as_text_are_no_continuous_covariate():
    cells = simulate(20, 5).to_anndata()
    text = np.where(np.arange(20) % 2, "1", "2")
    for column in (text.astype(object), pd.Categorical(text)):
        cells.obs["dose"] = column
        SingleCellVAE.setup_anndata(cells, continuous_covariate_keys=["dose"])
        with pytest.raises(ValueError, match=r"'dose'\] holds text, as '2' in .*astype\(float\)"):
            SingleCellVAE(cells)
    cells.obs["dose"] = pd.Categorical(text.astype(float))
    SingleCellVAE.setup_anndata(cells, continuous_covariate_keys=["dose"])
    assert SingleCellVAE(cells).cells.data[1].std(correction=0) == pytest.approx(1)


def test_missing_gene_names_are_refused():
    cells = simulate(20, 5).to_anndata()
    cells.var_names = pd.Index(["a", "b", np.nan, "d", "e"])
    SingleCellVAE.setup_anndata(cells)
    with pytest.raises(ValueError, match=r"1 gene names are missing: .* i = '2'. Name"):
        SingleCellVAE(cells)
    SingleCellVAE(cells[:, cells.var_names.notna()].copy())


def test_a_continuous_column_holds_no_samples():
    model = trained(cells := simulate(60, 8).to_anndata())
    cells.obs["depth"], cells.obs["donor"] = np.linspace(0, 1, 60), np.arange(60) % 3
    with pytest.raises(ValueError, match=r"sample_key: .* 60 different numbers.*astype\(str\)"):
        model.differential_abundance("depth")
    assert list(model.differential_abundance("donor")) == ["0", "1", "2"]


def test_a_mask_that_is_numbered_is_read_by_position_whatever_the_names_of_the_cells():
    cells = anndata.AnnData(np.ones((6, 3), "f4"))[[3, 1, 2, 0, 5, 4]].copy()  # names: "3", "1"...
    mask = pd.Series([True, False, True, False, False, True])
    for same in (mask, mask.set_axis(pd.MultiIndex.from_product([["a", "b"], [0, 1, 2]]))):
        assert checked_rows(cells, same).tolist() == [0, 2, 5]
    with pytest.raises(ValueError, match="the index of the mask"):
        checked_rows(cells, mask.set_axis(list("012345")))


@pytest.mark.parametrize("dtype", ["boolean", object])
def test_a_mask_with_missing_values_is_refused_with_what_to_give(dtype):
    cells = anndata.AnnData(np.ones((3, 3), "f4"))
    mask = pd.Series([True, None, False], dtype=dtype, index=cells.obs_names)
    with pytest.raises(ValueError, match=r"is given as mask\.isin\(\[True\]\)"):
        checked_rows(cells, mask)
    assert checked_rows(cells, mask.isin([True])).tolist() == [0]


def test_a_mask_that_names_the_cells_or_genes_in_another_order_is_refused():
    cells = simulate(40, 6).to_anndata()
    model = trained(cells)
    mask = pd.Series(np.arange(40) < 10, index=cells.obs_names)
    genes = pd.Series(np.arange(6) < 2, index=cells.var_names)
    calls = {
        "indices": lambda mask: model.get_latent_representation(indices=mask),
        "idx1": lambda mask: model.differential_expression(idx1=mask, n_samples=5).lfc_mean,
        "idx2": lambda mask: (
            model.differential_expression(idx1=range(10, 40), idx2=mask, n_samples=5).lfc_mean
        ),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name}.*cell 39.*reindex"):
            call(mask[::-1])
        for alike in (mask[::-1].reindex(cells.obs_names), mask.reset_index(drop=True)):
            np.testing.assert_array_equal(call(alike), call(mask.to_numpy()))
    with pytest.raises(ValueError, match=r"gene_list.*gene 5.*mask.index\[mask\]"):
        model.get_normalized_expression(gene_list=genes[::-1])
    backwards = cells[:, ::-1].copy()  # and in the order of the model's genes
    of_others = backwards.var_names.isin(["gene 0", "gene 1"])
    assert list(model.get_normalized_expression(backwards, gene_list=genes)) == list(
        genes.index[:2]
    )
    with pytest.raises(ValueError, match="gene_list"):
        model.get_normalized_expression(
            backwards, gene_list=pd.Series(of_others, index=backwards.var_names)
        )
