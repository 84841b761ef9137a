"""Cells in many files: each is read once an epoch, shuffled, in one process and in several."""

import pickle
import warnings
from itertools import pairwise

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

import pyrovae as pv
from pyrovae.data import ArrayRows, SparseRows, as_minibatches
from pyrovae.data.blocks import BlockMinibatches
from pyrovae.data.minibatches import Share
from pyrovae.files import checkpoint
from pyrovae.singlecell import open_shards

SIZES, GENES = (70, 1, 45, 34), 7
N = sum(SIZES)


def counts():
    """Counts whose first two columns say which cell it is."""
    generator = np.random.default_rng(0)
    x = generator.poisson(0.7, (N, GENES)).astype(np.float32)
    x[:, 0], x[:, 1] = np.arange(N) // 50, np.arange(N) % 50
    return x


def cell_of(x):
    return (x[:, 0] * 50 + x[:, 1]).long().tolist()


def write(folder, kind, suffix):
    folder.mkdir()
    genes = [f"gene{i}" for i in range(GENES)]
    for i, part in enumerate(np.split(counts(), np.cumsum(SIZES)[:-1])):
        adata = anndata.AnnData(kind(part))
        adata.var_names = genes
        adata.obs["donor"] = f"donor{i}"
        adata.layers["twice"] = kind(part * 2)
        path = folder / f"{i}{suffix}"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Writing zarr v2", UserWarning)
            adata.write_h5ad(path) if suffix == ".h5ad" else adata.write_zarr(path)
    return folder


@pytest.fixture(scope="module", params=["sparse.h5ad", "dense.h5ad"])
def folder(request, tmp_path_factory):
    return written(request, tmp_path_factory)


@pytest.fixture(scope="module", params=["sparse.h5ad", "sparse.zarr"])
def stored(request, tmp_path_factory):
    return written(request, tmp_path_factory)


def written(request, tmp_path_factory):
    kind, suffix = request.param.split(".")
    if suffix == "zarr":
        pytest.importorskip("zarr")
    make = sparse.csr_matrix if kind == "sparse" else np.asarray
    return write(tmp_path_factory.mktemp("shards") / f"{kind}_{suffix}", make, f".{suffix}")


@pytest.fixture
def sparse_folder(tmp_path):
    return write(tmp_path / "cells", sparse.csr_matrix, ".h5ad")


def small(shards, share=None, batch_size=16):
    """Minibatches with blocks of 4 cells, and 5 blocks a buffer."""
    shards.block = 4
    share = Share() if share is None else share
    return BlockMinibatches((shards,), None, batch_size, share=share, blocks=5)


# ------------------------------------------------------------------------------------ as a source
def test_rows_are_those_of_the_files(stored):
    shards, x = open_shards(stored), torch.from_numpy(counts())
    assert shards.shape == (N, GENES)
    rows = torch.randperm(N)
    assert torch.equal(shards[rows], x[rows])
    assert torch.equal(shards[60:130], x[60:130])
    assert torch.equal(shards[rows[:0]], x[:0])
    assert torch.equal(shards.select(rows)[3:9], x[rows[3:9]])
    assert torch.equal(shards.sum(1), x.double().sum(1))


def test_a_layer_genes_and_the_cells_columns(stored):
    shards = open_shards(stored, layer="twice")
    assert torch.equal(shards[:], 2 * torch.from_numpy(counts()))
    assert list(shards.genes) == [f"gene{i}" for i in range(GENES)]
    assert shards.obs["donor"].tolist() == [
        f"donor{i}" for i, n in enumerate(SIZES) for _ in range(n)
    ]


def test_sparse_cells_are_loaded_sparse(sparse_folder):
    loaded = open_shards(sparse_folder).load(torch.arange(60, 100))
    assert isinstance(loaded, SparseRows)


def test_a_dense_file_beside_sparse_ones(sparse_folder):
    adata = anndata.read_h5ad(sparse_folder / "2.h5ad")
    adata.X = adata.X.toarray()
    adata.write_h5ad(sparse_folder / "2.h5ad")
    assert torch.equal(open_shards(sparse_folder)[:], torch.from_numpy(counts()))


