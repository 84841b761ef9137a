"""The command line on single cells, from end to end on tiny data: files, commands, messages."""

import html
import json
import math
import re
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import call
from safetensors.torch import load_file
from test_command import given, strict

from pyrovae.command.report import cell_plots, planes, style

anndata = pytest.importorskip("anndata")
from pyrovae.command import fit as pipeline  # noqa: E402
from pyrovae.command import runs  # noqa: E402
from pyrovae.command.cells import clusters, figures, mixing, resolve  # noqa: E402
from pyrovae.command.cells.experiment import placement  # noqa: E402
from pyrovae.command.cells.settings import CellSettings  # noqa: E402
from pyrovae.command.choices import Dispersion, Likelihood  # noqa: E402
from pyrovae.files import History  # noqa: E402
from pyrovae.singlecell import (  # noqa: E402
    SingleCellVAE,
    simulate,
)

KEYS = ["--batch-key", "batch", "--labels-key", "cell_type"]
QUICK = ["--epochs", "2", "--hidden", "8", "--latents", "3", "--samples", "5", "--test-rows", "20"]
TERSE = [*QUICK, "--no-report"]


def table(n=120, genes=30, seed=0):
    adata = simulate(cells=n, genes=genes, types=3, batches=2, seed=seed).to_anndata()
    del adata.layers["rho"]
    adata.obs["stress"] = np.linspace(-1, 1, n)
    return adata


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Files of cells, good and bad, by name."""
    folder = tmp_path_factory.mktemp("cells")

    def write(name, change=None, **options):
        adata = table(**options)
        if change:
            change(adata)
        adata.write_h5ad(folder / f"{name}.h5ad")

    def put(value):
        def change(adata):
            x = adata.X.toarray()
            x[11, 7] = value
            adata.X = x

        return change

    def layered(adata):
        adata.layers["counts"], adata.X = adata.X, np.log1p(adata.X.toarray())

    def logs(adata):
        adata.X = np.log1p(adata.X.toarray())

    def batch(adata, names):
        adata.obs = adata.obs.assign(batch=names)

    def gaps(adata):
        x = adata.X.toarray()
        x[:5], x[:, 3] = 0, 0
        adata.X = x

    write("cells")
    write("others", n=40, seed=1)
    write("layered", layered)
    write("logs", logs)
    write("gaps", gaps)
    for name, value in (("nan", np.nan), ("negative", -1.0), ("fraction", 0.5)):
        write(name, put(value))
    write(
        "hole",
        lambda adata: batch(
            adata, [None if i == 5 else name for i, name in enumerate(adata.obs["batch"])]
        ),
    )

    def half(name):
        def change(adata):
            types = adata.obs["cell_type"].astype(object)
            adata.obs = adata.obs.assign(cell_type=types.where(adata.obs.index < "cell 5", name))

        return change

    write("half", half(None))
    write("words", half("Unknown"))
    write("new_batch", lambda adata: batch(adata, "batch 9"), n=10)
    write("zeros", lambda adata: setattr(adata, "X", adata.X * 0))
    adata = table()
    adata[:, :20].copy().write_h5ad(folder / "few_genes.h5ad")
    adata[:0].copy().write_h5ad(folder / "no_cells.h5ad")
    adata.layers["counts"], adata.X = adata.X, None
    adata.write_h5ad(folder / "no_x.h5ad")
    (folder / "empty.h5ad").write_bytes(b"")
    (folder / "cells.h5").write_bytes(b"")
    (folder / "text.h5ad").write_text("years of work")
    whole = (folder / "cells.h5ad").read_bytes()
    (folder / "truncated.h5ad").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def fitted(stored, tmp_path_factory):
    """A run on a file of cells: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "cells"
    return folder, call("fit", stored / "cells.h5ad", *KEYS, "--output", folder, *QUICK)


# -------------------------------------------------------------------------------------- a whole run
def test_a_model_whose_latents_are_not_finite_is_no_success(fitted, stored, tmp_path):
    run = shutil.copytree(fitted[0], tmp_path / "run")
    model = SingleCellVAE.load(run / "model")
    with torch.no_grad():
        for weight in model.graph.posterior.parameters():
            weight.fill_(math.nan)
    model.save(run / "model", overwrite=True)
    figures = tmp_path / "figures.json"
    output = call("evaluate", run, stored / "cells.h5ad", "-o", figures, code=2)
    assert "the model's z are not finite" in output
    assert "test" not in strict(figures)


def test_a_run_leaves_model_figures_and_report(fitted):
    folder, output = fitted
    assert {file.name for file in folder.iterdir()} == {
        "model",
        "run.json",
        "metrics.json",
        "report.html",
    }
    figures = strict(folder / "metrics.json")
    test = figures["test"]
    assert test["elbo"] == pytest.approx(test["reconstruction"] - test["kl"], abs=1e-2)
    assert test["kl"] == pytest.approx(test["kl_z"] + test["kl_l"])
    assert test["elbo"] < figures["log_p"]["mean"] < 0
    assert (test["rows"], figures["unit"], figures["training"]["epochs"]) == (
        12,
        "nats per cell",
        2,
    )
    assert (
        figures["data"]["cells"]
        == sum(figures["data"]["batches"].values())
        == sum(figures["data"]["labels"].values())
        == 120
    )
    assert figures["clusters"]["clusters"] == 3
    page = (folder / "report.html").read_text(encoding="utf-8")
    titles = ["Training", "Latent space", "Library sizes", "Posterior predictive", "KL per unit"]
    assert re.findall(r'<img alt="([^"]*)"', page) == titles
    for text in (
        f"{test['elbo']:.2f} nats",
        "clusters, ARI",
        "zeros, drawn",
        "library size",
        "97 training, 11 validation, 12 test",
    ):
        assert text in page, text
    assert "120 cells, 30 genes, 2 batches, 3 labels" in output
    assert re.search(r"data\s*</th><td><code>[^<]*120 cells of 30 genes", page)


