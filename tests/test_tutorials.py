"""Every tutorial in quick mode: no warnings, no blank pictures, and results within bounds.

A script is executed as a notebook; the executed notebooks stay in build/course, from where the
documentation takes them. Scripts with a row in CASES still print their results to be checked here.

Each bound has a reason: an identity holds up to rounding, an average over draws up to a few of its
standard errors, and a fitted model is better than a broken one could be. The numbers in comments
are those of a run in quick mode; the tutorial of the same name prints them.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import course
import numpy as np
import pytest
from matplotlib.image import imread

TUTORIALS = Path(__file__).parents[1] / "tutorials"


def check_bare_pyro(r):
    assert r["variance_error"] < 0.02  # 200,000 draws: a standard error of 0.3 %
    for ratio, logvar in zip(r["variance_ratio_of_the_slip"], (-2, 0, 1), strict=True):
        # the mistaken samples have variance exp(2 logvar)
        assert ratio == pytest.approx(math.exp(logvar), rel=0.02)
    assert r["gradient_error"] < 0.015  # standard errors of 0.003 and 0.002
    assert r["encoder_gradient_rsample"] > 1
    assert r["encoder_gradient_sample"] == 0
    for name in "AB":
        assert r[f"pyro_against_hand_{name}"] < 1e-5  # the same sums in another order, float32
        # the library's loss is that of bare Pyro for the same weights and seed
        assert r[f"loss_difference_{name}"] < 1e-5
    assert r["gradient_difference"] < 1e-4
    # -23.9; seeds and one draw of z change it by 0.2; without latents: -27.1
    assert r["elbo"] > -24.6
    assert r["elbo"] > r["independent_pixels"] + 2
    assert r["elbo_fit"] == pytest.approx(r["elbo"], abs=0.6)
    # 0.4 below: a lower bound, and a tight one
    assert r["elbo_fit"] < r["log_evidence"] < r["elbo_fit"] + 1.5


def check_three_parts(r):
    floor = r["independent_pixels"]  # -27.2: the result of a collapsed posterior
    for name in ("baseline", "convolutional", "residual", "own_prior", "own_posterior", "own_both"):
        assert r[name] > floor + 2.5, name  # -23.5 to -23.8
    to_bits = r["error_to_bits"]  # 0.272 and 0.292
    assert to_bits["autoencoder"] < to_bits["VAE"] - 0.005
    assert r["DiscretizedLogistic"] > -96  # -89.4
    # -89.4 and -93.1, against -113.6
    assert min(r["DiscretizedLogistic"], r["Categorical"]) > r["Binomial"] + 10
    assert r["Gaussian, learned sigma"] > 15  # 24.7
    assert r["ContinuousBernoulli"] > 115  # 130.6
    # 0.15: the root mean squared error of the reconstructions and the spread of q(z | x)
    assert 0.1 < r["sigma"] < 0.2
    # a label has at most log 10 nats of information
    assert r["baseline"] + 1 < r["conditional"] < r["baseline"] + math.log(10) + 0.5
    assert r["judge"] > 0.95
    assert r["drawn_as_asked"] > 0.9  # 0.97; 0.1 if the context had no effect
    noise = r["noise_left"]  # Denoising 0.185, plain VAE 0.217
    assert noise["Denoising"] < noise["plain VAE"] - 0.01
    assert noise["plain VAE"] < 0.75 * noise["noisy"]
    assert r["widths_moved"] > 0.1  # the parameters of the user's own part are trained
    assert r["difference_after_loading"] == 0


def check_the_bound(r):
    assert r["curvature_of_log"] == pytest.approx(-0.25)
    assert r["jensen_error"] < 0.01  # a million draws: standard error 0.002 at s = 1
    assert r["integral"] == pytest.approx(1, abs=1e-6)
    # in standard errors, with fixed seeds
    assert max(r["kl_z_scores"] + r["kl_full_z_scores"] + [r["gap_z_score"]]) < 5
    # float64 identities
    assert max(r["kl_diagonal_error"], r["kl_full_error"], r["diagonal_gap_error"]) < 1e-10
    assert r["kl_roles_differ_by"] > 1
    assert r["exact_posterior_error"] < 1e-10  # every draw gives log p(x)
    assert r["identity_error"] < 1e-10
    assert r["slip_error"] > 1  # 7.2 nats
    # monotone up to rounding
    assert min(r["em_least_rise_of_elbo"], r["em_least_rise_of_evidence"]) > -1e-9
    assert r["em_gap_after_e_step"] < 1e-9
    assert abs(r["em_below_maximum"]) < 1e-6  # converges linearly: 1e-12 after 100 iterations
    # 0.04 nats below, and never above, the maximum from the eigenvalues
    assert -1e-9 < r["sgd_below_maximum"] < 0.3
    assert -93 < r["elbo"] < r["log_evidence"]  # -90.6, -88.4
    assert r["naive_short_at_100"] > 5  # 14.4 nats
    assert r["naive_short_at_10000"] > 0.7  # 1.9
    assert r["importance_short_at_100"] < 0.6  # 0.12
    # effective sample sizes of 1.5 and 281 of 10,000 draws
    assert r["ess_naive_share"] < 1e-3 < 5e-3 < r["ess_importance_share"]
    assert r["minibatch_error"] < 1e-12  # unbiased: the mean over all minibatches is the loss


def check_estimators(r):
    for name, one in r["one_dimension"].items():
        assert one["z_score"] < 5, name
        # 2,000,000 draws from a distribution with heavy tails
        assert one["variance_ratio"] == pytest.approx(1, abs=0.03), name
    assert max(r["means_agree"].values()) < 2  # mean squared z-score; 1 if expectations agree
    # 1,280 and 35; leave one out 0.34, SGVB A 2.4, five draws 0.20
    relative = r["relative_variance"]
    ranked = [relative[f"score function{kind}"] for kind in ("", ", running mean")]
    assert ranked[0] > 200 > ranked[1] > 5 > relative["SGVB A"] > 1
    assert relative["SGVB B, 5"] == pytest.approx(0.2, rel=0.2)
    trained = r["trained"]  # -23.8, -21.1, -21.0, -20.9
    others = ("score function, leave one out", "SGVB A", "SGVB B")
    assert trained["score function"] < min(trained[name] for name in others) - 1
    assert trained["SGVB B"] > -22
    assert r["bounds"] == sorted(r["bounds"])
    assert r["bounds"][-1] < r["log_evidence"] + 0.05
    assert r["log_evidence"] - r["bounds"][-1] < 0.3 * (r["log_evidence"] - r["bounds"][0])
    for iwae, dreg in zip(r["signal_to_noise"]["IWAE"], r["signal_to_noise"]["DReG"], strict=True):
        assert dreg > 1.5 * iwae  # 3 to 6 times
    assert min(r["learned"].values()) > -25  # -22.3 to -23.6
    assert all(r["learned"][name] > began + 2 for name, began in r["began"].items())
    assert r["learned"]["wake-sleep"] < r["learned"]["Monte Carlo EM"]


def check_mixtures(r):
    assert r["em_against_sklearn"] < 1e-3  # 100 iterations from the same start
    assert r["em_least_rise"] > -1e-6  # the ridge on the covariances is not part of the bound
    assert r["ari_em"] > 0.5  # 0.665
    assert r["ari_mixture"] > 0.25  # 0.41, 0.58 after twice the epochs; 0 at random
    assert r["components_in_use"] >= 6  # 10; 1 if the prior collapses
    for prior in ("standard", "mixture", "vamp"):
        # -19.0, -18.8, -18.6; without latents: -27.1
        assert -20.5 < r[f"log_p_{prior}"] < -17.5, prior
    assert r["log_p_vamp"] > r["log_p_standard"] - 0.2
    assert r["parameters_of_vamp"] == 0  # the parameters of the shared encoder are counted once


def check_flows(r):
    # float64 identities
    assert max(r["determinant_error_plain"], r["determinant_error_gated"]) < 1e-10
    for name in ("diagonal", "full rank", "mixture of 8", "IAF, 4 steps"):
        # the mass outside the grid is missing
        assert r[f"integral_banana_{name}"] == pytest.approx(1, abs=0.02), name
        assert r[f"gap_banana_{name}"] > -0.02  # a KL, estimated from 50,000 draws
    assert r["gap_banana_IAF, 4 steps"] < 0.15  # 0.03
    assert r["gap_banana_diagonal"] > 0.8  # 0.98
    assert r["gap_banana_full rank"] > 0.8  # 0.96
    assert r["gap_ring_IAF, 4 steps"] < r["gap_ring_diagonal"] - 0.3  # 1.4, 2.1
    assert r["inverse_slower"] > 5  # 148 times
    assert r["inverse_error"] < 1e-2  # 40 dimensions, one after the other, in float32
    assert r["log_p_flow"] > -22.5  # -21.3
    assert r["log_p_standard normal"] > -22.5  # -21.2


def check_single_cell(r):
    # 100,000 draws: five standard errors
    assert max(r["zeros_error_NB"], r["zeros_error_ZINB"]) < 0.008
    assert -500 < r["elbo"] < r["log_p"] < r["elbo"] + 40  # -472.6, -453.4
    assert r["ari"] > 0.95  # 1.00
    assert r["library_correlation"] > 0.6  # 0.82
    assert r["zero_fraction_error"] < 0.12  # 0.064
    assert r["sums_to_one"] < 1e-5
    assert r["rho_error"] < 0.5 * r["plain_error"]  # 0.24, 0.70
    assert r["markers_found"] > 0.8  # 1.00; 0.09 at random
    assert r["own_posterior_rises"] > 10  # 45: q(l) begins at the observed size


def check_uncertain_decoder(r):
    assert max(r["regression_error"], r["scale_error"]) < 1e-9  # float64 identities
    point, full = ([r[f"{name}_{i}"] for i in range(3)] for name in ("point", "full"))
    assert point[0]["training"] - point[0]["last"] > 30  # 63 nats of overfitting
    assert full[0]["training"] - full[0]["last"] < 8  # 2.8
    assert full[0]["last"] > point[0]["last"] + 20  # -29.8, -70.9
    assert full[0]["last"] > full[0]["best"] - 6  # -27.0 is the best during training
    # -22.1, -20.5: with many images full Bayes is worse
    assert -24 < full[2]["last"] < point[2]["last"]
    assert r["slip"] < full[2]["last"] - 2  # -25.5
    assert r["price"][0] > r["price"][1] > r["price"][2]
    assert r["known_0"] < r["known_2"]  # 4 % and 14 %
    assert r["spread_0"] > 1.5 * r["spread_2"]  # 0.081, 0.029
    # -26.0; -27.9, which is below it by Jensen's inequality; -50.9
    assert r["together"] > max(r["apart"], r["point"])


def check_new_cells(r):
    assert r["elbo_after"] > r["elbo_before"]
    assert r["tensors_moved"] == 1  # the columns of the decoder's only hidden layer
    assert r["reference_moved"] < 1e-2  # wider products, summed in another order
    assert r["hidden"] > 0.85
    assert r["new_batch"] > max(0.8, r["neighbours"] - 0.05)
    assert abs(r["confidence"] - r["new_batch"]) < 0.1
    assert r["poisson_loses"] > 3 * r["poisson_error"]
    assert r["poisson_error"] < r["value_error"]


CASES = {
    "00_bare_pyro": (check_bare_pyro, {"reparameterization", "elbo", "reconstructions", "samples"}),
    "01_three_parts": (check_three_parts, {"likelihoods", "conditional", "denoising"}),
    "11_single_cell": (check_single_cell, {"training", "latent", "predictive"}),
    "13_new_cells": (check_new_cells, {"query", "comparison"}),
    "12_uncertain_decoder": (check_uncertain_decoder, {"overfitting", "weights", "pictures"}),
    "04_estimators": (check_estimators, {"variance", "iwae", "em"}),
    "07_mixtures": (check_mixtures, {"latent_mixture", "samples", "pseudo_inputs"}),
    "08_flows": (check_flows, {"posteriors", "prior"}),
    "03_the_bound": (check_the_bound, {"jensen", "gap", "em", "evidence"}),
}

# These assert their claims themselves and show their pictures by pyplot: how many.
PICTURES = {"02_autoencoder_and_vae": 4, "05_manifold": 6, "06_tasks": 4, "09_maps": 4}


def test_every_tutorial_is_listed():
    found = {path.stem for path in TUTORIALS.glob("*.py")}
    listed = {*CASES, *PICTURES}
    assert found == listed, "each script in tutorials/ needs a row in CASES or PICTURES"
    index = (TUTORIALS / "README.md").read_text()
    assert [name for name in found if f"{name}.py" not in index] == []


@pytest.mark.parametrize("name", CASES)
def test_tutorial(name, tmp_path):
    check, pictures = CASES[name]
    script = [str(TUTORIALS / f"{name}.py"), "--quick", "--output", "pictures"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", *script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    last = run.stdout.splitlines()[-1]
    assert last.startswith("RESULT ")
    check(json.loads(last.removeprefix("RESULT ")))
    expected = {f"{name[:2]}_{picture}.png" for picture in pictures}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == expected
    for path in (tmp_path / "pictures").iterdir():
        pixels = imread(path)[..., :3]
        assert min(pixels.shape[:2]) > 200, path.name
        assert np.std(pixels) > 0.05, f"{path.name} is blank"  # a line plot has at least 0.1


@pytest.mark.parametrize("name", PICTURES)
def test_a_tutorial_executed_as_a_notebook_shows_its_pictures(name):
    run = course.quick_run(TUTORIALS / f"{name}.py", again=True)
    shown = course.pictures(run)
    assert len(shown) == PICTURES[name]
    for number, picture in enumerate(shown):
        assert min(picture.shape[:2]) > 80, f"picture {number} is {picture.shape}"
        assert picture.std() > 0.05, f"picture {number} is blank"  # a line plot has at least 0.1


@pytest.mark.parametrize("path", sorted((TUTORIALS / "answers").glob("*.py")), ids=lambda p: p.stem)
def test_the_answers_to_the_exercises_hold(path):
    course.quick_run(path, again=True)
    assert "\nassert " in path.read_text()
    assert (TUTORIALS / path.name).exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import warnings\nwarnings.warn('old')", "UserWarning: old"),
        ("import sys\nprint('progress', file=sys.stderr)", "standard error"),
        ("assert 1 + 1 == 3", "AssertionError"),
        ("open('left', 'w').close()", "leaves files"),
    ],
)
def test_a_script_that_warns_fails_or_leaves_files_is_refused(tmp_path, body, message):
    (tmp_path / "a.py").write_text(f"# %% [markdown]\n# # A title\n\n# %%\n{body}\n")
    with pytest.raises(course.CourseError, match=message):
        course.execute(course.convert(tmp_path / "a.py"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_tutorial_has_one_idea_and_says_it(name):
    lines = (TUTORIALS / f"{name}.py").read_text().splitlines()
    text = [line for line in lines if line.startswith("#")]
    assert len(lines) < 250
    assert sum(line.startswith(("assert ", "    assert ")) for line in lines) >= 8
    words = sum(len(line.split()) - 1 for line in text)
    assert words > 4 * (len(lines) - len(text))  # words for each line of code
