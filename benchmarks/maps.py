"""What latents that are maps buy: vector latents against matrix normals, at one decoder.

A convolutional VAE of 28 x 28 images with N maps of 3 x 3 latents. The first rows have one decoder,
and differ in the posterior only, and in how many numbers the encoder outputs for it:

vector           a mean and a scale for each latent, 2 d^2 N        Kingma & Welling 2014
MVN              a mean for each, scales by row and column, (d^2 + 2 d) N       Wang et al. 2019
MVN, low rank    means of rank 1, scales by row and column, 4 d N               Wang et al. 2019
MVN, dense       a mean for each, correlated rows and columns
vector, flat     the vector posterior; a decoder that begins with a linear layer, which mixes them

The posteriors of "MVN" are a subset of those of "vector", and those of "MVN, low rank" one of them.

Images are binarized once for testing, at each visit for training. Reported, over the seeds: ELBO,
its KL, log p(x) by importance sampling from fewer images, with the share of them for which Pareto's
k-hat calls the estimate unreliable (it then lies below log p(x)), root mean squared error of
reconstructions, active units, parameters, ms of processor time a step, interleaved. The loss of the
published code averages what the ELBO sums, over the pixels and over the latents, and is no bound:
as an objective it is that of beta = 784 / (d^2 N).

    python benchmarks/maps.py [--quick] [--data mnist fashion-mnist] [--seeds 0 1 2] [--json FILE]
"""

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reports
import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import likelihoods, nets, objectives, posteriors, priors
from pyrovae.training import FusedSVI, Optimization, adam

SIZE, BATCH, CHANNELS, SHAPE = 3, 100, (16, 32, 32), (1, 28, 28)
BUDGET = ("maps", "images", "epochs", "test", "evidence", "samples")
Figures = dict[str, float]


def encoder(outputs: int) -> nn.Module:
    """Return the encoder's network, the same up to its last layer in every row."""
    return nets.ConvEncoder(SHAPE, outputs, CHANNELS)


def vae(posterior: nn.Module, maps: int, flat: bool = False) -> pv.VAE:
    """Return a graph with N maps of latents, or the same number as a vector without places."""
    latents = maps * SIZE**2
    if flat:
        decoder: nn.Module = nets.ConvDecoder(latents, SHAPE, CHANNELS)
    else:
        decoder = nets.MapDecoder(maps, SIZE, SHAPE, CHANNELS)
    return pv.VAE(priors.StandardNormal(latents), posterior, likelihoods.Bernoulli(decoder))


def matrix(maps: int, **settings: Any) -> posteriors.MatrixNormal:
    """Return a matrix normal posterior."""
    outputs = posteriors.MatrixNormal.parameters_of(maps, SIZE, **settings)
    return posteriors.MatrixNormal(encoder(outputs), maps, SIZE, **settings)


def vector(maps: int) -> posteriors.DiagonalNormal:
    """Return a diagonal normal posterior."""
    return posteriors.DiagonalNormal(encoder(2 * maps * SIZE**2))


SETTINGS: dict[str, Callable[[int], pv.VAE]] = {
    "vector": lambda n: vae(vector(n), n),
    "MVN": lambda n: vae(matrix(n), n),
    "MVN, low rank": lambda n: vae(matrix(n, rank=1), n),
    "MVN, dense": lambda n: vae(matrix(n, dense=True), n),
    "vector, flat": lambda n: vae(vector(n), n, flat=True),
}


def images(name: str, rows: int, test_rows: int) -> tuple[Tensor, Tensor]:
    """Return training images in [0, 1], and test images binarized once."""
    data = {"mnist": pv.datasets.mnist, "fashion-mnist": pv.datasets.fashion_mnist}[name]()
    x, test = (
        torch.as_tensor(part[:n]).float().reshape(-1, *SHAPE)
        for part, n in ((data.x, rows), (data.x_test, test_rows))
    )
    white = x.max()
    return x / white, torch.bernoulli(test / white, generator=torch.Generator().manual_seed(0))


def fitted(make: Callable[[int], pv.VAE], x: Tensor, seed: int, given: Any) -> pv.VAE:
    """Return a fitted graph."""
    torch.manual_seed(seed)
    graph = make(given.maps)
    pv.fit(
        graph,
        x,
        objective=objectives.SGVB_B(beta=objectives.warm_up(0.25)),
        transform=pv.batches.binarize,
        epochs=given.epochs,
        batch_size=BATCH,
        seed=seed,
        progress=False,
    )
    return graph.eval()