def test_figures_are_those_of_the_face(fitted, stored):
    """The report's numbers by another way: the face of the saved model, scikit-learn and numpy."""
    from sklearn.metrics import silhouette_score

    folder, _ = fitted
    figures, adata = strict(folder / "metrics.json"), anndata.read_h5ad(stored / "cells.h5ad")
    model = SingleCellVAE.load(folder / "model", adata)
    test = np.setdiff1d(
        np.arange(120), np.concatenate([model.train_indices, model.validation_indices])
    )
    assert figures["test"]["elbo"] == pytest.approx(model.get_elbo(indices=test))
    assert figures["log_p"]["mean"] == pytest.approx(
        model.get_marginal_ll(indices=test, n_mc_samples=5)
    )
    totals, sizes = (
        np.asarray(adata.X.sum(1)).ravel()[test],
        model.get_latent_library_size(indices=test).ravel(),
    )
    assert figures["library"]["correlation"] == pytest.approx(
        np.corrcoef(np.log(totals), np.log(sizes))[0, 1]
    )
    drawn = model.posterior_predictive_sample(indices=test, seed=0).toarray()
    assert figures["predictive"]["zeros_drawn"] == pytest.approx((drawn == 0).mean())
    assert figures["predictive"]["zeros_data"] == pytest.approx(
        (adata.X[test].toarray() == 0).mean()
    )
    assert figures["data"]["zeros"] == pytest.approx((adata.X.toarray() == 0).mean())
    z = model.get_latent_representation()
    types, batches = (adata.obs[key].to_numpy().astype(str) for key in ("cell_type", "batch"))
    mixing = figures["mixing"]["latents"]
    assert figures["clusters"]["latents"]["silhouette"] == pytest.approx(
        silhouette_score(z, types), rel=1e-4
    )
    assert mixing["asw_batch"] == pytest.approx(direct_asw(z, batches, types), rel=1e-4)
    assert mixing["ilisi"] == pytest.approx(np.median(direct_lisi(z, batches, 50)), rel=1e-4)
    assert mixing["ilisi_scaled"] == pytest.approx(mixing["ilisi"] - 1)  # of 2 batches


def direct_asw(z, batches, labels):
    """scIB's batch mixing from its definition, by all distances between cells of a label."""
    means = []
    for label in set(labels):
        x, own = z[labels == label].astype(float), batches[labels == label]
        distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
        values = []
        for i in range(len(x)):
            far = {b: distance[i, (own == b) & (np.arange(len(x)) != i)] for b in set(own)}
            if not len(far[own[i]]):
                values.append(0.0)  # of a cell alone, by Rousseeuw's convention
                continue
            a = far[own[i]].mean()
            nearest = min(far[b].mean() for b in far if b != own[i])
            values.append((nearest - a) / max(a, nearest))
        means.append(1 - np.abs(values).mean())
    return np.mean(means)


def direct_lisi(z, batches, k):
    """The inverse Simpson index of each cell's k nearest others, cell by cell."""
    found = []
    for i, cell in enumerate(z.astype(float)):
        distance = ((z - cell) ** 2).sum(1)
        distance[i] = np.inf
        near = batches[np.argsort(distance)[:k]]
        found.append(1 / sum((near == b).mean() ** 2 for b in set(batches)))
    return np.array(found)


def test_evaluate_repeats_the_run(fitted, stored, tmp_path):
    folder, _ = fitted
    output = call(
        "evaluate",
        folder,
        stored / "cells.h5ad",
        "--samples",
        5,
        "--test-rows",
        20,
        "-o",
        tmp_path / "figures.json",
    )
    again, first = strict(tmp_path / "figures.json"), strict(folder / "metrics.json")
    for key in ("test", "log_p", "clusters", "mixing", "predictive", "library"):
        assert again[key] == first[key], key
    assert "12 test cells" in output
    output = call("evaluate", folder / "model", stored / "others.h5ad", "--samples", 0)
    assert "40 test cells" in output
    assert "108 test cells" in call(
        "evaluate", folder, stored / "cells.h5ad", "--samples", 0, "--part", "train"
    )


def test_one_test_cell_has_no_standard_error(fitted, stored):
    arguments = ["evaluate", fitted[0], stored / "cells.h5ad", "--samples", 5, "--test-rows"]
    errors = []
    for rows in (1, 2):
        lines = call(*arguments, rows).splitlines()
        line = next(line for line in lines if line.startswith("log p(x)"))
        errors.append(re.search(r"[\d.]+(?: ± ([\d.]+))? nats", line)[1])
    assert errors[0] is None
    assert float(errors[1]) > 0


def test_cells_that_no_disk_holds_are_refused_before_they_are_written(
    fitted, stored, tmp_path, monkeypatch
):
    def full(handle, start, size):
        assert size > 10_000
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    output = tmp_path / "z.h5ad"
    printed = call("encode", fitted[0], stored / "cells.h5ad", "-o", output, code=2)
    assert f"{output} cannot be written" in "".join(printed.split("\n"))
    assert not list(tmp_path.iterdir())


