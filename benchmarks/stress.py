"""Does `pyrovae fit`, with its defaults, hold on data that nobody tuned it for?

Twenty kinds of data, three seeds each: data and fit are by the seed. Every run must end without
divergence and with a verdict against probabilistic PCA of as many components, fitted to the same
rows and evaluated on the same held-out rows. Real numbers compare by densities of the standardized
values; values in [0, 1] by their densities; counts and levels by log masses, for which the density
of PCA is integrated over the unit cell of each whole number (`pyrovae.command.images.baselines`).

    python benchmarks/stress.py                              all, about a quarter of an hour
    python benchmarks/stress.py --kinds heavy-tails --seeds 1

The exit status is 1 if a run diverged, or failed, or has no verdict. Where the model loses to PCA
the table says so, and the report of the run says why that may be.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.command.fit import fit_and_report
from pyrovae.command.options import DEFAULTS, Options

Array = np.ndarray
Rng = np.random.Generator

SAMPLES, TEST_ROWS = 200, 200  # for log p(x): evaluation, not training
THREADS = 1  # whatever else the machine does, times compare


# ------------------------------------------------------------------------------- the kinds of data
def line_drawings(rng: Rng) -> Array:
    """Draw three strokes on 28 x 28 levels: 87 % are 0, and one drawing in 50 is off centre."""
    y, x = np.mgrid[:28, :28]
    images = np.zeros((800, 28, 28))
    for image in images:
        width = 11 if rng.random() < 0.02 else 7
        for _ in range(3):
            a, b = 13.5 + rng.uniform(-width, width, (2, 2))
            t = ((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / ((b - a) ** 2).sum()
            t = t.clip(0, 1)
            off = np.hypot(x - a[0] - t * (b - a)[0], y - a[1] - t * (b - a)[1])
            np.maximum(image, (1.5 - off).clip(0, 1), out=image)
    return (images * 255).round().astype(np.uint8)


def constant_columns(rng: Rng) -> Array:
    """Return twelve columns that vary and eight that do not."""
    return np.c_[plane(rng, 600, 12, 3, 0.3), np.tile(rng.normal(0, 100, 8), (600, 1))]


def heavy_tails(rng: Rng) -> Array:
    """Return mixtures of variables of Student's t with 1.5 degrees of freedom: no variance."""
    return rng.standard_t(1.5, (800, 4)) @ rng.normal(size=(4, 10)) + rng.standard_t(3, (800, 10))


def five_rows(rng: Rng) -> Array:
    """Return five rows."""
    return rng.normal(size=(5, 10))


def wide(rng: Rng) -> Array:
    """Return 60 rows of 100,000 columns."""
    return plane(rng, 60, 100_000, 3, 1.0).astype(np.float32)


def one_value(rng: Rng) -> Array:
    """Return the same number everywhere."""
    return np.full((200, 6), rng.normal())


def huge_offsets(rng: Rng) -> Array:
    """Return columns that vary by 1e-3 around a million."""
    return 1e6 + 1e-3 * plane(rng, 600, 12, 3, 0.3)


def near_duplicates(rng: Rng) -> Array:
    """Return twenty rows again and again, with differences in the fifth digit."""
    return rng.normal(size=(20, 15))[rng.integers(0, 20, 600)] + 1e-5 * rng.normal(size=(600, 15))


def natural_images(rng: Rng) -> Array:
    """Return grey patches of 12 x 12 pixels of two photographs, levels of 8 bits."""
    return patches(rng, 12).mean(-1).round().astype(np.uint8)


def colour_images(rng: Rng) -> Array:
    """Return colour patches of 8 x 8 pixels of two photographs, levels of 8 bits."""
    return patches(rng, 8).transpose(0, 3, 1, 2)


def spectra(rng: Rng) -> Array:
    """Return 200 channels: five lines of varying height on a sloping background, little noise."""
    at = np.linspace(0, 1, 200)
    lines = np.exp(-0.5 * ((at - rng.uniform(0.1, 0.9, (5, 1))) / 0.02) ** 2)
    height = rng.gamma(2, 1, (500, 5))
    return (
        height @ lines + rng.uniform(1, 2, (500, 1)) * (2 - at) + 0.02 * rng.normal(size=(500, 200))
    )


def mixed_units(rng: Rng) -> Array:
    """Return a table: measures from 1e-6 to 1e5, a category one-hot, a year, an amount of money."""
    n = 800
    hidden = rng.normal(size=(n, 3))
    measures = hidden @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(n, 8))
    kind = np.eye(4)[(hidden[:, 0] > 0) * 2 + (hidden[:, 1] > 0)]
    year = (1990 + 10 * hidden[:, 2]).round()
    return np.c_[
        measures * 10.0 ** np.arange(-6, 2) * 1e4, kind, year, np.exp(2 * hidden[:, 0] + 8)
    ]


def sparse_binary(rng: Rng) -> Array:
    """Return zeros and ones, 6 % ones."""
    return rng.random((1000, 100)) < 1 / (
        1 + np.exp(4 - rng.normal(size=(1000, 4)) @ rng.normal(size=(4, 100)))
    )


def one_hot(rng: Rng) -> Array:
    """Return six categories of five levels each, one-hot, that hang together."""
    kind = rng.integers(0, 3, 1000)
    levels = (kind[:, None] + rng.choice(5, (1000, 6), p=[0.6, 0.2, 0.1, 0.05, 0.05])) % 5
    return np.eye(5, dtype=np.uint8)[levels].reshape(1000, 30)


def overdispersed_counts(rng: Rng) -> Array:
    """Return counts whose variance is a hundred times their mean."""
    mean = np.exp(3 + rng.normal(size=(1000, 3)) @ rng.normal(size=(3, 20)) * 0.7)
    return rng.poisson(rng.gamma(0.5, mean / 0.5))


