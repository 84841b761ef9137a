"""Differential expression: planted fold changes are found, whatever other genes do."""

import copy

import numpy as np
import pytest
import torch

anndata = pytest.importorskip("anndata")
from scipy.sparse import csr_matrix  # noqa: E402

from pyrovae.singlecell import SingleCellVAE  # noqa: E402
from pyrovae.singlecell.change import Rule, compared, estimated_pseudocount  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:5 genes have no counts")  # on purpose

N, G, UP, DOWN, MARKER, NEVER = 700, 200, range(20), range(20, 40), 50, range(60, 65)
UNCHANGED = [g for g in range(G) if g >= 40 and g != MARKER]


def planted(seed, marker):
    """Return cells of A and B: in B 20 genes are up and 20 down fourfold, five are nowhere.

    With `marker` one more gene, a percent of all transcripts in B, is absent from A.
    """
    random = np.random.default_rng(seed)
    base = random.gamma(1.0, size=G) + 0.1
    base /= base.sum()
    base[MARKER], base[NEVER] = 0.01, 0.0
    in_b = random.integers(2, size=N)
    change = np.zeros(G)
    change[UP], change[DOWN] = 2.0, -2.0
    rho = base * np.exp2(change * in_b[:, None])
    if marker:
        rho[in_b == 0, MARKER] = 0.0
    rho /= rho.sum(1, keepdims=True)
    depth = np.exp(random.normal(7.6, 0.3, size=(N, 1)))
    x = random.poisson(random.gamma(5.0, 0.2, size=(N, G)) * rho * depth).astype(np.float32)
    adata = anndata.AnnData(csr_matrix(x))
    adata.var_names = [f"gene {g}" for g in range(G)]
    adata.obs_names = [f"cell {n}" for n in range(N)]
    adata.obs["group"] = np.where(in_b == 1, "B", "A")
    adata.obs["half"] = random.permutation(N) % 2.0
    SingleCellVAE.setup_anndata(adata)
    return adata


def fitted(seed, marker=True, **options):
    model = SingleCellVAE(planted(seed, marker), n_hidden=64, **options)
    model.train(max_epochs=60, progress=False)
    return model


@pytest.fixture(scope="module")
def with_marker():
    return fitted(0)


def in_order(model, *arguments, **options):
    return model.differential_expression(*arguments, **options).loc[list(model.adata.var_names)]


@pytest.mark.parametrize("marker", [True, False])
def test_a_gene_that_is_absent_from_a_group_does_not_hide_the_changes_of_others(
    marker, with_marker
):
    model = with_marker if marker else fitted(1, marker=False)
    table = in_order(model, "group", "B", "A")
    proportions = table["raw_mean1"] / table["raw_mean1"].sum()
    observed = np.log2(proportions / (table["raw_mean2"] / table["raw_mean2"].sum()))
    for genes in (list(UP), list(DOWN)):
        ratio = table["lfc_mean"].iloc[genes].mean() / observed.iloc[genes].mean()
        assert 0.75 < ratio < 1.15
    called = table["is_de_fdr_0.05"].to_numpy()
    assert called[:40].sum() >= 37
    assert called[UNCHANGED].sum() <= 2  # a twentieth of the calls
    assert not called[list(NEVER)].any()


def test_nothing_is_called_between_random_halves(with_marker):
    assert not in_order(with_marker, "half", 0, 1)["is_de_fdr_0.05"].any()