def test_encode_writes_posterior_means(fitted, stored, tmp_path):
    folder, _ = fitted
    for suffix in ("npy", "npz", "csv", "h5ad"):
        call("encode", folder, stored / "cells.h5ad", "--output", tmp_path / f"z.{suffix}")
    z, named, cells = (
        np.load(tmp_path / "z.npy"),
        np.load(tmp_path / "z.npz"),
        anndata.read_h5ad(tmp_path / "z.h5ad"),
    )
    assert z.shape == (120, 3)
    assert np.array_equal(named["z"], z)
    adata = anndata.read_h5ad(stored / "cells.h5ad")
    assert named["labels"].tolist() == adata.obs["cell_type"].tolist()
    assert named["cells"].tolist() == adata.obs_names.tolist()
    lines = (tmp_path / "z.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("cell,z1,z2,z3,label", 121)
    assert lines[3].startswith("cell 2,")
    assert lines[3].endswith(adata.obs["cell_type"].iloc[2])
    assert np.array_equal(cells.obsm["X_pyrovae"], z)
    assert (cells.X != adata.X).nnz == 0
    call(
        "encode", folder, stored / "cells.h5ad", "--output", tmp_path / "few.npy", "--part", "test"
    )
    assert len(np.load(tmp_path / "few.npy")) == 12


def test_inspect_shows_parts_and_figures(fitted):
    folder, _ = fitted
    output = " ".join(call("inspect", folder).split())
    for text in (
        "CountVAE",
        "likelihood: ZeroInflated",
        "library_prior: LibraryNormal",
        "2 epochs",
        "zeros_drawn",
        "counts: adata.X",
        "genes: 30, 'gene 0'",
        "batch_key: batch",
        "labels_key: cell_type",
        "batch: 2, 'batch 0', 'batch 1'",
    ):
        assert text in output, text


@pytest.mark.parametrize("name", ["half", "words"])
def test_cells_without_a_label_are_grey_and_not_scored(stored, tmp_path, name):
    cells = anndata.read_h5ad(stored / "half.h5ad")
    labelled = int(cells.obs["cell_type"].notna().sum())
    assert 0 < labelled < cells.n_obs
    output = call("fit", stored / f"{name}.h5ad", *KEYS, "--output", tmp_path / "run", *QUICK)
    assert f"{cells.obs['cell_type'].nunique()} labels" in output
    figures = strict(tmp_path / "run" / "metrics.json")
    assert figures["clusters"]["cells"] == labelled
    assert figures["data"]["labels"]["unlabelled"] == cells.n_obs - labelled
    assert "Latent space" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "holds a run" in call(
        "fit", stored / f"{name}.h5ad", "--output", tmp_path / "run", *TERSE, code=2
    )


def test_simulated_cells_know_their_truth(tmp_path, monkeypatch):
    cells = simulate(cells=150, genes=40)
    monkeypatch.setattr(resolve, "simulate", lambda: cells)
    output = call("fit", "simulated-cells", "--output", tmp_path / "run", *TERSE, "--test", 0.2)
    assert "2 batches, 4 labels" in output
    model = SingleCellVAE.load(tmp_path / "run" / "model", cells.to_anndata())
    test = np.setdiff1d(
        np.arange(150), np.concatenate([model.train_indices, model.validation_indices])
    )
    rho = model.get_normalized_expression().to_numpy()[test]
    plain = cells.counts[test] / cells.counts[test].sum(1, keepdims=True)
    sizes = model.get_latent_library_size().ravel()[test]
    truth = strict(tmp_path / "run" / "metrics.json")["truth"]
    assert truth["expression_error"] == pytest.approx(
        np.abs(rho - cells.rho[test]).sum(1).mean() / 2, rel=1e-4
    )
    assert truth["expression_error_of_counts"] == pytest.approx(
        np.abs(plain - cells.rho[test]).sum(1).mean() / 2, rel=1e-4
    )
    assert truth["library_correlation"] == pytest.approx(
        np.corrcoef(np.log(sizes), np.log(cells.library[test]))[0, 1], rel=1e-4
    )
    assert "expression, to truth" in call(
        "evaluate", tmp_path / "run", "simulated-cells", "--samples", 0
    )


# ------------------------------------------------------------------------------------- every option
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("cells", [], "likelihood: ZeroInflated"),
        (
            "cells",
            ["--likelihood", "nb", "--dispersion", "gene-cell"],
            "likelihood: NegativeBinomial",
        ),
        ("cells", ["--likelihood", "poisson", "--layers", "2"], "likelihood: Poisson"),
        ("cells", [*KEYS, "--dispersion", "gene-batch"], "gene-batch"),
        ("cells", ["--prior", "vamp", "--components", "9", "--batch-key", "batch"], "prior: Vamp"),
        (
            "layered",
            ["--layer", "counts", "--prior", "mixture", "--posterior", "iaf"],
            "posterior: IAF",
        ),
        (
            "cells",
            ["--prior", "flow", "--posterior", "full-rank-normal"],
            "posterior: FullRankNormal",
        ),
        ("cells", [*KEYS, "--dispersion", "gene-label", "--dropout", "0.3"], "gene-label"),
        ("cells", [*KEYS, "--observed-library", "--warm-up", "0"], "library_prior: None"),
        (
            "cells",
            [
                "--categorical-key",
                "batch",
                "--categorical-key",
                "cell_type",
                "--continuous-key",
                "stress",
            ],
            "context: 6",
        ),
        (
            "cells",
            [*KEYS, "--encode-covariates", "--validation", "0", "--test", "0.5"],
            "context: 2",
        ),
        (
            "layered",
            ["--layer", "counts", "--batch-size", "16", "--patience", "1"],
            "likelihood: ZeroInflated",
        ),
    ],
)
def test_every_option(name, arguments, expected, stored, tmp_path):
    file = stored / f"{name}.h5ad"
    output = call("fit", file, "--output", tmp_path / "run", *TERSE, *arguments)
    assert "test ELBO" in output
    assert ("clusters, ARI" in output) == ("--labels-key" in arguments)
    assert ("iLISI" in output) == ("--batch-key" in arguments)
    assert ("batches in labels" in output) == ("--labels-key" in arguments)
    assert expected in " ".join(call("inspect", tmp_path / "run").split())
    call("encode", tmp_path / "run", file, "--output", tmp_path / "z.npy")
    assert np.isfinite(np.load(tmp_path / "z.npy")).all()