def unit_with_masses(rng: Rng) -> Array:
    """Return values in [0, 1] of which a third are exactly 0 or 1."""
    return (0.5 + 0.5 * plane(rng, 800, 20, 3, 0.2) / 1.7).clip(0, 1)


def integers_with_gaps(rng: Rng) -> Array:
    """Return multiples of 7 of either sign, and rarely one far off."""
    x = 7 * (3 * plane(rng, 800, 12, 3, 0.3)).round().astype(int)
    x[rng.integers(0, 800, 5), rng.integers(0, 12, 5)] = 7000
    return x


def tiny_values(rng: Rng) -> Array:
    """Return real numbers of size 1e-8."""
    return 1e-8 * plane(rng, 600, 12, 3, 0.3)


def correlated_gaussian(rng: Rng) -> Array:
    """Return draws from a Gaussian: PCA's own model."""
    return plane(rng, 1000, 30, 4, 0.5)


def far_clusters(rng: Rng) -> Array:
    """Return two clusters a thousand standard deviations apart."""
    return rng.normal(size=(800, 8)) + 1000 * rng.integers(0, 2, (800, 1))


def plane(rng: Rng, n: int, d: int, k: int, noise: float) -> Array:
    """Return n rows near a plane of k dimensions in d."""
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + noise * rng.normal(size=(n, d))


def patches(rng: Rng, size: int) -> Array:
    """Return 1,000 colour patches of scikit-learn's two photographs, reduced threefold."""
    from sklearn.datasets import load_sample_images

    photographs = [image[::3, ::3] for image in load_sample_images().images]
    found = []
    for _ in range(1000):
        photograph = photographs[rng.integers(2)]
        i, j = (rng.integers(0, n - size) for n in photograph.shape[:2])
        found.append(photograph[i : i + size, j : j + size])
    return np.stack(found)


KINDS: dict[str, Callable[[Rng], Array]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        line_drawings,
        constant_columns,
        heavy_tails,
        five_rows,
        wide,
        one_value,
        huge_offsets,
        near_duplicates,
        natural_images,
        spectra,
        mixed_units,
        sparse_binary,
        one_hot,
        overdispersed_counts,
        unit_with_masses,
        integers_with_gaps,
        tiny_values,
        correlated_gaussian,
        far_clusters,
        colour_images,
    )
}


# ------------------------------------------------------------------------------------------ a run
def run(kind: str, seed: int, folder: Path) -> dict[str, Any]:
    """Fit a kind of data by the defaults of `pyrovae fit`; return what became of it."""
    path = folder / f"{kind}.npy"
    np.save(path, KINDS[kind](np.random.default_rng([seed, *kind.encode()])))
    given = {
        "data": str(path),
        "output": folder / "run",
        "seed": seed,
        "overwrite": True,
        "quiet": True,
    }
    given |= {"samples": SAMPLES, "test_images": TEST_ROWS, "report": False, "threads": THREADS}
    started, said = time.perf_counter(), list[str]()
    try:
        outcome = fit_and_report(Options(**DEFAULTS | given), said.append)
    except Exception as error:  # whatever it is, the run has failed and is counted
        return {"status": f"failed: {type(error).__name__}: {error}", "seconds": 0.0}
    seconds = time.perf_counter() - started
    figures = json.loads((folder / "run" / "metrics.json").read_text())
    settings = json.loads((folder / "run" / "run.json").read_text())["settings"]
    status = "ok" if outcome.code == 0 else f"diverged: {outcome.message}"
    if status == "ok" and figures.get("log_p", {}).get("mean") is None:
        status = "failed: log p(x) of the test rows is not finite"
    return {
        "status": status,
        "seconds": seconds,
        "likelihood": settings["likelihood"],
        "epochs": figures["training"]["epochs"],
        "log_p": figures.get("log_p", {}).get("mean"),
        "pca": figures.get("baselines", {}).get("probabilistic_pca_same", {}).get("log_p"),
        "verdict": figures.get("baselines", {}).get("verdict"),
    }


def line(kind: str, seed: int, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    name = f"{kind:<22} {seed:>4} {found['seconds']:>6.1f}"
    verdict = found.get("verdict")
    if found["status"] != "ok" or verdict is None:
        return f"{name}  {found['status'] if found['status'] != 'ok' else 'no verdict'}"
    error = verdict["standard_error"]
    difference = (
        f"{verdict['difference']:>+10.2f} ± {float('nan') if error is None else error:<8.2f}"
    )
    figures = f"{found['log_p']:>12.2f} {found['pca']:>12.2f} {difference}"
    return f"{name} {found['likelihood']:<22} {found['epochs']:>5} {figures} {verdict['verdict']}"


def main() -> int:
    """Run all, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description="Fit twenty kinds of data by the defaults.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        f"{'kind':<22} seed  secs. {'likelihood':<22} epochs {'log p(x)':>11} {'PCA':>12} "
        f"{'difference':>21} verdict",
        flush=True,
    )
    all_found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.kinds:
            for seed in range(arguments.seeds):
                found = run(kind, seed, Path(folder))
                all_found.append(found)
                print(line(kind, seed, found), flush=True)
    failed = sum(found["status"] != "ok" for found in all_found)
    silent = sum(found["status"] == "ok" and not found.get("verdict") for found in all_found)
    words = [found["verdict"]["verdict"] for found in all_found if found.get("verdict")]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("better", "matches", "worse"))
    print(f"{len(all_found)} runs: {failed} diverged or failed, {silent} without verdict; {counts}")
    return 1 if failed or silent else 0


if __name__ == "__main__":
    sys.exit(main())
