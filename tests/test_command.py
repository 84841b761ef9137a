"""The command line from end to end on tiny data: the files of a run, later commands, messages."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from pyrovae import files
from pyrovae.command import figures as common_figures
from pyrovae.command import fit as pipeline
from pyrovae.command import options, runs, writing
from pyrovae.command.choices import Network
from pyrovae.command.cli import app
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.resolve import read_data, resolve_settings
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.settings import Settings

QUICK = ["--epochs", "2", "--hidden", "16", "--latents", "3", "--samples", "20"]
TERSE = [*QUICK, "--no-report"]


def strict(path):
    def refuse(name):
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def weights(folder):
    return load_file(next((folder / "model").glob("weights-*.safetensors")))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on the digits: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return folder, call("fit", "digits", "--output", folder, *QUICK)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Small data of every kind, by file name."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    labels = np.array(["ant", "bee", "cat"])[np.arange(60) % 3]
    grey = rng.random((60, 1, 6, 6))
    np.savez(folder / "labelled.npz", x=(grey > 0.5).astype(int), labels=labels)
    np.save(folder / "binary.npy", grey[:, 0] > 0.5)
    np.save(folder / "unit.npy", grey)
    np.save(folder / "counts.npy", rng.poisson(3, (60, 5)))
    np.save(folder / "levels.npy", rng.integers(0, 256, (60, 1, 4, 4), dtype=np.uint8))
    np.save(folder / "real.npy", rng.normal(1000, [1, 10, 100], (60, 3)))
    for rows, name in enumerate(("one", "two"), 1):
        np.save(folder / f"{name}.npy", rng.normal(size=(rows, 3)))
    for i in range(24):
        path = folder / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    return folder


# -------------------------------------------------------------------------------------- a whole run
def test_a_run_leaves_model_figures_and_report(digits):
    folder, output = digits
    assert {file.name for file in folder.iterdir()} == {
        "model",
        "run.json",
        "metrics.json",
        "report.html",
    }
    figures = strict(folder / "metrics.json")
    assert figures["test"]["elbo"] == pytest.approx(
        figures["test"]["reconstruction"] - figures["test"]["kl"], abs=1e-3
    )
    assert figures["test"]["elbo"] < figures["log_p"]["mean"] < 0
    assert figures["test"]["rows"] == figures["log_p"]["rows"] == 360
    assert figures["training"]["epochs"] == 2
    assert strict(folder / "run.json")["settings"]["likelihood"] == "binomial"
    page = (folder / "report.html").read_text(encoding="utf-8")
    titles = [
        "Training",
        "Originals and reconstructions",
        "Samples",
        "Interpolations",
        "Latent space",
        "KL per unit",
        "Restored: Gaussian noise of 0.3",
        "Restored: the lower half hidden",
        "Restored: a quarter of the pixels",
    ]
    assert re.findall(r'<img alt="([^"]*)"', page) == titles
    for text in (
        f"{figures['log_p']['mean']:.2f}",
        "probabilistic PCA",
        "Gaussian mixture",
        "DiagonalNormal",
        "pyro-ppl",
    ):
        assert text in page, text
        assert text in output or text in ("DiagonalNormal", "pyro-ppl")


def test_baselines_stand_beside_log_p_and_say_how_they_compare(digits):
    folder, output = digits
    others = strict(folder / "metrics.json")["baselines"]
    assert -135 < others["probabilistic_pca"]["log_p"] < -128
    assert others["probabilistic_pca"]["log_p"] < others["gaussian_mixture"]["log_p"] < -110
    lines = [line.split()[0] for line in output.splitlines() if line]
    start = lines.index("log")
    assert lines[start : start + 6] == ["log", "probabilistic", "its", "Gaussian", "model", "how"]
    assert others["verdict"]["verdict"] in ("better", "matches", "worse")
    assert others["verdict"]["difference"] == pytest.approx(
        strict(folder / "metrics.json")["log_p"]["mean"]
        - others["probabilistic_pca_same"]["log_p"],
        abs=1e-3,
    )
    assert others["probabilistic_pca_same"]["what"] == "3 components"
    assert "uniform on the unit cell" in output


def test_evaluate_repeats_the_run(digits, tmp_path):
    folder, _ = digits
    output = call(
        "evaluate", folder, "digits", "--samples", 20, "--output", tmp_path / "figures.json"
    )
    again, first = strict(tmp_path / "figures.json"), strict(folder / "metrics.json")
    assert again["test"] == first["test"]
    assert again["log_p"] == first["log_p"]
    assert f"{first['test']['elbo']:.2f} nats" in output
    assert "360 test rows" not in call(
        "evaluate", folder / "model", "digits", "--samples", 0, "--part", "train"
    )


def test_encode_writes_posterior_means(digits, tmp_path):
    folder, _ = digits
    for suffix in ("npy", "npz", "csv"):
        call("encode", folder, "digits", "--output", tmp_path / f"z.{suffix}")
    z = np.load(tmp_path / "z.npy")
    assert z.shape == (1797, 3)
    named = np.load(tmp_path / "z.npz")
    assert np.array_equal(named["z"], z)
    assert sorted(set(named["labels"])) == [str(i) for i in range(10)]
    table = (tmp_path / "z.csv").read_text().splitlines()
    assert (table[0], len(table)) == ("z1,z2,z3,label", 1798)
    call("encode", folder, "digits", "--output", tmp_path / "few.npy", "--part", "test")
    assert np.array_equal(np.load(tmp_path / "few.npy"), z[-360:])


def test_sample_and_interpolate_write_data_and_pictures(digits, tmp_path):
    folder, _ = digits
    call("sample", folder, "-n", 5, "--output", tmp_path / "x.npy")
    call("sample", folder, "-n", 5, "--output", tmp_path / "draws.npy", "--draw")
    call("sample", folder, "-n", 5, "--output", tmp_path / "x.png")
    x, draws = np.load(tmp_path / "x.npy"), np.load(tmp_path / "draws.npy")
    assert x.shape == draws.shape == (5, 1, 8, 8)
    assert np.array_equal(draws, draws.round())
    assert not np.array_equal(x, x.round())
    walk = ["interpolate", folder, "digits", "--from", 0, "--to", 3, "--steps", 4, "--output"]
    call(*walk, tmp_path / "w.npy")
    call(*walk, tmp_path / "w.png", "--spherical")
    assert np.load(tmp_path / "w.npy").shape == (4, 1, 8, 8)
    for name in ("x.png", "w.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 50


def test_inspect_builds_nothing(digits, monkeypatch):
    monkeypatch.setattr(files, "load", None)
    monkeypatch.setattr(files.filling, "build", None)
    folder, _ = digits
    output = call("inspect", folder)
    for text in (
        "VAE",
        "posterior: Standardized",
        "total_count: 16",
        "64",
        "F32",
        "versions: pyrovae",
        "SHA-256",
        "2 epochs",
        "mean: -",
    ):
        assert text in output, text
    assert call("inspect", folder / "model") == output
    count = sum(tensor.numel() for tensor in weights(folder).values())
    assert f"{count:,} numbers" in output


# --------------------------------------------------------------------------- every kind, every part
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("binary.npy", [], "likelihood: Bernoulli net: MLP"),
        ("unit.npy", [], "likelihood: ContinuousBernoulli"),
        ("unit.npy", ["--binarize"], "likelihood: Bernoulli net: MLP"),
        ("counts.npy", [], "likelihood: Poisson"),
        ("counts.npy", ["--likelihood", "binomial"], "likelihood: Binomial"),
        (
            "counts.npy",
            ["--likelihood", "categorical", "--network", "residual", "--hidden", "8,8"],
            "likelihood: Categorical net: ResidualMLP",
        ),
        ("levels.npy", [], "likelihood: DiscretizedLogistic net: PlusLinear net: MLP"),
        (
            "levels.npy",
            ["--binarize", "--network", "conv", "--hidden", "4"],
            "likelihood: Bernoulli net: ConvDecoder",
        ),
        (
            "real.npy",
            ["--objective", "sgvb-a", "--draws", "2", "--beta", "0.5", "--warm-up", "0.5"],
            "likelihood: Gaussian net: PlusLinear net: MLP",
        ),
        (
            "real.npy",
            ["--likelihood", "heteroscedastic-gaussian", "--activation", "tanh"],
            "likelihood: HeteroscedasticGaussian",
        ),
        (
            "real.npy",
            ["--sigma", "0.5", "--optimizer", "adagrad", "--learning-rate", "0.01"],
            "sigma: 0.5",
        ),
        ("real.npy", ["--prior", "flat", "--posterior", "point"], "likelihood: Gaussian"),
        ("pictures", ["--latents", "2"], "likelihood: DiscretizedLogistic net: PlusLinear"),
        ("labelled.npz", ["--condition", "--denoise", "0.3"], "context: 3"),
        (
            "binary.npy",
            ["--validation", "0", "--optimizer", "sgd", "--clip-norm", "1"],
            "likelihood: Bernoulli",
        ),
        ("binary.npy", ["--prior", "mixture", "--components", "7"], "components: 7"),
        (
            "labelled.npz",
            ["--prior", "vamp", "--components", "9", "--condition"],
            "low: 0.0 high: 1.0",
        ),
        ("counts.npy", ["--prior", "vamp", "--components", "9", "--latents", "3"], "prior: Vamp"),
        (
            "real.npy",
            ["--prior", "flow", "--posterior", "full-rank-normal"],
            "posterior: FullRankNormal",
        ),
        (
            "pictures",
            ["--posterior", "matrix-normal", "--network", "conv", "--latents", "18"],
            "MapDecoder",
        ),
        ("pictures", ["--posterior", "iaf", "--objective", "iwae", "--draws", "3"], "part: IAF"),
        (
            "binary.npy",
            ["--prior", "vamp", "--components", "9", "--posterior", "iaf", "--latents", "2"],
            "prior: Vamp",
        ),
        (
            "binary.npy",
            ["--objective", "dreg", "--draws", "2", "--warm-up", "0.5"],
            "prior: StandardNormal",
        ),
    ],
)
def test_every_kind_and_part(name, arguments, expected, stored, tmp_path):
    output = call(
        "fit",
        stored / name,
        "--output",
        tmp_path / "run",
        "--epochs",
        1,
        "--hidden",
        8,
        "--samples",
        5,
        "--no-report",
        *arguments,
    )
    assert ("reconstruction error" if "flat" in arguments else "test ELBO") in output
    assert np.isfinite(strict(tmp_path / "run" / "metrics.json")["test"]["elbo"])
    assert expected in " ".join(call("inspect", tmp_path / "run").split())
    call("encode", tmp_path / "run", stored / name, "--output", tmp_path / "z.npy")
    if "flat" not in arguments:
        call("sample", tmp_path / "run", "--output", tmp_path / "x.npy")
        x, model = np.load(tmp_path / "x.npy"), ImageModel.of(runs.Run.open(tmp_path / "run"))
        assert x.shape == (64, *model.preparation.shape)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("real.npy", ["--prior", "flat", "--posterior", "point"]),
        ("pictures", []),
        ("labelled.npz", ["--condition"]),
        ("unit.npy", []),
    ],
)
def test_every_kind_has_its_pictures(name, arguments, stored, tmp_path):
    call("fit", stored / name, "--output", tmp_path, *QUICK, *arguments, "--latents", 2)
    titles = re.findall(
        r'<img alt="([^"]*)"', (tmp_path / "report.html").read_text(encoding="utf-8")
    )
    assert titles[:2] == ["Training", "Originals and reconstructions"]
    assert ("Samples" in titles) == ("flat" not in arguments)
    assert ("Manifold" in titles) == (not arguments)


def test_real_data_come_back_in_their_unit(stored, tmp_path):
    output = call("fit", stored / "real.npy", "--output", tmp_path / "run", *TERSE)
    call("sample", tmp_path / "run", "--output", tmp_path / "x.npy", "-n", 200, "--draw")
    x = np.load(tmp_path / "x.npy")
    assert np.allclose(x.mean(0), 1000, atol=60)
    assert np.all(x.std(0) / [1, 10, 100] > 0.3)
    assert "log p(x)" in output
    unit = strict(tmp_path / "run" / "metrics.json")["unit"]
    assert float(re.search(r"add (-?[\d.]+)", unit)[1]) == pytest.approx(
        -np.log([1, 10, 100]).sum(), abs=0.5
    )


def test_what_does_not_compare_is_left_out_with_the_reason(stored, tmp_path):
    output = call(
        "fit",
        stored / "real.npy",
        "--output",
        tmp_path / "b",
        *TERSE,
        "--prior",
        "flat",
        "--posterior",
        "point",
    )
    assert "log p(x)               none" in output
    assert "log_p" not in strict(tmp_path / "b" / "metrics.json")


def test_a_label_is_sampled_on_request(stored, tmp_path):
    call("fit", stored / "labelled.npz", "--output", tmp_path / "run", *TERSE, "--condition")
    for label in ("bee", "cat"):
        call("sample", tmp_path / "run", "--output", tmp_path / f"{label}.npy", "--label", label)
    assert not np.array_equal(np.load(tmp_path / "bee.npy"), np.load(tmp_path / "cat.npy"))
    output = call(
        "sample", tmp_path / "run", "--output", tmp_path / "x.npy", "--label", "dog", code=2
    )
    assert "label dog is unknown to the model; it knows ant, bee, cat" in output
    assert "have no labels" in call("evaluate", tmp_path / "run", stored / "unit.npy", code=2)


def test_two_runs_are_alike_and_another_seed_differs(stored, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        call(
            "fit",
            stored / "binary.npy",
            "--output",
            tmp_path / name,
            *TERSE,
            "--seed",
            seed,
            "--quiet",
        )
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_quiet_prints_nothing(stored, tmp_path):
    assert call("fit", stored / "binary.npy", "--output", tmp_path / "run", *TERSE, "--quiet") == ""


def given(**values):
    return options.Options(**options.DEFAULTS | values)


def test_mnist_takes_the_notes_setting(shared_data):
    data = read_data("mnist", shared_data)
    data = replace(data, x=data.x[:1000])
    settings = resolve_settings(given(data="mnist"), data)
    notes = (
        settings.hidden,
        settings.activation,
        settings.latents,
        settings.batch_size,
        settings.binarize,
        settings.likelihood,
    )
    assert notes == ((500,), "tanh", 20, 100, True, "bernoulli")
    grey = resolve_settings(given(data="mnist", binarize=False), data)
    assert (grey.likelihood, grey.binarize) == ("continuous-bernoulli", False)


# ----------------------------------------------------------------------------- interruption, resume
def interrupt_at(epoch, monkeypatch, number=signal.SIGINT):
    def lines(settings, say):
        def press(history):
            if len(history.elbo) == epoch:
                assert signal.getsignal(number) is not signal.SIG_DFL
                signal.raise_signal(number)

        return press

    monkeypatch.setattr(pipeline, "progress_lines", lines)


def test_interrupted_run_is_usable_and_resumes_exactly(stored, tmp_path, monkeypatch):
    args = [
        "fit",
        stored / "binary.npy",
        "--hidden",
        8,
        "--latents",
        2,
        "--samples",
        5,
        "--batch-size",
        8,
        "--output",
    ]
    call(*args, tmp_path / "whole", "--epochs", 4, "--no-report")
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        output = call(*args, tmp_path / "cut", "--epochs", 4, code=130)
    assert f"--output {tmp_path / 'cut'} --resume" in output
    assert {file.name for file in (tmp_path / "cut").iterdir()} >= {
        "model",
        "report.html",
        "metrics.json",
        "checkpoint.safetensors",
    }
    call("evaluate", tmp_path / "cut", stored / "binary.npy", "--samples", 5)
    assert "holds an interrupted run" in call(*args, tmp_path / "cut", code=2)
    assert "was begun with hidden" in call(
        "fit",
        stored / "binary.npy",
        "--output",
        tmp_path / "cut",
        "--hidden",
        9,
        "--resume",
        code=2,
    )
    call(
        "fit",
        stored / "binary.npy",
        "--output",
        tmp_path / "cut",
        "--resume",
        "--samples",
        5,
        "--no-report",
    )
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "cut" / "report.html").exists()  # it showed the weights of before
    assert strict(tmp_path / "cut" / "metrics.json")["training"]["epochs"] == 4
    assert "nothing to resume" in call(*args, tmp_path / "cut", "--resume", code=2)


def test_an_existing_output_file_is_replaced_with_overwrite_only(stored, tmp_path):
    data, run, z = stored / "binary.npy", tmp_path / "run", tmp_path / "z.npy"
    call("fit", data, "--output", run, *TERSE)
    commands = {
        z: ["encode", run, data],
        tmp_path / "x.npy": ["sample", run],
        tmp_path / "walk.npy": ["interpolate", run, data],
        tmp_path / "figures.json": ["evaluate", run, data, "--samples", 0],
    }
    for file, command in commands.items():
        file.write_text("mine")
        assert f"{file} exists; choose another" in call(*command, "--output", file, code=2)
        assert file.read_text() == "mine"
        call(*command, "--output", file, "--overwrite")
        assert file.read_bytes() != b"mine"
    assert len(np.load(z)) == len(np.load(data))


def test_sigterm_during_training_keeps_the_model(stored, tmp_path, monkeypatch):
    interrupt_at(1, monkeypatch, signal.SIGTERM)
    args = "fit", stored / "binary.npy", "--output", tmp_path, *TERSE
    output = call(*args, code=143)
    assert f"terminated; the model so far is saved. Continue with: pyrovae fit {stored}" in output
    assert files.description(tmp_path / "model")["history"]["stopped"] == "terminated"
    assert {"checkpoint.safetensors", "metrics.json"} <= {file.name for file in tmp_path.iterdir()}


def test_interruption_after_training_keeps_the_model(stored, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(common_figures, "measure", stop)
    assert "interrupted" in call(
        "fit", stored / "binary.npy", "--output", tmp_path / "run", *TERSE, code=130
    )
    files.load(tmp_path / "run" / "model")


@pytest.fixture(scope="module")
def whole(stored, tmp_path_factory):
    """A run on binary data that nothing interrupts."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    call("fit", stored / "binary.npy", "--output", folder, *TERSE)
    return folder


