"""The log-likelihood of hidden pixels: methods of `pyrovae.impute` against simple baselines.

A VAE (784-400-20 on MNIST, pixels binarized) is trained; then the lower half, or a random half, of
the pixels of test images is hidden. Reported for each method: log p(x_h | x_o) in nats per hidden
pixel and its standard error over images (`pyrovae.hidden_log_prob`; with 1000 draws of the latents,
so that it is the score of a mixture of 1000 products of Bernoulli distributions); the share of
images whose number of hidden pixels that are on lies in the 90 % interval of 99 draws; the median
effective sample size of 256 draws; and milliseconds per image.

encoder       the guide sees zeros instead of hidden pixels, and draws from it count alike
importance    hidden pixels are filled in with their means, repeated; draws of the guide weighted
refine        normals fitted to each image, their draws weighted
hmc           a chain of Hamiltonian Monte Carlo for each draw: on fewer images, with 200 draws in
              the score, and `refine` once more with these
mean image    each pixel is on with its frequency in the training images
PCA           probabilistic PCA of 20 dimensions: E[x_h | x_o] of the normal distribution that it
              fits to the binary training images, clipped to [e, 1 - e], as the probabilities of
              independent pixels; e is the best of a few for training images with the same mask

    python benchmarks/impute.py [--quick] [--json FILE] [--seed 0] [--model FOLDER]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reports
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.data import datasets

D = 20
METHODS = ("encoder", "importance", "refine")
CLIPS = (0.003, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
Draws = Callable[[Tensor, Tensor], Tensor]


def data(quick: bool) -> tuple[Tensor, Tensor]:
    """Return training images in [0, 1], and test images binarized once."""
    mnist = datasets.mnist()
    x, test = (torch.from_numpy(part).flatten(1).float() for part in (mnist.x, mnist.x_test))
    test = torch.bernoulli(test[::40], generator=torch.Generator().manual_seed(0))
    return (x[:10_000], test[:30]) if quick else (x, test)


def trained(x: Tensor, epochs: int, seed: int) -> pv.VAE:
    """Return a fitted VAE."""
    torch.manual_seed(seed)
    vae = pv.VAE(
        pv.priors.StandardNormal(D),
        pv.posteriors.DiagonalNormal(pv.nets.MLP(784, [400], 2 * D)),
        pv.likelihoods.Bernoulli(pv.nets.MLP(D, [400], 784)),
    )
    binarize = pv.batches.binarize
    pv.fit(vae, x, epochs=epochs, batch_size=200, transform=binarize, seed=seed, progress=False)
    return vae


def masks(rows: int, seed: int) -> dict[str, Tensor]:
    """Return which pixels are hidden, by name, with shape (B, 784)."""
    lower = torch.zeros(28, 28, dtype=torch.bool)
    lower[14:] = True
    stream = torch.Generator().manual_seed(1000 + seed)  # not that of the pixels
    return {
        "lower half": lower.flatten().expand(rows, -1),
        "random half": torch.rand(rows, 784, generator=stream) < 0.5,
    }


class Pca:
    """Probabilistic PCA: N(m, W W^T + s^2 I), fitted by eigenvalues (Tipping & Bishop 1999)."""

    def __init__(self, x: Tensor, dimensions: int) -> None:
        x = x.double()
        self.mean = x.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(x.T))
        rest = values[:-dimensions].mean()
        w = vectors[:, -dimensions:] * (values[-dimensions:] - rest).sqrt()
        self.covariance = w @ w.T + rest * torch.eye(len(self.mean))

    def expected(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return E[x_h | x_o] where x is hidden, and x elsewhere."""
        found = x.double()
        for row, h in zip(found, hidden, strict=True):
            between = self.covariance[h][:, ~h]
            within = self.covariance[~h][:, ~h]
            row[h] = self.mean[h] + between @ torch.linalg.solve(within, (row - self.mean)[~h])
        return found


def of_probabilities(p: Tensor, x: Tensor, hidden: Tensor) -> Tensor:
    """Return log p(x_h) of each image, for independent pixels."""
    log_p = torch.where(x > 0, p.log(), (-p).log1p())
    return torch.where(hidden, log_p, 0.0).sum(1)


def coverage(draws: Tensor, x: Tensor, hidden: Tensor) -> float:
    """Return the share of images whose hidden pixels that are on are as many as in 90 % of draws.

    Ties are broken at random, so that it is 0.9 for draws of the true distribution.
    """
    ink = (draws * hidden).sum(-1)  # (K, B)
    truth = (x * hidden).sum(-1)
    below, ties = (ink < truth).sum(0), (ink == truth).sum(0)
    u = torch.rand(ties.shape, generator=torch.Generator().manual_seed(0))
    rank = (below + u * (ties + 1)) / (len(ink) + 1)
    return ((rank >= 0.05) & (rank <= 0.95)).double().mean().item()


