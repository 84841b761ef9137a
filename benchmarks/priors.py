"""The gain of richer priors, posteriors and bounds on binarized MNIST, at equal network and budget.

Network 784-300-300-40 and back (ReLU), Adam 1e-3, batch 100, KL warm-up over the first quarter,
pixels of 55,000 images resampled at each visit, the best epoch chosen on 5,000 more. Test images
are binarized once. Reported: log p(x) by importance sampling with its standard error over images,
the ELBO, active units, and milliseconds per step beside the plain model's, interleaved in one run.

Each finished fit is written to the JSON file at once, and another run continues from that file;
`--only` and `--seeds` select some of the fits.

    python benchmarks/priors.py [--quick] [--json FILE] [--seeds 0 1 2] [--only NAME ...]
                                [--epochs N] [--samples N] [--no-times]
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import reports
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae import nets, objectives, posteriors, priors
from pyrovae.data import datasets
from pyrovae.training import FusedSVI, Optimization, adam

PIXELS, HIDDEN, D, CONTEXT, BATCH = 784, [300, 300], 40, 40, 100
COMPONENTS, PSEUDO_INPUTS = 100, 500


class Setting(NamedTuple):
    """One row of the table: its graph from training images, its objective from beta's schedule."""

    make: Callable[[Tensor], pv.VAE]
    objective: Callable[[Any], objectives.Objective] = lambda beta: objectives.SGVB_B(beta=beta)


def encoder(outputs: int) -> nets.MLP:
    """Return the encoder's network with that number of outputs."""
    return nets.MLP(PIXELS, HIDDEN, outputs)


def vae(prior: torch.nn.Module, posterior: torch.nn.Module) -> pv.VAE:
    """Return a graph with the decoder that all settings share."""
    return pv.VAE(prior, posterior, pv.likelihoods.Bernoulli(nets.MLP(D, HIDDEN, PIXELS)))


def diagonal() -> posteriors.DiagonalNormal:
    """Return the diagonal normal posterior."""
    return posteriors.DiagonalNormal(encoder(2 * D))


def vamp(x: Tensor) -> pv.VAE:
    """Return the graph with a VampPrior, its pseudo-inputs initialized by training images."""
    q = diagonal()
    chosen = x[torch.randperm(len(x))[:PSEUDO_INPUTS]].flatten(1)
    return vae(priors.Vamp(q, chosen, low=0.0, high=1.0), q)


def plain(x: Tensor) -> pv.VAE:
    """Return the graph with a standard normal prior and a diagonal posterior."""
    return vae(priors.StandardNormal(D), diagonal())


