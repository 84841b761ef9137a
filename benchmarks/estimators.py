"""The variance of each estimator of a bound's gradient, at the same weights.

It measures the notes' claim about the score function. One VAE (784-200-20 on MNIST, or the embedded
digits) is trained for a few epochs; then, at those weights and on one minibatch, the gradient of
each estimator is drawn many times. Reported for the guide's parameters: the variance summed over
parameters, relative to that of SGVB B; the signal-to-noise ratio of one draw (median over them of
|mean| / standard deviation); milliseconds per draw. Estimators of the ELBO have the same
expectation, and so do IWAE-K and DReG-K for the same K. SGVB with K samples is included as an
estimator of the same cost.

    python benchmarks/estimators.py [--quick] [--json FILE] [--plot FILE.png] [--seeds 0 1 2]
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import reports
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae import objectives
from pyrovae.data import datasets
from pyrovae.objectives import IWAE, SGVB_A, SGVB_B, DReG, LeaveOneOut, RunningMean, ScoreFunction

BATCH = 50


def contestants() -> dict[str, objectives.Objective]:
    """Return the estimators by name."""
    found: dict[str, objectives.Objective] = {
        "score function": ScoreFunction(),
        "score function, running mean": ScoreFunction(baseline=RunningMean()),
        "score function, 5": ScoreFunction(samples=5),
        "score function, 5, leave one out": ScoreFunction(samples=5, baseline=LeaveOneOut()),
        "SGVB A": SGVB_A(),
        "SGVB B": SGVB_B(),
        "SGVB B, 5": SGVB_B(samples=5),
    }
    for k in (5, 50):
        found |= {f"IWAE, {k}": IWAE(samples=k), f"DReG, {k}": DReG(samples=k)}
    return found


def trained(images: Tensor, epochs: int, seed: int) -> pv.VAE:
    """Return a VAE trained for that number of epochs."""
    torch.manual_seed(seed)
    pixels = images.shape[1]
    graph = pv.VAE(
        pv.priors.StandardNormal(20),
        pv.posteriors.DiagonalNormal(pv.nets.MLP(pixels, [200], 40)),
        pv.likelihoods.Bernoulli(pv.nets.MLP(20, [200], pixels)),
    )
    pv.fit(graph, images, epochs=epochs, transform=pv.batches.binarize, seed=seed, progress=False)
    return graph


class Moments:
    """Running mean and variance of vectors, which are not stored (Welford 1962)."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, g: Tensor) -> None:
        """Include one vector."""
        self.n += 1
        off = g - self.mean
        self.mean = self.mean + off / self.n
        self.squares = self.squares + off * (g - self.mean)

    @property
    def variance(self) -> Tensor:
        """Unbiased variance of one vector, elementwise."""
        return self.squares / (self.n - 1)


def measure(graph: pv.VAE, x: Tensor, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """Return each estimator's results for the mean loss per row, all interleaved."""
    objectives_ = contestants()
    moments = {name: Moments() for name in objectives_}
    seconds: dict[str, list[float]] = {name: [] for name in objectives_}
    torch.manual_seed(seed)
    for i in range(draws + 3):
        for name, objective in objectives_.items():
            started = time.perf_counter()
            loss = objective.differentiable_loss(graph.model, graph.guide, x) / len(x)
            grads = torch.autograd.grad(loss, list(graph.posterior.parameters()))
            seconds[name].append(time.perf_counter() - started)
            if i >= 3:  # the first draws warm up, and start the running mean
                moments[name].add(torch.cat([g.flatten() for g in grads]).double())
    base = moments["SGVB B"].variance.sum().item()
    figures = {}
    for name, m in moments.items():
        sigma = m.variance.sqrt()
        varies = sigma > 0  # weights of pixels that are always off have no gradient
        figures[name] = {
            "variance": m.variance.sum().item(),
            "relative variance": m.variance.sum().item() / base,
            "signal to noise": (m.mean.abs()[varies] / sigma[varies]).median().item(),
            "ms": 1e3 * statistics.median(seconds[name]),
        }
    return figures


def median_over(seeds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return medians over seeds, with the smallest and largest relative variance."""
    result = {}
    for name in seeds[0]:
        rows = [seed[name] for seed in seeds]
        result[name] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        relative = [row["relative variance"] for row in rows]
        result[name] |= {"least": min(relative), "most": max(relative)}
    return result


def color(name: str) -> str:
    """Return red for score functions, blue for SGVB, green for importance-weighted bounds."""
    return "#c44e52" if "score" in name else "#4c72b0" if "SGVB" in name else "#55a868"


def plot(figures: dict[str, dict[str, float]], file: Path) -> None:
    """Draw variance and signal-to-noise ratio, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(figures)[::-1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axes, key, title in (
        (left, "relative variance", "variance of the guide's gradient, SGVB B = 1"),
        (right, "signal to noise", "signal-to-noise ratio of one draw (median parameter)"),
    ):
        values = [figures[name][key] for name in names]
        axes.barh(names, values, color=[color(name) for name in names])
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10)
        axes.bar_label(axes.containers[0], fmt="%.2g", padding=3, fontsize=8)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    """Train, measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="the embedded digits, one seed, few draws"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--plot", type=Path, help="write the picture to this file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    source = datasets.digits() if arguments.quick else datasets.mnist()
    images = torch.from_numpy(source.x).flatten(1).float()
    images = images / images.max()
    seeds, epochs, draws = ([0], 5, 60) if arguments.quick else (arguments.seeds, 3, 400)
    print(
        *reports.environment().values(),
        source.name,
        f"{epochs} epochs, {draws} draws, minibatch of {BATCH}, seeds {seeds}",
    )
    found = []
    for seed in seeds:
        graph = trained(images, epochs, seed)
        x = torch.bernoulli(images[:BATCH], generator=torch.Generator().manual_seed(seed))
        found.append(measure(graph, x, draws, seed))
    figures = median_over(found)
    print(f"\n{'':34s}{'variance':>12s}{'of SGVB B':>11s}{'(seeds)':>22s}{'SNR':>9s}{'ms':>8s}")
    for name, row in figures.items():
        between = f"{row['least']:.3g} to {row['most']:.3g}"
        variance = f"{row['variance']:12.4g}{row['relative variance']:11.3g}{between:>22s}"
        print(f"{name:34s}{variance}{row['signal to noise']:9.3g}{row['ms']:8.2f}")
    report: dict[str, Any] = {
        **reports.environment(),
        "data": source.name,
        "seeds": seeds,
        "figures": figures,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))
    if arguments.plot:
        plot(figures, arguments.plot)


if __name__ == "__main__":
    main()