def row_of(
    log_p: Tensor, hidden: Tensor, covered: float, seconds: float, size: float
) -> dict[str, float]:
    """Return one row of the table."""
    nats = log_p.double() / hidden.sum(1)
    return {
        "nats per pixel": nats.mean().item(),
        "standard error": (nats.std() / len(nats) ** 0.5).item(),
        "coverage": covered,
        "effective sample size": size,
        "ms per image": 1e3 * seconds / len(nats),
    }


def of_method(
    vae: pv.VAE, x: Tensor, hidden: Tensor, method: str, effort: dict[str, int], seed: int
) -> dict[str, float]:
    """Return the row of one method of `pyrovae.impute`."""
    given: dict[str, Any] = {"hidden": hidden, "method": method, "steps": effort["steps"]}
    started = time.perf_counter()
    found = pv.impute(vae, x, draws=99, seed=seed, **given)
    seconds = time.perf_counter() - started
    score = pv.hidden_log_prob(vae, x, samples=effort["samples"], batch_size=16, **given)
    size = found.effective_sample_size.median().item()
    return row_of(score.log_p, hidden, coverage(found.draws, x, hidden), seconds, size)


def of_baseline(p: Tensor, x: Tensor, hidden: Tensor, seconds: float) -> dict[str, float]:
    """Return the row of a baseline by the probabilities of independent pixels."""
    stream = torch.Generator().manual_seed(0)
    draws = torch.bernoulli(p.expand(99, *x.shape).contiguous(), generator=stream)
    covered = coverage(draws, x, hidden)
    return row_of(of_probabilities(p, x, hidden), hidden, covered, seconds, float("nan"))


def clipped(pca: Pca, x: Tensor, hidden: Tensor) -> float:
    """Return the best bound of the probabilities for some training images."""
    p = pca.expected(x, hidden)

    def score(clip: float) -> float:
        return of_probabilities(p.clamp(clip, 1 - clip), x, hidden).mean().item()

    return max(CLIPS, key=score)


def main() -> None:
    """Train, impute, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few images and epochs")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="a saved model instead of training one")
    arguments = parser.parse_args()
    x, test = data(arguments.quick)
    epochs = 8 if arguments.quick else 20
    vae = pv.load(arguments.model) if arguments.model else trained(x, epochs, arguments.seed)
    bits = torch.bernoulli(x, generator=torch.Generator().manual_seed(arguments.seed))
    frequency = (bits.sum(0) + 1) / (len(bits) + 2)
    pca = Pca(bits, D)
    trained_by = str(arguments.model or f"{epochs} epochs")
    print(
        *reports.environment().values(),
        f"MNIST, {len(test)} test images, {trained_by}, seed {arguments.seed}",
    )
    figures: dict[str, dict[str, Any]] = {}
    some = bits[-200:]
    of_training = masks(len(some), arguments.seed + 1)
    for name, hidden in masks(len(test), arguments.seed).items():
        rows = {"mean image": of_baseline(frequency, test, hidden, 0.0)}
        clip = clipped(pca, some, of_training[name])
        started = time.perf_counter()
        p = pca.expected(test, hidden).clamp(clip, 1 - clip)
        rows["PCA"] = of_baseline(p, test, hidden, time.perf_counter() - started) | {"clip": clip}
        effort = (
            {"samples": 100, "steps": 20} if arguments.quick else {"samples": 1000, "steps": 100}
        )
        for method in METHODS:
            rows[method] = of_method(vae, test, hidden, method, effort, arguments.seed)
        few = 5 if arguments.quick else 20
        effort["samples"] //= 5
        for method in ("refine", "hmc"):
            row = of_method(vae, test[:few], hidden[:few], method, effort, arguments.seed)
            rows[f"{method}, {few} images"] = row
        figures[name] = rows
        show(name, rows)
    report = {
        **reports.environment(),
        "model": trained_by,
        "seed": arguments.seed,
        "figures": figures,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


def show(name: str, rows: dict[str, dict[str, float]]) -> None:
    """Print the table of one mask."""
    print(f"\n{name:18s}{'nats/pixel':>12s}{'error':>9s}{'coverage':>10s}{'ESS':>8s}{'ms':>8s}")
    for method, row in rows.items():
        score = f"{row['nats per pixel']:12.4f}{row['standard error']:9.4f}"
        rest = f"{row['coverage']:10.3f}{row['effective sample size']:8.1f}"
        print(f"{method:18s}{score}{rest}{row['ms per image']:8.1f}")


if __name__ == "__main__":
    main()