@pytest.mark.parametrize("where", ["measure", "report", "render"])
def test_a_run_killed_after_training_is_completed_by_resume(
    stored, whole, tmp_path, monkeypatch, where
):
    def kill(*_, **__):
        raise KeyboardInterrupt

    args = ["fit", stored / "binary.npy", "--output", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, where, kill)
        call(*args, *QUICK, code=130)
    assert not (tmp_path / "run" / "report.html").exists()
    assert "continue it with --resume" in call(*args, code=2)
    (tmp_path / "run" / ".metrics.json-0123abcd").write_text("half")  # of a killed process
    call(*args, "--resume")
    assert (tmp_path / "run" / "report.html").exists()
    assert not list((tmp_path / "run").glob(".*"))
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    before, after = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_divergence_keeps_the_last_good_model_and_says_so(stored, tmp_path):
    arguments = ["--optimizer", "sgd", "--learning-rate", "1e30", "--batch-size", "8"]
    output = call(
        "fit", stored / "real.npy", "--output", tmp_path / "run", *QUICK, *arguments, code=1
    )
    assert "Try a smaller learning rate" in output
    files.load(tmp_path / "run" / "model")
    assert "Try a smaller learning rate" in (tmp_path / "run" / "report.html").read_text(
        encoding="utf-8"
    )