def test_an_observed_library_has_no_picture_and_says_so(stored, tmp_path):
    output = call("fit", stored / "cells.h5ad", "--observed-library", "--output", tmp_path, *QUICK)
    titles = re.findall(
        r'<img alt="([^"]*)"', (tmp_path / "report.html").read_text(encoding="utf-8")
    )
    assert "Library sizes" not in titles
    assert "Latent space" in titles
    assert re.search(r"library size +observed", output)


def test_what_is_survived_is_said_in_a_line_and_in_the_report(stored, tmp_path):
    output = call("fit", stored / "gaps.h5ad", *KEYS, "--output", tmp_path, *QUICK)
    notes = [line for line in output.splitlines() if line.startswith("note: ")]
    assert any("5 cells have no counts" in line for line in notes)
    assert any("'gene 3'" in line for line in notes)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "5 cells have no counts" in page
    assert "UserWarning" not in output


def test_evaluate_without_labels_names_no_option_that_it_lacks(fitted, stored, tmp_path):
    cells = anndata.read_h5ad(stored / "cells.h5ad")
    del cells.obs["cell_type"]
    cells.write_h5ad(tmp_path / "unlabelled.h5ad")
    output = call("evaluate", fitted[0], tmp_path / "unlabelled.h5ad", "--samples", 0)
    assert "these cells have no column 'cell_type' of obs" in output
    assert "iLISI" in output
    call("fit", stored / "cells.h5ad", "--output", tmp_path / "run", *TERSE)
    output = call("evaluate", tmp_path / "run", stored / "cells.h5ad", "--samples", 0)
    assert "`pyrovae fit` takes the name of their column" in output


def test_the_fit_stays_on_the_device_of_the_command_line(stored, tmp_path, monkeypatch):
    """`SingleCellVAE.train` would move the model to a GPU if there is one."""
    asked, train = [], SingleCellVAE.train

    def recorded(self, *args, **options):
        asked.append((options["accelerator"], options["devices"]))
        return train(self, *args, **options)

    monkeypatch.setattr(SingleCellVAE, "train", recorded)
    call("fit", stored / "cells.h5ad", "--output", tmp_path / "run", *TERSE, "--device", "cpu")
    assert asked == [("cpu", "auto")]


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1"])
def test_devices_of_the_command_line_are_those_of_training(name, monkeypatch):
    from pyrovae.singlecell import scverse

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = placement(torch.device(name))
    assert scverse.device_of(**words) == torch.device(name)


def test_a_fit_that_still_rises_is_called_unfinished(fitted):
    page = (fitted[0] / "report.html").read_text(encoding="utf-8")
    fit = strict(fitted[0] / "metrics.json")["training"]
    assert fit["best_epoch"] == 2
    assert "was still rising when training ended" in fit["warning"]
    assert fit["warning"] in html.unescape(page)
    assert "still improving" in fitted[1]


def test_quiet_prints_nothing(stored, tmp_path):
    assert call("fit", stored / "cells.h5ad", "--output", tmp_path / "run", *TERSE, "--quiet") == ""


# ----------------------------------------------------------------------------- interruption, resume
def weights(folder):
    return load_file(next((folder / "model").glob("weights-*.safetensors")))


def test_interrupted_run_is_usable_and_resumes_exactly(stored, tmp_path, monkeypatch):
    args = [
        "fit",
        stored / "cells.h5ad",
        *KEYS,
        "--hidden",
        8,
        "--latents",
        2,
        "--samples",
        5,
        "--batch-size",
        16,
        "--output",
    ]
    call(*args, tmp_path / "whole", "--epochs", 4, "--no-report")

    def press(history):
        if len(history.elbo) == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "progress_lines", lambda settings, say: press)
        output = call(*args, tmp_path / "cut", "--epochs", 4, code=130)
    assert f"--output {tmp_path / 'cut'} --resume" in output
    assert "interrupted" in (tmp_path / "cut" / "report.html").read_text(encoding="utf-8")
    call("encode", tmp_path / "cut", stored / "cells.h5ad", "--output", tmp_path / "z.npy")
    assert np.isfinite(np.load(tmp_path / "z.npy")).all()
    assert "holds an interrupted run" in call(*args, tmp_path / "cut", code=2)
    resume = ["fit", stored / "cells.h5ad", "--output", tmp_path / "cut", "--resume"]
    assert "was begun with layer None, not counts" in call(*resume, "--layer", "counts", code=2)
    call(*resume, "--no-report")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()


def test_divergence_keeps_the_last_good_model_and_says_so(stored, tmp_path):
    output = call(
        "fit",
        stored / "cells.h5ad",
        "--output",
        tmp_path,
        *QUICK,
        "--learning-rate",
        "1e30",
        code=1,
    )
    assert "Try a smaller learning rate" in output
    assert SingleCellVAE.load(
        tmp_path / "model", anndata.read_h5ad(stored / "cells.h5ad")
    ).is_trained
    assert "Try a smaller learning rate" in (tmp_path / "report.html").read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------- messages
