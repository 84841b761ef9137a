"""Sources: every kind gives the same rows, the same scan and the same digest, and is read once."""

import copy
import hashlib
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse
from torch import Tensor, nn

import pyrovae as pv
from pyrovae.data import (
    COUNTS,
    ArrayRows,
    Off,
    Rows,
    Scan,
    Source,
    SparseRows,
    Support,
    TensorRows,
    TransformedRows,
    as_source,
    as_sources,
    batches,
    fingerprint,
    source,
    supports,
    to_scipy,
)
from pyrovae.data import sparse as sparse_module

SUPPORTS = [*(getattr(supports, name) for name in ("BINARY", "UNIT", "REAL", "COUNTS"))]
POSITIVE = Support("positive numbers", 0.5, 1e9, whole=False)  # zero is off it
CPU = torch.device("cpu")


class Disk(Rows):
    """Rows that are made when they are asked for: a kind that the library does not know."""

    def __init__(self, x):
        super().__init__(x.shape, torch.from_numpy(x[:1]).dtype)
        self.x, self.read = x, 0

    def __getitem__(self, rows):
        part = torch.from_numpy(self.x[rows if isinstance(rows, slice) else rows.numpy()])
        self.read += part.numel()
        return part


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def mapped(x, folder):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


KINDS = {
    "tensor": torch.from_numpy,
    "strided tensor": lambda x: torch.from_numpy(np.asfortranarray(x)),
    "array": lambda x: x,
    "read-only": read_only,
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "other bytes": lambda x: x.astype(x.dtype.newbyteorder("S")),
    "selection": lambda x: as_source(read_only(np.tile(x, (2, 1)))).select(
        torch.arange(len(x)) + len(x)
    ),
    "transformed": lambda x: TransformedRows(as_source(read_only(x)), Tensor.clone, CPU, None),
    "disk": Disk,
    "csr": lambda x: sparse.csr_array(x),
    "csc": lambda x: sparse.csc_matrix(x),
    "torch csr": lambda x: SparseRows.of(sparse.csr_array(x)).to("cpu"),
    "list": lambda x: x.tolist(),
}
TABLES = st.sampled_from([np.float32, np.float64, np.uint8, np.int64]).flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.sampled_from(
            [0, 0, 1, 2, 100] + ([0.25, -3.5] if np.dtype(dtype).kind == "f" else [])
        )
        | (
            st.sampled_from([np.nan, np.inf, -np.inf])
            if np.dtype(dtype).kind == "f"
            else st.nothing()
        ),
    )
)


def first_of(bad, x):
    if not bad.any():
        return None
    row, column = np.argwhere(bad)[0].tolist()
    return Off(x[row, column].item(), row, (column,), int(bad.sum()))


def expected(x, support):
    finite = x[np.isfinite(x)].astype(float)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (np.inf, -np.inf)
    inside = np.isfinite(x) & (x >= support.low) & (x <= support.high)
    off = ~(inside & (x == np.floor(x))) if support.whole else ~inside
    whole = bool((finite == np.floor(finite)).all())
    return Scan(low, high, whole, first_of(~np.isfinite(x), x), first_of(off, x))