# ----------------------------------------------------------------------------------------- messages
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nonsense"], "DATA is nonsense: expected digits, mnist, fashion-mnist"),
        (["fit", "absent.npy"], "absent.npy: no such file"),
        (["fit", "{data}/real.npy", "--binarize"], "--binarize is for grey values"),
        (["fit", "{data}/real.npy", "--condition"], "--condition needs labels"),
        (["fit", "{data}/real.npy", "--network", "conv"], "--network conv needs images"),
        (
            ["fit", "{data}/pictures", "--posterior", "matrix-normal", "--latents", "18"],
            "choose e.g. --network conv --latents 72",
        ),
        (
            [
                "fit",
                "{data}/pictures",
                "--posterior=matrix-normal",
                "--network=conv",
                "--latents=20",
            ],
            "--latents is a multiple of 9",
        ),
        (
            ["fit", "{data}/real.npy", "--likelihood", "bernoulli"],
            "Bernoulli: expected x to hold 0 or 1",
        ),
        (["fit", "{data}/counts.npy", "--likelihood", "bernoulli"], "such data fit likelihoods."),
        (["fit", "{data}/real.npy", "--network", "residual", "--hidden", "8,9"], "have one width"),
        (
            ["fit", "{data}/one.npy"],
            "one: one row is left to train on, and another is needed to",
        ),
        (
            ["fit", "{data}/two.npy"],
            "two: one row is left to train on, and another is needed to",
        ),
        (["fit", "{data}/real.npy", "--device", "warp"], "--device warp cannot be used"),
        (["fit", "{data}/real.npy", "--validation", "0", "--patience", "3"], "patience"),
        (["evaluate", "{data}", "digits"], "holds no run"),
        (
            ["encode", "{run}", "digits", "--output", "z.txt"],
            "expected a file that ends in .npy, .npz, .csv",
        ),
        (["sample", "{run}", "--output", "x.jpg"], "expected a file that ends in .png, .npy"),
        (["sample", "{run}", "--output", "x.npy", "--label", "3"], "the model has no context"),
        (
            ["evaluate", "{run}", "{data}/real.npy"],
            "rows have shape (3,), the model was fitted on (1, 8, 8)",
        ),
        (["interpolate", "{run}", "digits", "--to", "999", "--output", "w.png"], "rows 0 to 359"),
        (["inspect", "{data}"], "no model here"),
    ],
)
def test_users_errors_are_one_line(arguments, message, digits, stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = call(*(part.format(data=stored, run=digits[0]) for part in arguments), code=2)
    assert message in output
    assert "Traceback" not in output
    assert [
        line for line in output.splitlines() if line.startswith("pyrovae: ")
    ] == output.splitlines()[-1:]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hidden", "a"],
        ["--hidden", "0"],
        ["--network", "transformer"],
        ["--epochs", "0"],
        ["--beta", "-1"],
        ["--warm-up", "2"],
    ],
)
def test_words_that_are_no_choice_are_refused(arguments, tmp_path):
    assert "Invalid value" in call(
        "fit", "digits", "--output", tmp_path / "run", *arguments, code=2
    )
    assert not list(tmp_path.iterdir())