@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["absent.h5ad"], ["absent.h5ad: no such file"]),
        (["{data}"], ["empty.h5ad: truncated"]),
        (["{data}/empty.h5ad"], ["empty.h5ad: truncated, or not an h5ad file"]),
        (["{data}/text.h5ad"], ["text.h5ad: truncated, or not an h5ad file"]),
        (["{data}/truncated.h5ad"], ["truncated.h5ad: truncated, or not an h5ad file"]),
        (["{data}/no_cells.h5ad"], ["no_cells.h5ad", "0 cells and 30 genes"]),
        (["{data}/zeros.h5ad"], ["zeros.h5ad", "every value is zero"]),
        (["{data}/nan.h5ad"], ["nan.h5ad", "nan in cell 'cell 11', gene 'gene 7'"]),
        (["{data}/negative.h5ad"], ["-1 in cell 'cell 11', gene 'gene 7'", "never negative"]),
        (["{data}/fraction.h5ad"], ["0.5 in cell 'cell 11', gene 'gene 7'", "not a whole number"]),
        (
            ["{data}/logs.h5ad"],
            ["in cell 'cell 0', gene 'gene", "log-normalised", "--layer counts"],
        ),
        (["{data}/layered.h5ad"], ["log-normalised", "adata.layers has 'counts'"]),
        (["{data}/no_x.h5ad"], ["adata.X is empty", "--layer, one of 'counts'"]),
        (["{data}/cells.h5"], ["an .npy, .npz", "scanpy.read_10x_h5 and read_10x_mtx"]),
        (["{data}/hole.h5ad", "--batch-key", "batch"], ["missing in 1 cells: 'cell 5'"]),
        (
            ["{data}/cells.h5ad", "--batch-key", "donor"],
            ["--batch-key donor", "'batch', 'cell_type', 'library', 'stress'"],
        ),
        (["{data}/cells.h5ad", "--labels-key", "type"], ["--labels-key type", "'cell_type'"]),
        (["{data}/cells.h5ad", "--continuous-key", "age"], ["--continuous-key age"]),
        (
            ["{data}/cells.h5ad", "--continuous-key", "cell_type"],
            ["adata.obs['cell_type'] does not hold numbers"],
        ),
        (
            ["{data}/cells.h5ad", "--layer", "raw"],
            ["--layer raw", "has no such layer; it has none"],
        ),
        (["{data}/layered.h5ad", "--layer", "raw"], ["it has 'counts'"]),
        (["{data}/cells.h5ad", "--dispersion", "gene-label"], ["--labels-key"]),
        (
            ["{data}/cells.h5ad", "--dispersion", "gene", "--likelihood", "poisson"],
            ["a Poisson distribution has none"],
        ),
        (["{data}/cells.h5ad", "--hidden", "64,32"], ["have one width", "--layers"]),
        (
            ["{data}/cells.h5ad", "--validation", "0", "--patience", "3"],
            ["--patience needs validation cells"],
        ),
        (["{data}/cells.h5ad", "--batch-size", "1"], ["batch normalization needs at least 2"]),
        (["{data}/cells.h5ad", "--device", "warp"], ["--device warp cannot be used"]),
        (
            ["{data}/cells.h5ad", "--likelihood", "bernoulli"],
            ["--likelihood bernoulli is for images or arrays", "zinb, nb, poisson"],
        ),
        (
            ["{data}/cells.h5ad", "--network", "conv"],
            ["--network is for images or arrays", "holds cells; leave it out"],
        ),
        (["{data}/cells.h5ad", "--binarize"], ["--binarize is for images"]),
        (["{data}/cells.h5ad", "--beta", "2"], ["--beta is for images"]),
        (["{data}/cells.h5ad", "--prior", "flat"], ["--prior flat makes an autoencoder"]),
        (["{data}/cells.h5ad", "--posterior", "matrix-normal"], ["matrix-normal is for images"]),
        (["{data}/cells.h5ad", "--clip-norm", "1"], ["--clip-norm is for images"]),
        (
            ["digits", "--batch-key", "batch"],
            ["--batch-key is for cells, but digits holds images or arrays; leave it out"],
        ),
        (["digits", "--observed-library"], ["--observed-library is for cells"]),
        (["digits", "--likelihood", "zinb"], ["--likelihood zinb is for cells"]),
    ],
)
def test_users_errors_are_one_line_before_training(
    arguments, messages, stored, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SingleCellVAE, "train", None)
    refused(["fit", *arguments], messages, stored, tmp_path)