def same(a, b):
    return repr(a) == repr(b)  # NaN is not equal to itself


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(
    x=TABLES, support=st.sampled_from([*SUPPORTS, POSITIVE]), at_once=st.sampled_from([1, 5, 99])
)
def test_every_kind_finds_what_is_there(kind, x, support, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "AT_ONCE", at_once)
        patch.setattr(sparse_module, "AT_ONCE", at_once)
        whole = expected(x, support)
        fresh = as_source(KINDS[kind](x))
        assert same(fresh.scan(support), whole)  # asked at once,
        assert same(fresh.scan(), whole._replace(off=None))
        after = as_source(KINDS[kind](x))
        assert same(after.scan(), whole._replace(off=None))  # and after the scan
        assert same(after.scan(support), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_every_kind_gives_the_rows_asked_for(kind, dtype):
    x = np.random.default_rng(0).integers(0, 3, (7, 4)).astype(dtype)
    rows, picked = as_source(KINDS[kind](x)), torch.tensor([5, 0, 5])
    assert isinstance(rows, Source)
    assert (len(rows), rows.shape, rows.numel()) == (7, (7, 4), 28)
    for index, numbers in (
        (slice(2, 5), slice(2, 5)),
        (slice(None), slice(None)),
        (picked, [5, 0, 5]),
    ):
        assert rows[index].dtype == rows.dtype
        assert rows[index].tolist() == x[numbers].tolist()
        assert torch.equal(rows[index], rows.to("cpu")[index])
    chosen = rows.select(picked)
    assert chosen[:].tolist() == x[[5, 0, 5]].tolist()
    assert chosen[torch.tensor([1])].tolist() == x[[0]].tolist()
    assert rows.count_nonzero() == np.count_nonzero(x)
    for dim in (0, 1):
        assert rows.sum(dim).dtype == torch.float64
        assert rows.sum(dim).tolist() == x.sum(dim).tolist()
        assert chosen.sum(dim).tolist() == x[[5, 0, 5]].sum(dim).tolist()
    assert (to_scipy(rows).toarray() == x).all()
    for again in (
        copy.deepcopy(rows),
        pickle.loads(pickle.dumps(rows)) if kind != "disk" else rows,
    ):
        again.scan(COUNTS)
        assert torch.equal(again[:], rows[:])


def digest_of(*parts):
    """Return the digest as version 0.1.0 defined it."""
    digest = hashlib.sha256()
    for x, *stored in parts:
        digest.update(f"{tuple(x.shape)} {torch.from_numpy(x).dtype};".encode())
        for part in stored or (x,):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("at_once", [3, 1 << 20])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_the_digest_is_of_shape_type_and_values(kind, dtype, at_once, monkeypatch):
    monkeypatch.setattr(source, "AT_ONCE", at_once)
    monkeypatch.setattr(sparse_module, "AT_ONCE", at_once)
    x = np.random.default_rng(0).integers(0, 3, (7, 4)).astype(dtype)
    c = np.arange(14.0).reshape(7, 2)
    kept = as_source(KINDS[kind](x))
    table, stored = sparse.csr_array(x), ()
    if isinstance(kept, SparseRows):
        stored = (table.indptr.astype(np.int64), table.indices.astype(np.int64), table.data)
    if kind == "list":
        x = np.asarray(x.tolist())
    assert fingerprint((kept,)) == digest_of((x, *stored))
    assert fingerprint((kept, c)) == digest_of((x, *stored), (c,))
    assert fingerprint((c, kept)) == digest_of((c,), (x, *stored))


def test_the_digest_is_that_of_version_0_1_0():
    x = np.random.default_rng(0).integers(0, 200, (1500, 30))
    table = sparse.random(700, 40, 0.2, format="csr", random_state=0, dtype=np.float32)
    assert fingerprint((x.astype(np.uint8),)).startswith("08699eead54764cc")
    assert fingerprint((x.astype(np.uint16),)).startswith("05311dc005ec4936")
    assert fingerprint((x.astype(np.float32)[::-1, ::-1],)).startswith("7b4b10cf15aa33e4")
    assert fingerprint((table,)).startswith("aff52071bafea9a5")
    assert fingerprint((table, np.ones((700, 2)))).startswith("6dc98801061ba964")


def test_the_digest_tells_data_apart():
    x = torch.arange(12.0).reshape(3, 4)
    parts = ((x,), (x.clone(),), (x.reshape(4, 3),), (x.double(),), (x + 1,), (x, x))
    digests = [fingerprint(part) for part in parts]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


# --------------------------------------------------------------------- once and in bounded memory
def ones_and_zeros(n=50, d=6):
    return np.random.default_rng(0).integers(0, 2, (n, d)).astype(np.float32)


def small_vae(d=6):
    net = pv.nets.MLP(d, (4,), 4)
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(net),
        pv.likelihoods.Bernoulli(nn.Linear(2, d)),
    )


