"""What `pyrovae fit` does by itself with data that nobody tuned it for, and with bad arguments."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pyrovae.command.choices import Likelihood
from pyrovae.command.cli import app
from pyrovae.command.images import baselines, choosing, floors
from pyrovae.command.images.components import Components
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.images.verdict import judge
from pyrovae.data import Dataset, Kind, kind_of

STRESS = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "stress.py"))
SHORT = ["--epochs", "3", "--hidden", "8", "--samples", "10", "--no-report"]


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


def stored(x, folder):
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


# ------------------------------------------------------------------------------- kinds of data
@pytest.mark.parametrize("kind", [kind for kind in STRESS["KINDS"] if kind != "wide"])
def test_every_kind_of_the_stress_set_is_fitted_and_judged(kind, tmp_path):
    x = STRESS["KINDS"][kind](np.random.default_rng(0))[:60]
    output = call("fit", stored(x, tmp_path), "--output", tmp_path / "run", *SHORT)
    figures = metrics(tmp_path / "run")
    assert np.isfinite(figures["test"]["elbo"])
    assert np.isfinite(figures["log_p"]["mean"])
    assert figures["baselines"]["verdict"]["verdict"] in ("better", "matches", "worse")
    assert "model - PCA" in output
    assert "chosen: gradients are clipped" in output


def test_wide_data_get_a_narrow_network_and_do_not_diverge(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 20_000)).astype(np.float32)
    arguments = ["--epochs", "3", "--samples", "5", "--no-report", "--batch-size", "4"]
    call("fit", stored(x, tmp_path), "--output", tmp_path / "run", *arguments)
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["hidden"] == [200]
    assert np.isfinite(metrics(tmp_path / "run")["test"]["elbo"])


def test_drawings_with_a_row_far_off_do_not_diverge(tmp_path):
    """Without a floor and clipping the loss of such data becomes infinite at this learning rate."""
    rng = np.random.default_rng(0)
    x = np.zeros((300, 10, 10), np.uint8)
    x[:, 4:6, 4:6] = rng.integers(0, 256, (300, 2, 2))
    x[::50, :2, :2] = 255
    arguments = ["--epochs", "20", "--learning-rate", "0.01", "--samples", "5", "--no-report"]
    call("fit", stored(x, tmp_path), "--output", tmp_path / "run", *arguments)
    assert metrics(tmp_path / "run")["test"]["elbo"] > -100 * np.log(256)  # better than uniform


def test_values_small_beside_their_offset_are_kept(tmp_path):
    x = 1e6 + 1e-3 * np.random.default_rng(0).normal(size=(200, 3))
    run = tmp_path / "run"
    call("fit", stored(x, tmp_path), "--output", run, *SHORT)
    call("sample", run, "-n", 400, "--draw", "--output", tmp_path / "drawn.npy")
    drawn = np.load(tmp_path / "drawn.npy")
    assert np.allclose(drawn.mean(0), 1e6, atol=1e-3, rtol=0)
    assert np.all(np.abs(drawn.std(0) / 1e-3 - 1) < 0.5)


def test_linear_data_reach_what_probabilistic_pca_reaches(tmp_path):
    """Training starts at that solution, and returns to it where it finds nothing better."""
    x = STRESS["plane"](np.random.default_rng(0), 300, 12, 3, 0.3)
    arguments = ["--samples", "100", "--no-report", "--epochs", "5"]
    call("fit", stored(x, tmp_path), "--output", tmp_path / "run", *arguments)
    assert metrics(tmp_path / "run")["baselines"]["verdict"]["difference"] > -0.02 * 12


def test_an_old_run_has_no_bound_on_its_gradient():
    values = {"data": "x", "clip_norm": None}
    others = {
        "validation": 0.1, "test": 0.2, "latents": 2, "hidden": [4], "likelihood": "gaussian",
        "warm_up": 0.0, "epochs": 1, "batch_size": 2, "samples": 1, "binarize": False,
        "network": "mlp", "activation": "relu",
    }  # fmt: skip
    assert ImageSettings.of(values | others).clip_norm == "none"
    assert ImageSettings.of({"data": "x"} | others).clip_norm == "auto"
    assert ImageSettings.of({"data": "x", "clip_norm": 2.0} | others).clip_norm == "2.0"


# ----------------------------------------------------------------------------- floors, likelihoods
def test_floors_follow_steps_and_constants():
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=500), rng.integers(0, 20, 500) / 6.0, np.full(500, 3.0)]
    real, step, constant = floors.of_columns(x)
    assert real == floors.LEAST
    assert step == pytest.approx(1 / 6 / 12**0.5)
    assert constant == 1.0


def dataset(x):
    return Dataset("x", x, kind_of(x))


def test_the_likelihood_follows_how_values_scatter():
    rng = np.random.default_rng(0)
    grey = 0.5 + 0.1 * np.tanh(STRESS["plane"](rng, 400, 20, 2, 0.1))
    drawn = (rng.random((400, 20)) < 0.3).astype(np.float32)
    drawn[0, 0] = 0.5
    spread = rng.poisson(rng.gamma(0.5, 40, (400, 20)))
    years = rng.integers(1990, 2020, (400, 5))
    for x, expected in [
        (grey, Likelihood.GAUSSIAN),
        (drawn, Likelihood.CONTINUOUS_BERNOULLI),
        (rng.poisson(3, (400, 20)), Likelihood.POISSON),
        (spread, Likelihood.NEGATIVE_BINOMIAL),
        (years, Likelihood.GAUSSIAN),
    ]:
        assert choosing.choose_likelihood(dataset(x), 4).likelihood is expected
    assert kind_of(spread) is Kind.COUNTS


# ------------------------------------------------------------------------------ probabilistic PCA
@pytest.mark.parametrize("shape", [(300, 8), (9, 40)])
def test_components_have_the_density_of_their_gaussian(shape):
    rng = np.random.default_rng(0)
    x, k = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])), 3
    found = Components(x)
    n, d = shape
    covariance = (x - x.mean(0)).T @ (x - x.mean(0)) / n
    values, vectors = np.linalg.eigh(covariance)
    noise = values[: d - k].mean()
    w = vectors[:, d - k :] * np.sqrt(values[d - k :] - noise)
    gaussian = torch.distributions.MultivariateNormal(
        torch.from_numpy(x.mean(0)), torch.from_numpy(w @ w.T + noise * np.eye(d))
    )
    expected = gaussian.log_prob(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found.log_p(x, k), expected, rtol=1e-6)


def test_a_density_without_noise_is_bounded_by_the_floor():
    x = np.random.default_rng(0).normal(size=(50, 1)) * np.ones((1, 6))
    pca = baselines.probabilistic_pca(x, x, x, whole=False, components=2, floor=0.1)
    assert pca.log_p < 6 * (-np.log(0.1) - 0.5 * np.log(2 * np.pi))


def test_a_worse_model_is_called_so_with_what_to_try():
    settings = ImageSettings.of(
        {
            "data": "x", "validation": 0.1, "test": 0.2, "latents": 2, "hidden": [4],
            "likelihood": "poisson", "warm_up": 0.0, "epochs": 1, "batch_size": 2, "samples": 1,
            "binarize": False, "network": "mlp", "activation": "relu",
        }
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for mean, expected in ((-5, "worse"), (0, "matches"), (5, "better")):
        found = judge(settings, rng.normal(mean, 1, 100), rows=50, shape=(3,))
        assert found["verdict"] == expected
        assert bool(found["what_to_try"]) == (expected == "worse")
    assert "--likelihood gaussian" in judge(settings, np.full(9, -5.0), 50, (3,))["what_to_try"]
    assert judge(settings, np.array([float("nan")]), 50, (3,))["verdict"] == "worse"
    outlier = np.append(rng.normal(0.5, 1, 199), -1e5)  # as large an error as the loss
    found = judge(settings, outlier, rows=5000, shape=(3,))
    assert found["verdict"] == "worse"
    assert "4 of 200 test rows make most of the difference" in found["what_to_try"]
    without = np.sort(outlier)[4:].mean()
    assert f"{without:+.2f} nats without them" in found["what_to_try"]


# ----------------------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "nan"],
        ["--epochs", "2.5"],
        ["--epochs", "9" * 20],
        ["--seed", "9" * 20],
        ["--latents", "9" * 20],
        ["--hidden", "9" * 20],
        ["--batch-size", "9" * 20],
        ["--threads", "1000000"],
        ["--samples", "9" * 12],
        ["--test-rows", "9" * 20],
        ["--patience", "9" * 20],
        ["--components", "9" * 20, "--prior", "mixture"],
        ["--draws", "9" * 9, "--objective", "iwae"],
        ["--learning-rate", "nan"],
        ["--learning-rate", "inf"],
        ["--beta", "nan"],
        ["--beta", "inf"],
        ["--warm-up", "nan"],
        ["--validation", "nan"],
        ["--test", "nan"],
        ["--denoise", "inf"],
        ["--sigma", "nan"],
        ["--clip-norm", "nan"],
        ["--clip-norm", "much"],
        ["--clip-norm", "-1"],
    ],
)
def test_numbers_that_are_none_are_refused(arguments, tmp_path):
    output = call("fit", "digits", "--output", tmp_path / "run", *arguments, code=2)
    assert "Invalid value" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["meta", "warp", "cuda:99", ""])
def test_a_device_that_cannot_compute_is_refused(device, tmp_path):
    output = call("fit", "digits", "--device", device, "--output", tmp_path / "run", code=2)
    assert f"--device {device} cannot be used" in output


def test_exhausted_memory_is_one_line(tmp_path, monkeypatch):
    from pyrovae.command.images import experiment

    for error in (MemoryError("unable to allocate 9 TiB"), RuntimeError("can't allocate memory")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(experiment, "build_graph", fail)
        output = call("fit", "digits", "--output", tmp_path / "run", code=2)
        assert "there is not enough memory" in output
        assert "Traceback" not in output


def test_evaluation_refuses_rows_without_a_finite_density(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 8))
    call("fit", stored(x, tmp_path), "--output", tmp_path / "run", *SHORT)
    x[7] = 1.8e19  # what is larger is refused when it is read
    np.save(tmp_path / "far.npy", x)
    output = call("evaluate", tmp_path / "run", tmp_path / "far.npy", "--samples", 5, code=2)
    assert "evaluation row 7" in output
    assert "Remove such rows" in output
