"""Every tutorial in quick mode: no warnings, no blank pictures, and results within bounds.

A script is executed as a notebook; the executed notebooks stay in build/course, from where the
documentation takes them. Scripts with a row in CASES still print their results to be checked here.

Each bound has a reason: an identity holds up to rounding, an average over draws up to a few of its
standard errors, and a fitted model is better than a broken one could be. The numbers in comments
are those of a run in quick mode; the tutorial of the same name prints them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import course
import numpy as np
import pytest
from matplotlib.image import imread

TUTORIALS = Path(__file__).parents[1] / "tutorials"


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
    "11_single_cell": (check_single_cell, {"training", "latent", "predictive"}),
    "13_new_cells": (check_new_cells, {"query", "comparison"}),
    "12_uncertain_decoder": (check_uncertain_decoder, {"overfitting", "weights", "pictures"}),
}

# These assert their claims themselves and show their pictures by pyplot: how many.
PICTURES = {
    "00_bare_pyro": 2,
    "01_three_parts": 2,
    "02_autoencoder_and_vae": 4,
    "03_jensen_and_kl": 1,
    "04_estimators": 1,
    "05_manifold": 6,
    "06_tasks": 4,
    "07_mixtures": 2,
    "08_flows": 2,
    "09_maps": 4,
    "14_the_gap": 3,
    "15_expectation_maximization": 2,
    "16_tighter_bounds": 2,
    "17_learned_priors": 2,
    "mini_vae": 1,
}


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


@pytest.mark.parametrize("name", sorted({*PICTURES} - {"mini_vae"}))
def test_a_tutorial_has_one_idea_and_says_it(name):
    lines = (TUTORIALS / f"{name}.py").read_text().splitlines()
    text = [line for line in lines if line.startswith("#")]
    assert len(lines) < 250
    assert sum(line.startswith(("assert ", "    assert ")) for line in lines) >= 8
    words = sum(len(line.split()) - 1 for line in text)
    assert words > 4 * (len(lines) - len(text))  # words for each line of code