def test_what_was_found_is_kept():
    x, c = Disk(ones_and_zeros()), Disk(ones_and_zeros(d=2))
    data = as_sources((x, c), digest=True)
    assert as_sources(data, digest=True) == data
    assert data[0] is x
    digest = fingerprint(data)
    x.scan(supports.BINARY)
    supports.suggest_likelihoods(x)
    pv.likelihoods.Bernoulli(nn.Linear(2, 6)).check(x)
    assert (x.read, c.read) == (x.numel(), c.numel())
    assert fingerprint((x, c)) == digest != fingerprint((x,))


def test_checks_of_a_fit_read_the_data_once_and_a_second_fit_not_at_all():
    x, c = Disk(ones_and_zeros()), Disk(ones_and_zeros(d=2))
    graph, seen = small_vae(), []

    class Stopped(Exception):  # noqa: N818 (no error)
        pass

    def stop(parameters):
        seen.append((x.read, c.read))
        raise Stopped

    graph.posterior.net = pv.nets.MLP(8, (4,), 4)
    graph.likelihood.net = pv.nets.MLP(4, (4,), 6)
    for _ in range(2):
        with pytest.raises(Stopped):
            pv.fit(graph, (x, c), batch_size=10, optimizer=stop, progress=False)
    example = 10  # rows on which the parameters are found
    assert seen[0] == ((50 + example) * 6, (50 + example) * 2)
    assert seen[1] == ((50 + 2 * example) * 6, (50 + 2 * example) * 2)


def test_a_new_kind_of_source_is_one_class():
    x, graph = ones_and_zeros(), small_vae()
    history = pv.fit(graph, Disk(x), validation=Disk(x[:20]), epochs=2, seed=0, progress=False)
    assert history.data == fingerprint((x,))
    other = small_vae()
    other.load_state_dict(graph.state_dict())
    for f in (pv.embed, pv.reconstruct):
        assert torch.equal(f(graph, Disk(x)), f(graph, x))
    evidence = [pv.log_evidence(graph, rows, samples=5).log_p for rows in (Disk(x), x)]
    assert torch.equal(*evidence)
    with pytest.raises(ValueError, match=r"Bernoulli.*got 2 at row 0, position \(0,\)"):
        pv.fit(graph, Disk(x * 0 + 2), epochs=1)


def test_members_that_are_read_in_blocks_are_called_as_others_are():
    x, c = Disk(ones_and_zeros()), Disk(ones_and_zeros(d=2)[:49])
    x.block = 4
    with pytest.raises(ValueError, match="context 1 has 49 rows, x has 50"):
        pv.fit(small_vae(), (x, c), epochs=1)


def peak(f):
    tracemalloc.start()  # NumPy's arrays are counted
    try:
        f()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [mapped, lambda x, _: read_only(x), lambda x, _: x[:, ::-1]])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_are_never_copied_whole(make, dtype, tmp_path):
    x = make(np.zeros((8192, 2048), dtype), tmp_path)  # 16 million values
    found = []

    def look():
        (rows,) = as_sources(x, digest=True)
        found.append(rows)
        rows.scan(COUNTS)
        rows[torch.tensor([1, 8000])]

    assert peak(look) < 5 * 8 * source.AT_ONCE / 2  # a block and its copy in int64
    assert isinstance(found[0], ArrayRows)


def test_shared_memory_is_shared():
    x = np.zeros((3, 2))
    x[as_source(x)[:].numpy() == 0] = 1
    assert as_source(x)[:].data_ptr() == x.ctypes.data
    t = torch.zeros(3, 2)
    assert as_source(t)[:].data_ptr() == t.data_ptr()


def test_a_memory_map_stays_on_the_disk(tmp_path):
    rows = as_source(mapped(ones_and_zeros(), tmp_path))
    assert rows.to("meta") is rows
    assert as_source(read_only(ones_and_zeros())).to("meta").device.type == "meta"