def refused(arguments, messages, stored, folder):
    output = call(*(str(part).format(data=stored) for part in arguments), code=2)
    for message in messages:
        assert message in output
    errors = [line for line in output.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1
    assert errors[0].startswith("pyrovae: ")
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (
            ["evaluate", "{run}", "digits"],
            ["digits holds no cells, but the model was fitted on cells"],
        ),
        (["evaluate", "{run}", "{data}/truncated.h5ad"], ["truncated"]),
        (
            ["evaluate", "{run}", "{data}/others.h5ad", "--part", "test"],
            ["these are not the cells that the model was fitted on"],
        ),
        (
            ["encode", "{run}", "{data}/new_batch.h5ad", "-o", "z.npy"],
            ["'batch 9'", "'batch 0', 'batch 1'"],
        ),
        (
            ["encode", "{run}", "{data}/few_genes.h5ad", "-o", "z.npy"],
            ["10 of the model's 30 genes", "'gene 20'"],
        ),
        (
            ["encode", "{run}", "{data}/nan.h5ad", "-o", "z.npy"],
            ["nan in cell 'cell 11', gene 'gene 7'"],
        ),
        (["encode", "{run}", "{data}/cells.h5ad", "-o", "z.txt"], [".npy, .npz, .csv, .h5ad"]),
        (
            ["sample", "{run}", "-o", "x.npy"],
            ["was fitted on cells: `pyrovae sample` is for images and arrays"],
        ),
        (
            ["interpolate", "{run}", "digits", "-o", "x.npy"],
            ["was fitted on cells: `pyrovae interpolate`"],
        ),
    ],
)
def test_users_errors_of_other_commands(arguments, messages, fitted, stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(
        [part.replace("{run}", str(fitted[0])) for part in arguments], messages, stored, tmp_path
    )


def test_images_runs_refuse_cells(stored, tmp_path):
    call(
        "fit",
        "digits",
        "--output",
        tmp_path / "run",
        "--epochs",
        1,
        "--hidden",
        8,
        "--samples",
        0,
        "--no-report",
    )
    output = call("evaluate", tmp_path / "run", stored / "cells.h5ad", code=2)
    assert "holds cells, but the model was fitted on images or arrays" in output
    assert "ends in .npy, .npz, .csv" in call(
        "encode", tmp_path / "run", "digits", "-o", tmp_path / "z.h5ad", code=2
    )


def test_without_anndata_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    assert "pip install 'pyrovae[cells]'" in call(
        "fit", "simulated-cells", "--output", tmp_path / "run", code=2
    )


def test_settings_survive_json():
    values = given(
        data="a.h5ad",
        likelihood=Likelihood.NB,
        dispersion=Dispersion.GENE_CELL,
        batch_key="b",
        categorical_key=["c", "d"],
    )
    settings = resolve.resolve_settings(values, table())
    again = CellSettings.of(json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    assert again.dispersion is Dispersion.GENE_CELL
    assert again.categorical_key == ("c", "d")


def test_dispersions_are_the_librarys():
    from pyrovae.likelihoods import expression

    assert [one.value for one in Dispersion] == [one.value for one in expression.Dispersion]


# ---------------------------------------------------------------------------- runs of version 0.1.0
def test_a_run_of_version_0_1_is_evaluated_and_encoded(tmp_path):
    old = Path(__file__).parent / "fixtures" / "format-1" / "run_cells"
    adata = simulate(cells=60, genes=20, types=3, batches=2, seed=0).to_anndata()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    output = call(
        "evaluate", old, tmp_path / "cells.h5ad", "--samples", 10, "-o", tmp_path / "again.json"
    )
    again, first = strict(tmp_path / "again.json"), strict(old / "metrics.json")
    first["log_p"]["standard_error"] *= (6 / 5) ** 0.5  # it divided by 6 cells, and not by 5
    for key in ("test", "log_p", "library"):
        assert again[key] == pytest.approx(first[key], rel=1e-3), key
    assert "6 test cells" in output
    call("encode", old, tmp_path / "cells.h5ad", "-o", tmp_path / "z.h5ad")
    assert anndata.read_h5ad(tmp_path / "z.h5ad").obsm["X_pyrovae"].shape == (60, 2)
    assert "CountVAE" in call("inspect", old)


# ---------------------------------------------------------------------------------------- the parts
def test_moments_are_numpys():
    from scipy.sparse import csr_matrix

    x = np.random.default_rng(0).poisson(0.7, (50, 8))
    found = cell_plots.moments(csr_matrix(x))
    np.testing.assert_allclose(found.mean, x.mean(0))
    np.testing.assert_allclose(found.variance, x.var(0))
    np.testing.assert_allclose(found.gene_zeros, (x == 0).mean(0))
    np.testing.assert_allclose(found.cell_zeros, (x == 0).mean(1))


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_plane_is_the_codes_or_their_principal_components(d, monkeypatch):
    from sklearn.decomposition import PCA

    monkeypatch.setattr(planes, "find_umap", lambda: None)
    z = np.random.default_rng(0).standard_normal((40, d)) * np.arange(1, d + 1)
    where = planes.umap_plane(z)
    assert where.points.shape == (40, 2)
    if d == 5:
        np.testing.assert_allclose(np.abs(where.points), np.abs(PCA(2).fit_transform(z)))
        assert where.axes[0].startswith("PC 1")
    else:
        np.testing.assert_array_equal(where.points[:, :d], z)


def test_umap_is_taken_where_it_is_installed(monkeypatch):
    class Umap:
        def __init__(self, **options):
            self.options = options

        def fit_transform(self, z):
            return z[:, :2] + self.options["random_state"]

    monkeypatch.setattr(planes, "find_umap", lambda: Umap)
    z = np.random.default_rng(0).standard_normal((40, 5))
    where = planes.umap_plane(z, seed=3)
    assert where.axes == ("UMAP 1", "UMAP 2")
    np.testing.assert_array_equal(where.points, z[:, :2] + 3)
    assert planes.umap_plane(z[:10]).axes[0].startswith("PC 1")  # too few neighbours


@pytest.mark.parametrize("groups", [0, 1, 2])
@pytest.mark.parametrize("names", [1, 3, 40])
def test_the_map_draws_every_cell_once(groups, names):
    rng = np.random.default_rng(0)
    where = planes.Plane(rng.standard_normal((200, 2)), ("a", "b"), "as they are")
    label = np.array([f"group {i % names}" for i in range(200)])
    figure = cell_plots.latent_map(where, [cell_plots.Groups("batch", label)] * groups)
    for axis in figure.axes:
        drawn = np.concatenate([part.get_offsets() for part in axis.collections])
        assert sorted(map(tuple, drawn)) == sorted(map(tuple, where.points))
    grey = cell_plots.latent_map(
        where,
        [cell_plots.Groups("type", np.where(np.arange(200) < 100, label, cell_plots.UNLABELLED))],
    )
    assert cell_plots.UNLABELLED in [
        text.get_text() for text in grey.axes[0].get_legend().get_texts()
    ]
    if groups:
        entries = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert len(entries) == min(names, 29)
        assert ("12 smaller groups" in entries) == (names == 40)


def many_types(spread, types=28, n=2000):
    """A map by batch and by type of 28 types, the names of some long, as far apart as `spread`."""
    rng = np.random.default_rng(0)
    number = rng.integers(0, types, n)
    points = spread * rng.standard_normal((types, 2))[number] + rng.standard_normal((n, 2))
    kinds = np.array([f"regulatory cells, cluster {i} of {types}" for i in range(types)])
    label, batch = kinds[number], np.array([f"batch {i}" for i in rng.integers(0, 9, n)])
    groups = [cell_plots.Groups("batch", batch, (), True), cell_plots.Groups("cell_type", label)]
    return cell_plots.latent_map(planes.Plane(points, ("a", "b"), ""), groups)


@pytest.mark.parametrize("spread", [0.0, 0.2, 5.0])
def test_names_of_28_types_do_not_overlap(spread):
    figure = many_types(spread)
    figure.draw_without_rendering()
    by_batch, by_type = figure.axes
    assert not by_batch.texts
    boxes = [text.get_window_extent() for text in by_type.texts]
    assert len({text.get_text() for text in by_type.texts}) == 28
    frame = by_type.get_window_extent().padded(1)
    for i, box in enumerate(boxes):
        assert frame.contains(*box.p0)
        assert frame.contains(*box.p1)
        for other in boxes[:i]:
            common = np.minimum(box.p1, other.p1) - np.maximum(box.p0, other.p0)
            assert common.min() < 1  # pixel, in one direction at least


def test_legends_of_28_types_fit():
    figure = many_types(5.0)
    figure.draw_without_rendering()
    for axis in figure.axes:
        legend = axis.get_legend().get_window_extent()
        page = figure.bbox.padded(1)
        assert page.contains(*legend.p0)
        assert page.contains(*legend.p1)
        assert not axis.get_window_extent().overlaps(legend)


def test_one_colour_means_one_thing():
    by_batch, by_type = (
        {tuple(part.get_facecolor()[0][:3]) for part in axis.collections if len(part.get_offsets())}
        for axis in many_types(5.0).axes
    )
    assert len(by_type) == 28
    assert not by_batch & by_type


def oklab(colour):
    """Coordinates in OKLab (Ottosson 2020), where distances are as large as they look."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    opponent = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(opponent) @ np.cbrt(np.array(cones) @ linear)


def least_distance(colours):
    points = np.array([oklab(colour) for colour in colours])
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    return distance[~np.eye(len(points), dtype=bool)].min()


def test_colours_of_types_and_batches_stay_apart():
    """A distance of 0.02 in OKLab is just noticeable between large patches; marks are small."""
    page = (style.BLUE, style.ORANGE, style.GREY)
    assert (len(style.TYPES), len(style.BATCHES)) == (28, 8)
    assert least_distance([*style.TYPES, *style.BATCHES, *page]) > 0.06
    assert least_distance(style.TYPES[:8]) > 0.12
    assert least_distance(style.BATCHES[:4]) > 0.12


@pytest.mark.parametrize("kl", [[1.98, 0.5], [20.0, 0.0001, 0.02], [0.0, 0.0]])
def test_the_line_of_collapsed_units_is_seen(kl):
    axis = cell_plots.kl_per_unit(np.array(kl)).axes[0]
    line = next(line for line in axis.get_lines() if line.get_label() == "0.01 nats")
    height = axis.transAxes.inverted().transform(
        axis.transData.transform((0, line.get_ydata()[0]))
    )[1]
    assert 0.05 < height < 0.95


def test_captions_say_what_the_figures_say(fitted):
    page = html.unescape((fitted[0] / "report.html").read_text(encoding="utf-8"))
    found = strict(fitted[0] / "metrics.json")
    mixing, kl = found["mixing"]["latents"], np.array(found["latents"]["kl_per_unit"])
    for words in (
        f"Silhouette of labels {found['clusters']['latents']['silhouette']:.2f}",
        f"Batches within labels {mixing['asw_batch']:.2f}",
        f"iLISI {mixing['ilisi']:.2f} (from 1 to 2",
        "12 held-out cells",
        f"median ratio {found['library']['median_ratio']:.2f}",
        f"The draws have {found['predictive']['zeros_drawn']:.1%} zeros",
        f"{(kl < 0.01).sum() or 'All'} ",
    ):
        assert words in page, words
    assert "should" not in " ".join(re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL))


def test_captions_of_cells_in_no_group(stored, tmp_path):
    call("fit", stored / "cells.h5ad", "--test", "0.001", "--output", tmp_path, *QUICK)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in ("Silhouette", "iLISI", "held-out", "Each name"):
        assert words not in page, words


def test_pictures_of_odd_cells():
    totals, sizes = np.array([0.0, 10.0, 1000.0]), np.array([3.0, 11.0, 900.0])
    figure = cell_plots.libraries(totals, sizes, None)
    assert (
        sum(len(part.get_offsets()) for part in figure.axes[0].collections) == 2
    )  # a cell without counts has no place
    history = History(best_epoch=1)
    history.append(
        elbo=-1.0,
        reconstruction=-1.0,
        kl=0.0,
        loss=1.0,
        beta=0.5,
        learning_rate=1e-3,
        seconds=1.0,
    )
    assert cell_plots.curves(history, library=False).axes[2].get_title() == "KL of z"
    cell_plots.kl_per_unit(np.array([0.1, 0.0]))


def test_scores_of_clusters_that_are_known():
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 30)
    z = np.repeat(10.0 * np.eye(3), 30, 0) + 0.1 * rng.standard_normal((90, 3))
    components = clusters.components(csr_matrix(rng.poisson(2.0, (90, 12))), 3, seed=0)
    found = clusters.scores({"latents": z, "pca": components}, labels, seed=0)
    assert (found["latents"]["ari"], found["latents"]["nmi"]) == pytest.approx((1.0, 1.0))
    assert found["latents"]["silhouette"] > 0.95
    assert abs(found["pca"]["ari"]) < 0.1  # the counts hold nothing of the labels
    assert "1 labels" in clusters.scores({"latents": z}, np.repeat("a", 90), 0)["why_not"]
    assert len(clusters.rows(found)) == 3


def mixed_cells(shift, n=900, seed=0):
    """Three types far apart, two batches that lie `shift` apart in each."""
    rng = np.random.default_rng(seed)
    labels, batches = np.arange(n) % 3, rng.integers(0, 2, n)
    z = 100.0 * np.eye(3)[labels] + rng.standard_normal((n, 3))
    z[:, 0] += shift * batches
    return z, np.array(["s", "t"])[batches], np.array(["a", "b", "c"], dtype=object)[labels]


def test_mixing_of_batches_that_are_mixed():
    z, batches, labels = mixed_cells(shift=0)
    found = mixing.scores({"latents": z}, batches, labels, seed=0)
    mixed = found["latents"]
    # of k draws, E sum p^2 = 1/2 + 1/(2k): the index is about 2 / (1 + 1/k)
    assert mixed["ilisi"] == pytest.approx(2 / (1 + 1 / 50), abs=0.05)
    assert mixed["ilisi_shuffled"] == pytest.approx(2 / (1 + 1 / 50), abs=0.05)
    assert mixed["asw_batch"] > 0.95
    assert [row.name for row in mixing.rows(found)] == ["batches in labels", "iLISI"]
    assert "lie apart" not in mixing.rows(found)[1].note


def test_mixing_of_batches_that_are_apart():
    z, batches, labels = mixed_cells(shift=50)
    found = mixing.scores({"latents": z}, batches, labels, seed=0)
    apart = found["latents"]
    assert (apart["ilisi"], apart["ilisi_scaled"]) == (1.0, 0.0)
    assert "the batches lie apart" in mixing.rows(found)[1].note
    assert apart["asw_batch"] < 0.1
    assert apart["ilisi_shuffled"] > 1.9


def test_batches_far_apart_within_types_are_not_called_mixed():
    """Over all cells the silhouette of batches is near 0 though they lie apart in each type."""
    from sklearn.metrics import silhouette_score

    z, batches, labels = mixed_cells(shift=6)
    assert abs(silhouette_score(z, batches)) < 0.05
    assert mixing.within_labels(z, batches, labels) < 0.5


def test_mixing_is_what_its_definitions_give():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((150, 4))
    batches, labels = rng.choice(["r", "s", "t"], 150), rng.choice(["a", "b"], 150)
    z[batches == "t"] += 0.7
    found = mixing.scores({"latents": z}, batches, labels.astype(object), seed=0)["latents"]
    assert found["asw_batch"] == pytest.approx(direct_asw(z, batches, labels))
    assert found["ilisi"] == pytest.approx(np.median(direct_lisi(z, batches, 50)))
    assert found["ilisi_scaled"] == pytest.approx((found["ilisi"] - 1) / 2)


def test_mixing_leaves_out_what_has_none():
    z, batches, labels = mixed_cells(shift=0, n=90)
    one = labels == "a"
    batches[one] = "s"  # a label of one batch does not count
    with_a = mixing.within_labels(z, batches, labels)
    assert with_a == mixing.within_labels(z[~one], batches[~one], labels[~one])
    assert mixing.within_labels(z, batches, np.full(90, None)) is None
    assert mixing.within_labels(z[one], batches[one], labels[one]) is None
    assert mixing.rows(mixing.scores({"latents": z}, np.full(90, "s"), labels, 0)) == []
    few = mixing.scores({"latents": z[~one][:9]}, batches[~one][:9], None, 0)
    assert few["neighbours"] == 8
    each = mixing.scores({"latents": z}, np.arange(90).astype(str), None, 0)
    assert each["latents"]["ilisi_scaled"] == pytest.approx(1)  # 50 neighbours, of 50 batches
    assert [row.name for row in mixing.rows(few)] == ["iLISI"]


def test_figures_without_scores_have_rows(fitted):
    found = strict(fitted[0] / "metrics.json")
    found["library"]["correlation"] = found["predictive"]["variance_ratio"] = None
    found["mixing"]["latents"]["asw_batch"] = None
    names = [row.name for row in figures.table(found, SimpleNamespace(warm_up=0.25))]
    assert "library size" not in names
    assert names[0] == "test ELBO"
    assert names[-1] == "training"
    assert "batches in labels" not in names


def test_run_json_says_that_it_is_of_cells(fitted):
    run = runs.Run.open(fitted[0])
    assert isinstance(run.settings, CellSettings)
    assert (run.settings.batch_key, run.settings.likelihood) == ("batch", Likelihood.ZINB)
    assert "network" not in strict(fitted[0] / "run.json")["settings"]