# ------------------------------------------------------------------------------- epochs and shares
@pytest.mark.parametrize("parts", [1, 2, 3, 16])
def test_each_cell_is_read_once_an_epoch_by_one_process(folder, parts):
    shards = open_shards(folder)
    for seed in (0, 1):
        shares = [small(shards, Share(i, parts)) for i in range(parts)]
        epochs = [list(share.epoch(seed)) for share in shares]
        cells = [cell for epoch in epochs for part in epoch for cell in cell_of(part.batch[0])]
        assert sorted(cells) == list(range(N))
        rows = [row for epoch in epochs for part in epoch for row in part.rows.tolist()]
        assert rows == cells
        assert [len(share) for share in shares] == [len(epoch) for epoch in epochs]


def test_the_sizes_of_minibatches_sum_to_the_batch_size(folder):
    shards = open_shards(folder)
    epochs = [list(small(shards, Share(i, 3), batch_size=16).epoch(0)) for i in range(3)]
    first = [len(epoch[0].batch[0]) for epoch in epochs]
    assert first == [6, 5, 5]


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_few_cells_are_divided_among_all_processes(folder, parts):
    shards = open_shards(folder)  # fewer than a block of 1024
    shares = [BlockMinibatches((shards,), None, 16, share=Share(i, parts)) for i in range(parts)]
    epochs = [share.epoch(0) for share in shares]
    read = [[cell for part in epoch for cell in cell_of(part.batch[0])] for epoch in epochs]
    assert sorted(cell for cells in read for cell in cells) == list(range(N))
    assert min(map(len, read)) > N / parts / 2