def test_a_transform_sees_blocks_and_its_values_are_checked(monkeypatch):
    monkeypatch.setattr(source, "AT_ONCE", 60)
    x, seen = np.random.default_rng(0).random((50, 6)), []

    def half_binary(rows):
        seen.append(len(rows))
        return batches.binarize(rows) if len(rows) < 11 else rows

    graph, state = small_vae(), torch.get_rng_state()
    pv.fit(graph, x, transform=half_binary, batch_size=10, epochs=1, seed=0, progress=False)
    assert max(seen) == 10
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match=r"Bernoulli: expected x to hold 0 or 1, got .* at row 0"):
        pv.fit(small_vae(), x, transform=lambda rows: rows * 0.5, epochs=1)


# ------------------------------------------------------------------------------------ sparse rows
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.bool])
def test_sparse_rows_of_types_that_scipy_lacks(dtype):
    x = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 1]]).to(dtype)
    rows = SparseRows.of(x.to_sparse())
    assert torch.equal(rows[torch.tensor([2, 1, 2])], x[[2, 1, 2]])
    assert torch.equal(rows[1:], x[1:])
    assert rows.scan() == Scan(0.0, 1.0, True)


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_indices_are_not_copied(index):
    table = sparse.random(50, 20, 0.2, format="csr", dtype=np.float32, random_state=0)
    table.indices, table.indptr = table.indices.astype(index), table.indptr.astype(index)
    rows = SparseRows.of(table)
    assert (rows[:].numpy() == table.toarray()).all()
    assert np.shares_memory(to_scipy(rows).indices, table.indices)
    assert np.shares_memory(to_scipy(rows).data, table.data)


def test_sums_over_duplicates_and_the_place_of_a_value():
    table = sparse.coo_matrix(([1.0, 2.0, -1.0], ([0, 0, 2], [1, 1, 0])), shape=(3, 2)).tocsr(
        copy=True
    )
    rows = SparseRows.of(table)
    assert rows[:].tolist() == [[0, 3], [0, 0], [-1, 0]]
    assert rows.scan(COUNTS).off == Off(-1.0, 2, (0,), 1)
    with pytest.raises(ValueError, match="expected two axes"):
        SparseRows.of(torch.zeros(2, 2, 2).to_sparse())


def test_data_that_require_a_gradient_get_none():
    x = torch.rand(8, 6).round().requires_grad_()
    q = pv.posteriors.DiagonalNormal(torch.nn.Linear(6, 4))
    likelihood = pv.likelihoods.Bernoulli(torch.nn.Linear(2, 6))
    pv.fit(pv.VAE(pv.priors.StandardNormal(2), q, likelihood), x, epochs=1, progress=False)
    assert x.grad is None


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("kind", ["csr", "csc", "torch"])
@pytest.mark.parametrize("column", [-1, 7])
def test_a_sparse_table_whose_indices_leave_it_is_refused(kind, column):
    table = sparse.csr_matrix(np.eye(4, 4, dtype=np.float32))
    if kind == "torch":
        parts = torch.arange(5), torch.tensor([0, column, 2, 3]), torch.ones(4)
        table = torch.sparse_csr_tensor(*parts, (4, 4), check_invariants=False)
    else:
        table = table.asformat(kind)
        table.indices[1] = column
    with pytest.raises(ValueError, match="damaged"):
        SparseRows.of(table)


def test_sums_of_rows_are_not_disturbed_by_a_huge_neighbour():
    x = np.array([[1e30, 0], [1, 2], [0, 0], [0, 3]])
    assert SparseRows.of(sparse.csr_matrix(x)).sum(1).tolist() == [1e30, 3, 0, 3]


