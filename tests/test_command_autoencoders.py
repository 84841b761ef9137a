"""`pyrovae fit` of autoencoders: the report says what they have no figure for, and why."""

import json
import re

import numpy as np
import pytest
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from pyrovae import scores
from pyrovae.command.cli import app
from pyrovae.command.images.model import ImageModel
from pyrovae.command.runs import Run
from pyrovae.data import datasets

AUTOENCODER = ["--posterior", "point", "--prior", "flat"]
QUICK = ["--epochs", "2", "--hidden", "8", "--quiet"]


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def titles(folder):
    return re.findall(r'<img alt="([^"]*)"', page(folder))


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    call("fit", "digits", "--output", folder, *AUTOENCODER, *QUICK, "--latents", 2)
    return folder


@pytest.fixture(scope="module")
def denoising(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoising") / "run"
    arguments = ["--denoise", "0.5", "--network", "conv", "--latents", 3]
    call("fit", "digits", "--output", folder, *AUTOENCODER, *QUICK, *arguments)
    return folder


# ------------------------------------------------------------------------------------ the figures
def test_the_default_is_the_squared_error(plain):
    settings = json.loads((plain / "run.json").read_text())["settings"]
    assert settings["likelihood"] == "gaussian"
    assert settings["sigma"] == 1
    assert settings["binarize"] is False
    found = figures(plain)
    x = datasets.digits().x_test
    spread = datasets.digits().x.std(dtype=np.float64)
    log_p = -0.5 * 64 * (found["reconstruction"]["model"]["mse"] / spread**2 + np.log(2 * np.pi))
    assert found["test"]["reconstruction"] == pytest.approx(log_p, abs=1e-3)
    assert len(x) == found["reconstruction"]["rows"]


def test_errors_are_those_of_the_reconstructions(plain):
    x = datasets.digits().x_test
    model = ImageModel.of(Run.open(plain))
    found = model.reconstruct((model.preparation.for_evaluation(x),))
    given = figures(plain)["reconstruction"]
    assert given["model"]["mse"] == pytest.approx(np.square(found - x).mean(), rel=1e-5)
    assert given["model"]["psnr"] == pytest.approx(scores.psnr(found, x, 16.0).mean, rel=1e-5)


def test_pca_and_the_mean_are_scikit_learns_on_the_same_rows(denoising):
    data, found = datasets.digits(), figures(denoising)["reconstruction"]
    # the training rows, of which a tenth validates: the fits differ by sampling alone
    pca = PCA(3).fit(data.x.reshape(len(data.x), -1))
    x = data.x_test.reshape(len(data.x_test), -1)
    error = np.square(pca.inverse_transform(pca.transform(x)) - x).mean()
    assert found["pca"]["mse"] == pytest.approx(error, rel=0.01)
    assert found["mean"]["mse"] == pytest.approx(np.square(x - pca.mean_).mean(), rel=0.01)


def test_noisy_rows_have_the_noise_that_was_asked_for(denoising):
    noisy, spread = figures(denoising)["reconstruction"]["noisy"], datasets.digits().x.std()
    n = datasets.digits().x_test.size
    # a mean of n squares of normals, within four standard errors
    tolerance = 4 * (2 / n) ** 0.5
    assert noisy["input"]["mse"] == pytest.approx((0.5 * spread) ** 2, rel=tolerance + 0.01)
    assert {"model", "input", "pca"} == {key for key in noisy if key != "sigma"}


def test_columns_of_different_units_have_no_psnr(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(600, 5)) * [1, 10, 100, 1, 1])
    output = call(
        "fit", tmp_path / "x.npy", "--output", tmp_path / "run", *AUTOENCODER, *QUICK[:-1]
    )
    found = figures(tmp_path / "run")["reconstruction"]
    assert found["model"]["psnr"] is None
    assert found["unit"] == "standardized values"
    # the mean of 600 squares of variance 2: four standard errors
    assert found["mean"]["mse"] == pytest.approx(1, abs=0.25)
    assert "PSNR" not in output


# --------------------------------------------------------------------------------------- the report
def test_no_figure_of_a_density_is_shown(plain, denoising):
    for folder in (plain, denoising):
        text = page(folder)
        assert "log p(x)</th>" in text.replace("</td>", "</th>")
        assert "this is an autoencoder" in text
        for word in ("ELBO", "active units", "mutual information", "posterior mean", ">nan"):
            assert word not in text, word
        assert not {"Samples", "KL per unit", "Manifold"} & set(titles(folder))


def test_pictures_of_codes(plain, denoising):
    common = ["Training", "Originals and reconstructions"]
    walk = ["Interpolations", "Latent space"]
    assert titles(plain) == [*common, *walk, "Decoded plane"]
    assert titles(denoising) == [*common, "Denoising", *walk]
    assert "digits: an autoencoder" in page(plain)
    assert "digits: a denoising autoencoder" in page(denoising)
    assert "line between the codes of two test rows" in page(plain)


def test_the_decoded_plane_spans_the_codes(plain):
    model = ImageModel.of(Run.open(plain))
    plane = model.plane(np.array([-1.0, 2.0]), np.array([1.0, 4.0]), 3)
    from pyrovae import decode

    corners = model.preparation.undo(decode(model.graph, np.float32([[-1, 4], [1, 2]])))
    np.testing.assert_allclose(plane[0, 0], corners[0], rtol=1e-5)  # z1 least, z2 largest
    np.testing.assert_allclose(plane[-1, -1], corners[1], rtol=1e-5)


def test_a_point_under_a_prior_has_a_density_of_the_code_only(tmp_path):
    arguments = ["--posterior", "point", *QUICK[:-1]]
    output = call("fit", "digits", "--output", tmp_path / "run", *arguments)
    assert "epoch    2: log p(x, z) " in output
    assert "log p(z)" in output
    assert "Samples" in titles(tmp_path / "run")
    given = figures(tmp_path / "run")["test"]
    assert f"{-given['kl']:.2f} nats" in output


# ------------------------------------------------------------------------------- the other commands
def test_evaluate_encode_interpolate_and_sample(plain, tmp_path):
    output = call("evaluate", plain, "digits")
    assert "reconstruction error" in output
    assert "PCA" not in output  # the training rows are not read again
    assert "log p(x)               none" in output
    assert "codes of 360 rows" in call(
        "encode", plain, "digits", "--part", "test", "--output", tmp_path / "z.npy"
    )
    assert np.load(tmp_path / "z.npy").shape == (360, 2)
    call("interpolate", plain, "digits", "--output", tmp_path / "walk.npy", "--steps", 4)
    assert np.load(tmp_path / "walk.npy").shape == (4, 1, 8, 8)
    CliRunner().invoke(app, ["sample", str(plain), "--output", str(tmp_path / "x.npy")])
    assert not (tmp_path / "x.npy").exists()
    assert "Point" in call("inspect", plain)