def measured(graph: pv.VAE, test: Tensor, given: Any) -> Figures:
    """Return the figures of a fitted graph."""
    bound = pv.elbo(graph, test, samples=5)
    with warnings.catch_warnings():  # the share of unreliable rows is reported
        warnings.simplefilter("ignore", pv.EvidenceWarning)
        evidence = pv.log_evidence(graph, test[: given.evidence], samples=given.samples, seed=0)
    distortion, kl = -bound.reconstruction.mean().item(), bound.kl.mean().item()
    latents = given.maps * SIZE**2
    return {
        "ELBO": bound.elbo.mean().item(),
        "KL": kl,
        "log p(x)": evidence.log_p.mean().item(),
        "k-hat > 0.7, %": 100 * (~(evidence.pareto_k <= 0.7)).float().mean().item(),
        "RMSE": (pv.reconstruct(graph, test) - test).square().mean().sqrt().item(),
        "published loss": distortion / test[0].numel() + kl / latents,
        "active": int(pv.active_units(graph, test).sum()),
        "parameters": sum(p.numel() for p in graph.parameters()),
    }


def step_times(x: Tensor, given: Any, rounds: int) -> Figures:
    """Return the median ms of a loss, its gradient and Adam, rows interleaved."""
    batch = torch.bernoulli(x[:BATCH])
    steps = {}
    for name in given.only:
        graph = SETTINGS[name](given.maps)
        steps[name] = FusedSVI(graph, objectives.SGVB_B(), Optimization(adam), (batch,)).step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            step((batch,))
            times[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return the mean over the seeds and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return statistics.mean(values), error


def show(report: dict[str, Any]) -> None:
    """Print means over the seeds, and differences to "vector" at the same seed."""
    for data, rows in report["results"].items():
        for row, by_seed in rows.items():
            print(f"\n{data}, {row}, seeds {', '.join(by_seed)}")
            shared = [seed for seed in by_seed if seed in rows.get("vector", {})]
            for key in next(iter(by_seed.values())):
                mean, error = mean_and_error([figures[key] for figures in by_seed.values()])
                line = f"  {key:<16}{mean:12.4f} +- {error:.4f}"
                if row != "vector" and shared:
                    pairs = [by_seed[seed][key] - rows["vector"][seed][key] for seed in shared]
                    line += "   difference {:10.4f} +- {:.4f}".format(*mean_and_error(pairs))
                print(line)
    print("\nms a step:", {k: round(v, 1) for k, v in report["ms a step"].items()})


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a check that it runs")
    add("--data", nargs="+", default=["mnist", "fashion-mnist"])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    add("--maps", type=int, default=64, help="N")
    add("--images", type=int, default=10_000, help="training images")
    add("--epochs", type=int, default=20)
    add("--test", type=int, default=1_000, help="test images")
    add("--evidence", type=int, default=150, help="test images for log p(x)")
    add("--samples", type=int, default=500, help="draws for log p(x)")
    add("--json", type=Path, help="file for the results; fits that it holds are not run again")
    found = parser.parse_args()
    if found.quick:
        found.images, found.epochs, found.seeds = 500, 1, [0]
        found.test, found.evidence, found.samples = 100, 20, 20
    return found


def main() -> None:
    """Fit what the file does not hold, and print the table."""
    given = options()
    torch.set_num_threads(1)
    report = reports.started(given.json, {key: getattr(given, key) for key in BUDGET}, "results")
    print(report["machine"], report["versions"], {key: report[key] for key in BUDGET})
    parts = {name: images(name, given.images, given.test) for name in given.data}
    for seed in given.seeds:
        for name, (x, test) in parts.items():
            for row in given.only:
                known = report["results"].setdefault(name, {}).setdefault(row, {})
                if str(seed) in known:
                    continue
                known[str(seed)] = measured(fitted(SETTINGS[row], x, seed, given), test, given)
                shown = ", ".join(f"{key} {value:.2f}" for key, value in known[str(seed)].items())
                print(f"{name}, seed {seed}, {row}: {shown}", flush=True)
                if given.json:
                    given.json.write_text(json.dumps(report, indent=1))
    times = step_times(parts[given.data[0]][0], given, 3 if given.quick else 30)
    report["ms a step"] = report.get("ms a step", {}) | times
    show(report)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