@pytest.mark.parametrize("at_once", [3, 1 << 20])
def test_a_view_of_a_sparse_table_is_the_table_of_those_rows(monkeypatch, at_once):
    monkeypatch.setattr("pyrovae.data.sparse.AT_ONCE", at_once)
    monkeypatch.setattr("pyrovae.data.sparse._ROWS_AT_ONCE", 4)
    table = sparse.random(30, 7, 0.3, format="csr", dtype=np.float32, random_state=0)
    table.data[:] = np.arange(1, table.nnz + 1)
    rows = torch.tensor([28, 3, 3, 0, 17, 11])
    whole = SparseRows.of(table)
    view, copy = whole.view(rows), whole.select(rows)
    assert torch.equal(view[:], copy[:])
    assert torch.equal(view[torch.tensor([4, 1])], copy[torch.tensor([4, 1])])
    assert view.scan() == copy.scan()
    assert view.digest(hashlib.sha256()).digest() == copy.digest(hashlib.sha256()).digest()
    for dim in (0, 1):
        assert torch.allclose(view.sum(dim), copy.sum(dim))
        assert np.allclose(whole.sum(dim), table.sum(dim, dtype=np.float64).ravel())
    assert view.count_nonzero() == copy.count_nonzero()
    no_zeros = Support("positive", 1, float("inf"), whole=True)
    assert view.scan(no_zeros).off == copy.scan(no_zeros).off
    place = (rows == 17).nonzero().item()
    column = int(table[17].indices[-1])
    table.data[table.indptr[18] - 1] = -5.0  # the memory is shared
    off = whole.view(rows).scan(COUNTS).off
    assert off == Off(-5.0, place, (column,), 1)
    assert off == whole.select(rows).scan(COUNTS).off


@pytest.mark.parametrize(("share", "dense"), [(0.2, False), (0.3, True)])
def test_a_fit_holds_a_fairly_dense_table_dense(share, dense):
    x = (torch.rand(40, 50, generator=torch.Generator().manual_seed(0)) < share) * 3.0
    table = SparseRows.of(sparse.csr_matrix(x.numpy()))
    for rows in (table, table.view(torch.arange(40)), table.view(torch.tensor([3, 1, 30]))):
        held = rows.for_epochs()
        assert isinstance(held, TensorRows) == dense
        assert torch.equal(held[:], rows[:])
        if not dense:
            assert held is rows


def test_a_large_table_stays_sparse(monkeypatch):
    table = SparseRows.of(sparse.csr_matrix(np.ones((10, 10))))
    monkeypatch.setattr("pyrovae.data.sparse._LARGEST_COPY", 10 * 10 * 8 - 1)
    assert table.for_epochs() is table
    monkeypatch.setattr("pyrovae.data.sparse._LARGEST_COPY", 10 * 10 * 8)
    assert isinstance(table.for_epochs(), TensorRows)


def rows_of_graph():
    return pv.VAE(nn.Identity(), nn.Identity(), nn.Identity())


class Table:
    """What an AnnData is to NumPy, which would look into it for minutes."""

    obs_names = ("a",)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("read")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (rows_of_graph(), r"is a graph, VAE, .*the graph comes first"),
        (pv.datasets.digits(), r"is a data set, .*give its rows, such as digits\.x"),
        (Table(), r"is of type Table, .*such as adata\.X"),
        (0.1, r"is the number 0\.1, .*pyrovae\.batches\.split"),
        (lambda: torch.ones(3, 2), r"is a function, function, .*call it"),
    ],
    ids=["graph", "data set", "AnnData", "number", "function"],
)
def test_what_is_no_array_is_refused_with_the_place_of_its_rows(x, words):
    with pytest.raises(TypeError, match=f"data: x {words}"):
        as_sources(x, "data")


def test_a_list_of_minibatches_is_told_how_it_was_read():
    with pytest.raises(ValueError, match=r"context 2 has 1 rows, .*pass minibatches as iter\("):
        as_sources([torch.ones(2, 3), torch.ones(2, 3), torch.ones(1, 3)], "data")


def test_a_data_set_is_shown_in_one_line():
    words = "Dataset('digits': 1437 and 360 test rows of (1, 8, 8) of 10 classes, counts)"
    assert repr(pv.datasets.digits()) == words


@pytest.mark.parametrize("name", ["guide", "obs_names", "x"])
def test_a_table_is_an_array_whatever_its_columns_are_called(name):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({name: [1.0, 2.0], "other": [3.0, 4.0]})
    assert as_source(table).shape == (2, 2)