def test_foreign_folders_are_left_alone(stored, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    args = ["fit", stored / "binary.npy", *TERSE, "--output"]
    assert "holds something that is no run" in call(*args, tmp_path, code=2)
    assert "is a file" in call(*args, tmp_path / "thesis.tex", code=2)
    call(*args, tmp_path, "--overwrite")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (
        "holds a run; choose another folder with --output, or replace it with --overwrite"
        in call(*args, tmp_path, code=2)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prior", "vamp", "--posterior", "point"], "use --prior flat"),
        (
            ["--prior", "flat"],
            "KL(q || p) is undefined for --posterior diagonal-normal; use --posterior point",
        ),
        (
            ["--prior", "flow", "--latents", "1"],
            "needs at least two latent dimensions, but --latents is 1; use --prior mixture",
        ),
        (["--components", "5"], "--components is for --prior mixture or vamp"),
        (["--objective", "iwae"], "give e.g. --draws 5"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(arguments, message, tmp_path):
    assert message in call("fit", "digits", "--output", tmp_path / "run", *arguments, code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"format": "other"}', '{"format": "pyrovae-run-1", "settings": {"color": 1}}'],
)
def test_a_broken_run_is_refused(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    assert "truncated or not of this version" in call("evaluate", tmp_path, "digits", code=2)


def edited_run(folder, change, seal=True):
    """Edit run.json; with its digest, as whoever knows how would."""
    content = json.loads((folder / "run.json").read_text())
    format, digest = content.pop("format"), content.pop("sha256")
    change(content)
    whole = (
        files.sealed(format, content) if seal else content | {"format": format, "sha256": digest}
    )
    (folder / "run.json").write_text(json.dumps(whole))


@pytest.fixture
def copied(digits, tmp_path):
    return shutil.copytree(digits[0], tmp_path / "copied")


def test_an_edited_run_is_refused(copied):
    edited_run(copied, lambda content: content["preparation"].update(scale=[2.0]), seal=False)
    for command in ("evaluate", "encode"):
        output = ["-o", copied / "z.npy"] if command == "encode" else []
        refusal = call(command, copied, "digits", *output, code=2)
        assert "run.json: altered since it was written" in " ".join(refusal.split())


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(settings=[]),
        lambda content: content.update(preparation=3),
        lambda content: content["settings"].update(hidden="400"),
        lambda content: content["settings"].update(latents="x"),
        lambda content: content["settings"].update(test=-3.0),
        lambda content: content["settings"].update(seed=17),  # that of the model is another
        lambda content: content["settings"].update(prior="best"),
        lambda content: content["data"].update(rows=[]),
        lambda content: content["data"].pop("fingerprint"),
        lambda content: content["preparation"].update(shift=[1.0, 2.0]),
        lambda content: content["preparation"].update(scale=[0.0]),
        lambda content: content["preparation"].update(further=0),
        lambda content: content["preparation"].pop("shape"),
    ],
)
def test_a_run_that_contradicts_itself_is_refused_by_name(copied, change):
    edited_run(copied, change)
    assert "run.json" in call("evaluate", copied, "digits", code=2)


def test_deeply_nested_json_is_refused_by_name(tmp_path):
    (tmp_path / "run.json").write_text('{"format": ' + "[" * 50_000 + "]" * 50_000 + "}")
    assert "run.json: truncated or not" in call("evaluate", tmp_path, "digits", code=2)


def test_an_elbo_that_is_not_finite_is_no_success(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 8))
    np.save(tmp_path / "x.npy", x)
    call("fit", tmp_path / "x.npy", "--output", tmp_path / "run", *TERSE)
    x[3] = 1.8e19  # each square is in single precision, their sum is not
    np.save(tmp_path / "far.npy", x)
    output = call("evaluate", tmp_path / "run", tmp_path / "far.npy", "--samples", 0, code=2)
    assert "the ELBO is not finite" in output