def test_genes_that_only_a_third_type_changes_are_not_called():
    """The reason for another rule than scvi-tools', see `differential.discoveries`."""
    random = np.random.default_rng(0)
    base, kind = random.gamma(1.0, size=G) + 0.1, random.integers(3, size=N)
    change = np.zeros((3, G))
    change[1, UP], change[1, DOWN], change[2, 40:60] = 2.0, -2.0, 2.0
    rho = base * np.exp2(change[kind])
    depth = np.exp(random.normal(7.6, 0.3, size=(N, 1))) / rho.sum(1, keepdims=True)
    x = random.poisson(random.gamma(5.0, 0.2, size=(N, G)) * rho * depth).astype(np.float32)
    adata = anndata.AnnData(csr_matrix(x))
    adata.obs["type"] = np.array(list("ABC"))[kind]
    SingleCellVAE.setup_anndata(adata)
    model = SingleCellVAE(adata, n_hidden=64)
    model.train(max_epochs=60, progress=False)
    table = in_order(model, "type", "B", "A")
    called = table["is_de_fdr_0.05"].to_numpy()
    assert called[:40].sum() >= 36
    assert not called[40:].any()
    order = np.argsort(-table["proba_de"].to_numpy())
    errors = table["proba_not_de"].to_numpy()[order].cumsum() / np.arange(1, G + 1)
    largest = order[: (errors <= 0.05).nonzero()[0][-1] + 1]
    assert (largest >= 40).mean() > 0.05


def test_a_pseudocount_is_half_a_transcript_of_the_smaller_group(with_marker):
    assert estimated_pseudocount((2e5, 1e6)) == pytest.approx(2.5e-6)
    assert estimated_pseudocount((0.0, 1e6)) == 0.5  # a group of empty cells
    totals = np.asarray(with_marker.adata.X.sum(1)).ravel()
    for few in (np.arange(30), np.arange(500)):
        table = with_marker.differential_expression(idx1=few, n_samples=4000)
        rest = np.setdiff1d(np.arange(N), few)
        expected = 0.5 / min(totals[few].sum(), totals[rest].sum())
        # The library size is latent: its posterior mean is not the total.
        np.testing.assert_allclose(table["pseudocounts"], expected, rtol=0.15)
    given = with_marker.differential_expression(idx1=few, n_samples=10, pseudocounts=1e-3)
    np.testing.assert_allclose(given["pseudocounts"], 1e-3, rtol=1e-6)


@pytest.mark.parametrize("observed", [False, True])
def test_minified_cells_give_the_same_changes(observed, with_marker):
    whole = fitted(2, use_observed_lib_size=True) if observed else with_marker
    small = copy.deepcopy(whole)
    small.minify_adata()
    before, after = (in_order(model, "group", "B", "A", n_samples=2000) for model in (whole, small))
    for column in ("pseudocounts", "lfc_mean", "lfc_median", "proba_de", "scale1", "scale2"):
        np.testing.assert_allclose(after[column], before[column], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(after["pseudocounts"], before["pseudocounts"], rtol=1e-3)
    assert (after["is_de_fdr_0.05"] == before["is_de_fdr_0.05"]).all()


def test_whole_numbers_name_their_group_however_they_are_stored(with_marker):
    adata = with_marker.adata.copy()
    adata.obs["number"] = np.where(np.arange(N) < 9, np.nan, np.arange(N) % 3.0)
    by = {"adata": adata, "n_samples": 50}
    expected = with_marker.differential_expression("number", "1.0", "2.0", **by)
    assert with_marker.differential_expression("number", 1, 2, **by).equals(expected)
    assert with_marker.differential_expression("number", [1], "2", **by).equals(expected)
    with pytest.raises(ValueError, match=r"'1\.5' is no group"):
        with_marker.differential_expression("number", 1.5, **by)


@pytest.mark.parametrize(
    ("rule", "p"),
    [(Rule("vanilla"), 0.5), (Rule(delta=0.0), 0.0), (Rule(delta=0.0, test_mode="two"), 0.0)],
    ids=str,
)
def test_a_gene_that_does_not_differ_in_any_pair_is_not_called(rule, p):
    rho = torch.tensor([[0.2, 0.2, 0.3, 0.2], [0.2, 0.3, 0.3, 0.2]])
    found = compared(rho, torch.full((2, 4), 0.2), rule, 1e-6)
    half, sure = (0.75, 1.0) if rule.mode == "vanilla" else (0.5, 1.0)
    assert found.proba_de.tolist() == [p, half, sure, p]
    assert torch.isfinite(found.bayes_factor).all()
