"""What latents that are maps buy: vector latents against matrix normals, at one decoder.

A convolutional VAE of 28 x 28 images whose N 3 x 3 latents are N maps to the decoder in every row.
They differ in the posterior only, and in how many numbers the encoder outputs for it:

vector           a mean and a scale for each latent, 2 d^2 N        Kingma & Welling 2014
MVN              a mean for each, scales by row and column, (d^2 + 2 d) N       Wang et al. 2019
MVN, low rank    means of rank 1, scales by row and column, 4 d N               Wang et al. 2019
MVN, dense       a mean for each, correlated rows and columns
vector, flat     the vector posterior; a decoder that begins with a linear layer, which mixes them

Images are binarized once for testing, at each visit for training. Reported: log p(x) by importance
sampling, ELBO, share of wrong pixels in reconstructions, parameters, ms a step, interleaved.

    python benchmarks/maps.py [--quick] [--data mnist fashion-mnist] [--seeds 0 1 2] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import likelihoods, nets, objectives, posteriors, priors
from pyrovae.training import FusedSVI, Optimization, adam

SIZE, BATCH, CHANNELS = 3, 100, (16, 32, 32)


def encoder(outputs: int) -> nn.Module:
    """Return the encoder's network, the same up to its last layer in every row."""
    return nets.ConvEncoder((1, 28, 28), outputs, CHANNELS)


def vae(posterior: nn.Module, maps: int, flat: bool = False) -> pv.VAE:
    """Return a graph with N maps of latents, or the same number as a vector without places."""
    latents = maps * SIZE**2
    shape = (1, 28, 28)
    if flat:
        decoder: nn.Module = nets.ConvDecoder(latents, shape, CHANNELS)
    else:
        decoder = nets.MapDecoder(maps, SIZE, shape, CHANNELS)
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
        torch.as_tensor(part[:n]).float().reshape(-1, 1, 28, 28)
        for part, n in ((data.x, rows), (data.x_test, test_rows))
    )
    white = x.max()
    return x / white, torch.bernoulli(test / white, generator=torch.Generator().manual_seed(0))


def fitted(
    make: Callable[[int], pv.VAE], data: tuple[Tensor, Tensor], seed: int, options: Any
) -> dict[str, float]:
    """Fit one row and return its figures."""
    x, test = data
    torch.manual_seed(seed)
    graph = make(options.maps)
    history = pv.fit(
        graph,
        x,
        objective=objectives.SGVB_B(beta=objectives.warm_up(0.25)),
        transform=pv.batches.binarize,
        epochs=options.epochs,
        batch_size=BATCH,
        seed=seed,
        progress=False,
    )
    evidence = pv.log_evidence(graph, test, samples=options.samples, seed=0)
    log_p, wrong = evidence.log_p, (pv.reconstruct(graph, test) > 0.5) != (test > 0.5)
    steps = options.epochs * -(-len(x) // BATCH)
    return {
        "log p(x)": log_p.mean().item(),
        "over images": log_p.std().item() / len(log_p) ** 0.5,
        "ELBO": pv.elbo(graph, test, samples=5).elbo.mean().item(),
        "wrong pixels, %": 100 * wrong.float().mean().item(),
        "active units": int(pv.active_units(graph, test).sum()),
        "parameters": sum(p.numel() for p in graph.parameters()),
        "ms a step, in the fit": 1e3 * sum(history.seconds) / steps,
    }


def step_times(x: Tensor, maps: int, rounds: int) -> dict[str, float]:
    """Return the median ms of a loss and its gradient, rows interleaved."""
    batch = torch.bernoulli(x[:BATCH])
    steps = {}
    for name, make in SETTINGS.items():
        graph = make(maps)
        svi = FusedSVI(graph, objectives.SGVB_B(), Optimization(adam), (batch,))
        steps[name] = svi.step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step((batch,))
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Fit all rows over the seeds, print tables, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a check that it runs")
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion-mnist"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--maps", type=int, default=8, help="N")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.images, options.epochs, options.samples, options.seeds = 500, 1, 20, [0]
    torch.set_num_threads(1)
    found: dict[str, Any] = {"arguments": {k: str(v) for k, v in vars(options).items()}}
    for name in options.data:
        data = images(name, options.images, 100 if options.quick else 500)
        table = found[name] = {}
        for seed in options.seeds:
            for row in options.only:
                figures = fitted(SETTINGS[row], data, seed, options)
                table.setdefault(row, []).append(figures)
                shown = ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
                print(f"{name}, seed {seed}, {row}: {shown}", flush=True)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=1))
        for row, figures in table.items():
            means = {k: statistics.mean(each[k] for each in figures) for k in figures[0]}
            print(f"{name}, {row:<16}", "  ".join(f"{k} {v:.2f}" for k, v in means.items()))
    found["ms a step"] = step_times(data[0], options.maps, 3 if options.quick else 30)
    print("ms a step, interleaved:", {k: round(v, 1) for k, v in found["ms a step"].items()})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