@pytest.mark.parametrize("data", [".", "../images", "images/../images"])
def test_the_output_is_named_after_the_data_however_its_folder_is_written(
    data, tmp_path, monkeypatch
):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path / "images")
    chosen = options.Options(data=data, output=None, overwrite=False, resume=False)
    assert runs.claim(chosen) == Path("runs/images")


def test_endings_in_capitals_are_known(stored, tmp_path):
    shutil.copy(stored / "binary.npy", tmp_path / "G.NPY")
    call("fit", tmp_path / "G.NPY", "--output", tmp_path / "run", *TERSE)
    assert options.settings_of("A.H5AD").__name__ == "CellSettings"


def test_a_closed_pipe_is_no_error(digits):
    command = f"{sys.executable} -m pyrovae inspect {digits[0]} | head -n 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (len(found.stdout.splitlines()), found.stderr) == (1, "")


def test_json_is_strict(tmp_path):
    writing.write_json(
        {"a": float("nan"), "b": [np.float32(1.5), torch.tensor(2)], "c": (float("inf"), None)},
        tmp_path / "a.json",
    )
    assert strict(tmp_path / "a.json") == {"a": None, "b": [1.5, 2], "c": [None, None]}


def test_settings_survive_json():
    data = read_data("digits")
    values = given(data="digits", hidden=[8, 4], network=Network.CONV, denoise=0.1)
    settings = resolve_settings(values, data)
    assert (settings.hidden, settings.network) == ((8, 4), Network.CONV)
    assert ImageSettings.of(json.loads(json.dumps(settings.to_dict()))) == settings