@pytest.mark.parametrize("drop_last", [False, True])
def test_only_the_last_minibatch_is_smaller(folder, drop_last):
    shards = open_shards(folder)
    shards.block = 4
    data = BlockMinibatches((shards,), None, 16, drop_last=drop_last, blocks=3)
    sizes = [len(part.batch[0]) for part in data.epoch(0)]
    assert sizes == [16] * (N // 16) + ([] if drop_last else [N % 16])


def test_epochs_are_shuffled_anew_and_alike_for_a_seed(folder):
    shards = open_shards(folder)
    first, again, other = (
        [row for part in small(shards).epoch(seed) for row in part.rows.tolist()]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    # Rows of a shuffled order are neighbours in about 2 of N places; in blocks of 4 of a buffer of
    # 20, a row follows its neighbour in about 1 of 20 places, and never keeps most of its order.
    neighbours = sum(b - a == 1 for a, b in pairwise(first))
    assert neighbours < N / 5


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_an_epoch_continues_where_it_was_left(folder, start):
    shards = open_shards(folder)
    whole = [part.rows.tolist() for part in small(shards).epoch(3)]
    assert [part.rows.tolist() for part in small(shards).epoch(3, start)] == whole[start:]


@pytest.mark.parametrize("parts", [1, 4])
def test_in_order_the_shares_are_all_cells(folder, parts):
    shards = open_shards(folder)
    shares = [small(shards, Share(i, parts)) for i in range(parts)]
    cells = [c for share in shares for part in share.in_order() for c in cell_of(part.batch[0])]
    assert cells == list(range(N))


def test_a_selection_and_its_context_stay_together(folder):
    shards = open_shards(folder)
    shards.block = 8
    rows = torch.arange(0, N, 3)
    numbers = rows.unsqueeze(1).float()
    data = as_minibatches((shards.select(rows), numbers), None, batch_size=16)
    assert isinstance(data, BlockMinibatches)
    for part in data.epoch(0):
        x, c = part.batch
        assert cell_of(x) == c.flatten().long().tolist()


@pytest.mark.parametrize("rows", [[1.7], torch.tensor([0.0, 1.0]), np.eye(2, dtype=int)])
def test_rows_that_are_no_integers_are_refused(folder, rows):
    shards = open_shards(folder)
    for read in (shards.select, shards.to_memory, shards.__getitem__):
        with pytest.raises(IndexError, match="expected row numbers, which are integers, or a mask"):
            read(rows)


# ------------------------------------------------------------------------------------------- a fit
def test_a_fit_streams_the_shards(stored):
    train, held_out = (open_shards(stored).select(rows) for rows in pv.batches.split(N, 0.2))
    q = pv.posteriors.DiagonalNormal(nn.Linear(GENES, 4))
    p = pv.likelihoods.Poisson(nn.Linear(2, GENES))
    vae = pv.VAE(pv.priors.StandardNormal(2), q, p)
    options = {"epochs": 5, "batch_size": 16, "seed": 0, "progress": False}
    options |= {"learning_rate": 0.01, "validation": held_out}
    history = pv.fit(vae, train, **options)
    assert history.loss[-1] < history.loss[0]
    assert len(history.validation_elbo) == 5
    in_memory = held_out[:]
    assert pv.elbo(vae, held_out).elbo.shape == pv.elbo(vae, in_memory).elbo.shape == (30,)


def test_a_fit_killed_within_an_epoch_loses_only_the_steps_since(sparse_folder, tmp_path):
    """A hook that raises stands for the kill: nothing is written after the last checkpoint."""

    class Kill(pv.hooks.Hook):
        def on_step(self, step):
            if step.step == 14:  # the 5th of the 2nd epoch of 10 steps
                raise KeyboardInterrupt

    def count_vae():
        with torch.random.fork_rng():
            torch.manual_seed(4)
            return pv.graphs.count_vae(GENES, hidden=8, latents=2)  # with dropout and batch norm

    shards, file = open_shards(sparse_folder), tmp_path / "fit.safetensors"
    options = {"epochs": 3, "batch_size": 16, "seed": 0, "progress": False}
    whole, killed, again = count_vae(), count_vae(), count_vae()
    pv.fit(whole, shards, **options)
    with pytest.raises(KeyboardInterrupt):
        pv.fit(killed, shards, checkpoint=file, checkpoint_every=3, hooks=Kill(), **options)
    state = checkpoint.read(file)
    assert (len(state["history"]["loss"]), state["position"]) == (1, 3)
    pv.fit(again, shards, resume=file, **options)
    pairs = zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_value_that_is_not_finite_is_named(tmp_path):
    x = counts()
    x[91, 3] = np.nan
    adata = anndata.AnnData(sparse.csr_matrix(x))
    adata.write_h5ad(tmp_path / "a.h5ad")
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(nn.Linear(GENES, 4)),
        pv.likelihoods.Poisson(nn.Linear(2, GENES)),
    )
    with pytest.raises(ValueError, match=r"nan in row 91, position \(3,\)"):
        pv.fit(vae, open_shards(tmp_path), epochs=1, batch_size=16, progress=False)


# -------------------------------------------------------------------------------------- what cannot
def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no files that end in \.h5ad or \.zarr"):
        open_shards(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_shards(tmp_path / "none")


def test_a_folder_of_images_names_what_reads_such_a_folder(sparse_folder):
    with pytest.raises(ValueError, match=r"singlecell\.open_shards"):
        pv.datasets.image_folder(sparse_folder)


def test_other_genes_are_refused(sparse_folder):
    adata = anndata.read_h5ad(sparse_folder / "2.h5ad")
    adata[:, ::-1].copy().write_h5ad(sparse_folder / "2.h5ad")
    with pytest.raises(ValueError, match=r"2\.h5ad: its 7 genes are not those of .*0\.h5ad"):
        open_shards(sparse_folder)


def test_a_layer_that_is_missing_and_counts_by_genes_are_refused(sparse_folder):
    with pytest.raises(ValueError, match=r"no layers/raw; it has 'twice'"):
        open_shards(sparse_folder, layer="raw")
    adata = anndata.read_h5ad(sparse_folder / "1.h5ad")
    adata.X = adata.X.tocsc()
    adata.write_h5ad(sparse_folder / "1.h5ad")
    with pytest.raises(ValueError, match="stored by genes"):
        open_shards(sparse_folder)


def test_a_truncated_file_is_refused(sparse_folder):
    file = sparse_folder / "3.h5ad"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"3\.h5ad: truncated"):
        open_shards(sparse_folder)


def test_fewer_rows_than_processes_are_refused(sparse_folder):
    with pytest.raises(ValueError, match="at least one row for each"):
        small(open_shards(sparse_folder), Share(0, 4), batch_size=3)


def test_other_sources_are_not_read_in_blocks():
    assert ArrayRows(np.zeros((3, 2))).block is None


def test_few_files_are_open_at_once(stored, monkeypatch):
    monkeypatch.setattr("pyrovae.singlecell.shard_files._OPEN", 2)
    cells = open_shards(stored)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert cell_of(cells[order]) == order.tolist()
    assert len(cells._files._open) == len(cells._files._matrices) == 2
    assert len(cells.obs) == N
    assert cell_of(pickle.loads(pickle.dumps(cells))[order]) == order.tolist()