SETTINGS = {
    "standard, diagonal": Setting(plain),
    "mixture prior": Setting(lambda x: vae(priors.Mixture(D, COMPONENTS), diagonal())),
    "VampPrior": Setting(vamp),
    "flow prior": Setting(lambda x: vae(priors.Flow(D), diagonal())),
    "full-rank posterior": Setting(
        lambda x: vae(
            priors.StandardNormal(D), posteriors.FullRankNormal(encoder(D + D * (D + 1) // 2))
        )
    ),
    "IAF posterior": Setting(
        lambda x: vae(
            priors.StandardNormal(D), posteriors.IAF(encoder(2 * D + CONTEXT), D, context=CONTEXT)
        )
    ),
    "SGVB, 5 samples": Setting(plain, lambda beta: objectives.SGVB_B(samples=5, beta=beta)),
    "IWAE, 5 samples": Setting(plain, lambda beta: objectives.IWAE(samples=5, beta=beta)),
    "DReG, 5 samples": Setting(plain, lambda beta: objectives.DReG(samples=5, beta=beta)),
    "IWAE, 50 samples": Setting(plain, lambda beta: objectives.IWAE(samples=50, beta=beta)),
}


def data(quick: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return training images in [0, 1], and validation and test images binarized once."""
    mnist = datasets.mnist()
    x, test = (torch.from_numpy(part).flatten(1).float() for part in (mnist.x, mnist.x_test))
    stream = torch.Generator().manual_seed(0)
    held_out, test = (torch.bernoulli(part, generator=stream) for part in (x[55_000:], test[::10]))
    return (x[:2000], held_out[:500], test[:100]) if quick else (x[:55_000], held_out, test)


def fit(
    setting: Setting, images: tuple[Tensor, Tensor, Tensor], epochs: int, seed: int, samples: int
) -> dict[str, Any]:
    """Fit one setting and return its results."""
    x, held_out, test = images
    torch.manual_seed(seed)
    graph = setting.make(x)
    objective = setting.objective(objectives.warm_up(0.25))
    history = pv.fit(
        graph,
        x,
        validation=held_out,
        objective=objective,
        epochs=epochs,
        batch_size=BATCH,
        transform=pv.batches.binarize,
        seed=seed,
        progress=False,
    )
    started = time.perf_counter()
    evidence = pv.log_evidence(graph, test, samples=samples)
    sampling_error = evidence.standard_error.square().sum().sqrt().item() / len(test)
    return {
        "log p(x)": evidence.log_p.mean().item(),
        "error over images": evidence.log_p.std().item() / math.sqrt(len(test)),
        "error of importance sampling": sampling_error,
        "effective samples, median": evidence.effective_sample_size.median().item(),
        "ELBO": pv.elbo(graph, test, samples=10).elbo.mean().item(),
        "active units": int(pv.active_units(graph, test).sum()),
        "best epoch": history.best_epoch,
        "minutes": sum(history.seconds) / 60,
        "minutes of evaluation": (time.perf_counter() - started) / 60,
    }


def step_times(
    names: list[str], x: Tensor, rounds: int, steps: int = 20
) -> dict[str, dict[str, float]]:
    """Return median milliseconds of a step at batch 128, and the ratio to the plain model's."""
    batch = x[:128].round()
    contestants = {}
    for name in dict.fromkeys(["standard, diagonal", *names]):
        graph = SETTINGS[name].make(x)
        objective = SETTINGS[name].objective(1.0)
        contestants[name] = FusedSVI(graph, objective, Optimization(adam), (batch,))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds + 1):
        order = list(contestants)
        for name in order[i % len(order) :] + order[: i % len(order)]:
            started = time.perf_counter()
            for _ in range(steps):
                contestants[name].step((batch,))
            if i:  # the first round warms up
                seconds[name].append((time.perf_counter() - started) / steps)
    base = seconds["standard, diagonal"]
    ratios = {
        name: statistics.median(a / b for a, b in zip(own, base, strict=True))
        for name, own in seconds.items()
    }
    return {
        name: {"ms": 1e3 * statistics.median(own), "ratio": ratios[name]}
        for name, own in seconds.items()
    }


def show(report: dict[str, Any]) -> None:
    """Print the table: means over seeds, and the standard deviation over seeds of log p(x)."""
    heads = f"{'log p(x)':>10s}{'seeds':>7s}{'+-':>6s}{'ELBO':>10s}{'active':>8s}{'ESS':>7s}"
    print(f"\n{'':22s}{heads}{'ms':>8s}{'ratio':>7s}")
    for name, fits in report["fits"].items():
        rows = list(fits.values())
        log_p = [row["log p(x)"] for row in rows]
        spread = statistics.stdev(log_p) if len(rows) > 1 else math.nan
        mean = {
            key: statistics.mean(row[key] for row in rows)
            for key in ("ELBO", "active units", "effective samples, median")
        }
        speed = report["steps"].get(name, {"ms": math.nan, "ratio": math.nan})
        print(
            f"{name:22s}{statistics.mean(log_p):10.2f}{len(rows):7d}{spread:6.2f}"
            f"{mean['ELBO']:10.2f}{mean['active units']:8.1f}"
            f"{mean['effective samples, median']:7.0f}{speed['ms']:8.1f}{speed['ratio']:7.2f}"
        )


def keep(report: dict[str, Any], file: Path | None) -> None:
    """Write the report, whole or not at all."""
    if file is not None:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(report, indent=1))
        part.replace(file)


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two epochs, 2,000 images, one seed, 100 samples")
    add("--json", type=Path, help="file for the results; fits that it holds are not run again")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    add("--epochs", type=int, default=20)
    add("--samples", type=int, default=1000, help="importance samples per image")
    add("--no-times", action="store_true", help="omit the interleaved timing of steps")
    found = parser.parse_args()
    if found.quick:
        found.epochs, found.seeds, found.samples = 2, [0], 100
    return found


def main() -> None:
    """Run the fits that the file does not hold, time the steps, and print the table."""
    given = options()
    sizes = {"epochs": given.epochs, "samples": given.samples}
    images, report = data(given.quick), reports.started(given.json, sizes, "fits", "steps")
    report["test images"] = len(images[2])
    budget = f"{given.epochs} epochs, {given.samples} samples, {len(images[2])} test images"
    print(report["machine"], report["versions"], budget)
    for seed in given.seeds:
        for name in given.only:
            if str(seed) in report["fits"].get(name, {}):
                continue
            figures = fit(SETTINGS[name], images, given.epochs, seed, given.samples)
            words = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
            print(f"seed {seed}  {name:22s}", words, flush=True)
            report["fits"].setdefault(name, {})[str(seed)] = figures
            keep(report, given.json)
    if not given.no_times:
        report["steps"] = step_times(list(report["fits"]), images[0], 3 if given.quick else 10)
        keep(report, given.json)
    show(report)


if __name__ == "__main__":
    main()