# ---------------------------------------------------------------------------- runs of version 0.1.0
OLD_RUN = Path(__file__).parent / "fixtures" / "format-1" / "run_digits"


def test_a_run_of_version_0_1_is_evaluated_and_encoded(tmp_path):
    output = call("evaluate", OLD_RUN, "digits", "--samples", 10, "-o", tmp_path / "again.json")
    again, first = strict(tmp_path / "again.json"), strict(OLD_RUN / "metrics.json")
    for key in ("test", "log_p"):
        assert again[key] == pytest.approx(first[key], rel=1e-3, abs=1e-2), key
    assert "360 test rows" in output
    call("encode", OLD_RUN, "digits", "-o", tmp_path / "z.csv")
    assert (tmp_path / "z.csv").read_text().splitlines()[0] == "z1,z2,label"
    call("sample", OLD_RUN, "-n", 3, "-o", tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (3, 1, 8, 8)
    assert "total_count: 16" in call("inspect", OLD_RUN)


def test_an_interrupted_run_of_version_0_1_resumes(tmp_path):
    shutil.copytree(OLD_RUN.parent / "run_interrupted", tmp_path / "run")
    expected = strict(OLD_RUN.parent / "run_interrupted" / "expected.json")
    call("fit", "digits", "--output", tmp_path / "run", "--resume", "--no-report")
    again = strict(tmp_path / "run" / "metrics.json")
    assert again["training"]["epochs"] == expected["training"]["epochs"] == 2
    assert again["test"] == pytest.approx(expected["test"], rel=1e-4)


# ------------------------------------------------------------------------------- the command itself
def test_the_command_line_itself_is_light():
    """Only `pyrovae/__init__` pulls torch: the options and their help need nothing heavy."""
    package = Path(options.__file__).parents[1]
    code = f"""
import sys, types
sys.modules["pyrovae"] = package = types.ModuleType("pyrovae")
package.__path__ = [{str(package)!r}]
from pyrovae.command import cli
print([name for name in ("torch", "pyro", "numpy", "matplotlib", "scipy") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_option_is_for_one_kind_of_data_or_for_all():
    common, *own = (set(kind.names()) for kind in (Settings, *options.KINDS))
    assert all(common < names for names in own)
    assert not set.intersection(*(names - common for names in own))
    assert set(options.DEFAULTS) == set.union(*own)


def test_module_and_version_and_traceback():
    version = subprocess.run(
        [sys.executable, "-m", "pyrovae", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"pyrovae \d+\.\d+.*\n", version.stdout)
    result = CliRunner().invoke(app, ["--traceback", "fit", "nonsense"])
    assert isinstance(result.exception, FileNotFoundError)
    help_text = call("fit", "--help")
    for option in (
        "--output",
        "--likelihood",
        "--objective",
        "--warm-up",
        "--resume",
        "--no-binarize",
        "--data-dir",
    ):
        assert option in help_text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_the_process_of_the_command_line_keeps_freed_memory(monkeypatch):
    code = """
import resource, torch
from pyrovae.command import cli
cli.app = lambda **_: None
def pages():
    for _ in range(5):
        parts = [torch.ones(10_000_000) for _ in range(4)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
cleared = -pages() + pages()
cli.main()
print(cleared, -pages() + pages())
"""
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    run = lambda: map(int, subprocess.check_output([sys.executable, "-c", code]).split())  # noqa: E731
    cleared, kept = run()
    assert kept < cleared / 2
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # the user's own settings stay
    cleared, again = run()
    assert again > cleared / 2


def test_tensorboard_holds_the_steps_of_a_run(tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    call("fit", "digits", "--output", tmp_path / "run", "--tensorboard", *QUICK)
    events = loading.EventAccumulator(str(tmp_path / "run" / "events"))
    events.Reload()
    history = files.inspect(tmp_path / "run" / "model")["history"]
    steps = events.Scalars("train/elbo")
    assert len(events.Scalars("validation/elbo")) == len(history["validation_elbo"])
    assert [event.step for event in steps] == list(range(1, len(steps) + 1))


def test_compile_and_precision_reach_the_fit(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda of, **_: compiled.append(of) or of)
    for data in ("digits", "simulated-cells"):
        folder = tmp_path / data
        call("fit", data, "--compile", "--precision", "bf16", "--output", folder, *TERSE)
        settings = json.loads((folder / "run.json").read_text())["settings"]
        assert (settings["compile"], settings["precision"]) == (True, "bf16")
    assert len(compiled) == 2


def test_a_run_whose_reasons_are_no_texts_is_refused(tmp_path):
    call("fit", "digits", "--output", tmp_path / "run", "--no-report", *QUICK)
    path = tmp_path / "run" / "run.json"
    content = json.loads(path.read_text())
    del content["format"], content["sha256"]
    content["chosen"][1] = 7
    path.write_text(json.dumps(files.sealed(runs.FORMATS[0], content)))
    assert "run.json" in call("evaluate", tmp_path / "run", "digits", code=2)
