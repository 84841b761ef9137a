"""The cost of a training step: plain PyTorch, plain Pyro SVI, `pyrovae.fit`, in one process.

All three have the same network, data and minibatch size, and load their minibatches in the timing.
The first and the last have one fused Adam, the second has Pyro's own. Every round times a number of
steps of each, in rotating order. The results are medians over rounds, and medians of the ratios
within a round, so that the machine's noise affects all alike. `PyTorch, same density` is the
hand-written step with this library's Bernoulli in place of torch's cross entropy: the difference
from it to `fit` is the cost of Pyro's handlers. The compiled rows compile the loss, before the
timing: by `torch.compile` of the hand-written one, and by `fit(compile=True)`. `both` is that in
bfloat16.

    python benchmarks/step.py [--quick] [--json FILE]
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import reports
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn import functional

import pyrovae as pv
from pyrovae.distributions import IndependentBernoulli

SETTINGS = [
    {"hidden": 500, "batch": 100, "bound": 1.10},
    {"hidden": 400, "batch": 1024, "bound": 1.03},
]
FITS: dict[str, dict[str, Any]] = {
    "pyrovae.fit": {},
    "fit(compile=True)": {"compile": True},
    'fit(precision="bf16")': {"precision": "bf16"},
    "both": {"precision": "bf16", "compile": True},
}
LATENTS, PIXELS, ROWS = 20, 784, 20_000


def networks(hidden: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return encoder and decoder, with the same weights at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(
            nn.Linear(PIXELS, hidden), nn.Tanh(), nn.Linear(hidden, 2 * LATENTS)
        )
        return encoder, nn.Sequential(
            nn.Linear(LATENTS, hidden), nn.Tanh(), nn.Linear(hidden, PIXELS)
        )


def minibatches(data: Tensor, size: int) -> Iterator[Tensor]:
    """Yield minibatches without end, reshuffled each epoch: plain torch's fastest way in memory."""
    while True:
        for rows in torch.randperm(len(data)).split(size):
            yield data[rows]


Step = Callable[[], float]


def plain(
    data: Tensor, hidden: int, size: int, own_density: bool = False, compiled: bool = False
) -> Step:
    """Hand-written PyTorch: SGVB B, one sample, fused Adam."""
    encoder, decoder = networks(hidden)
    optimizer = torch.optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True
    )
    batches = minibatches(data, size)

    def reconstruction(logits: Tensor, x: Tensor) -> Tensor:
        if own_density:
            p = dist.Bernoulli(logits=logits, validate_args=False)
            return -IndependentBernoulli(p, 1).log_prob(x).sum()
        return functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")

    def mean_loss(x: Tensor) -> Tensor:
        mu, log_sigma = encoder(x).chunk(2, -1)
        z = mu + log_sigma.exp() * torch.randn_like(mu)
        kl = 0.5 * (mu.square() + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum()
        return (reconstruction(decoder(z), x) + kl) / len(x)

    if compiled:
        mean_loss = torch.compile(mean_loss)

    def step() -> float:
        loss = mean_loss(next(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


class PyroVAE(nn.Module):
    """The model, written as in Pyro's tutorial."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(hidden)

    def model(self, x: Tensor) -> None:
        """Draw z ~ N(0, I), x ~ Bernoulli."""
        pyro.module(f"decoder-{id(self)}", self.decoder)
        zeros = x.new_zeros(len(x), LATENTS)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw z ~ q(z | x)."""
        pyro.module(f"encoder-{id(self)}", self.encoder)
        with pyro.plate("data", len(x)):
            mu, log_sigma = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mu, log_sigma.exp()).to_event(1))


def plain_pyro(data: Tensor, hidden: int, size: int) -> Step:
    """Pyro's SVI with analytic KL and its own Adam, validation off."""
    vae, batches = PyroVAE(hidden), minibatches(data, size)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())

    def step() -> float:
        with pyro.validation_enabled(False):
            return svi.step(next(batches)) / size

    return step


def library(hidden: int) -> pv.VAE:
    """Return the same model in this library."""
    mlp = functools.partial(pv.nets.MLP, activation=nn.Tanh)
    vae = pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.posteriors.DiagonalNormal(mlp(PIXELS, [hidden], 2 * LATENTS)),
        pv.likelihoods.Bernoulli(mlp(LATENTS, [hidden], PIXELS)),
    )
    encoder, decoder = networks(hidden)
    targets = [*vae.posterior.parameters(), *vae.likelihood.parameters()]
    sources = [*encoder.parameters(), *decoder.parameters()]
    for target, source in zip(targets, sources, strict=True):
        target.data.copy_(source)
    return vae


def time_fit(vae: pv.VAE, data: Tensor, size: int, steps: int, **options: Any) -> float:
    """Return seconds per step of the second epoch of `fit`, by its own clock.

    The first epoch creates the optimizer's state, and compiles.
    """
    settings = {"epochs": 2, "batch_size": size, "progress": False, **options}
    history = pv.fit(vae, data[: steps * size], **settings)
    return history.seconds[-1] / steps


def time_step(step: Step, steps: int) -> float:
    """Return seconds per step."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def compare(hidden: int, size: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds per step of each contestant, one number per round."""
    data = (torch.rand(ROWS, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.13).float()
    steps = len(data) // size
    hand, same = plain(data, hidden, size), plain(data, hidden, size, own_density=True)
    svi, vae = plain_pyro(data, hidden, size), library(hidden)
    by_torch = plain(data, hidden, size, compiled=True)
    contestants: dict[str, Callable[[], float]] = {
        "plain PyTorch": lambda: time_step(hand, steps),
        "PyTorch, same density": lambda: time_step(same, steps),
        "plain Pyro SVI": lambda: time_step(svi, steps),
        "PyTorch, compiled": lambda: time_step(by_torch, steps),
    }
    for name, options in FITS.items():
        contestants[name] = functools.partial(time_fit, vae, data, size, steps, **options)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(rounds + 1):
        names = list(contestants)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            elapsed = contestants[name]()
            if i:  # the first round warms up
                seconds[name].append(elapsed)
    return seconds


def table(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of each, and its median ratio to plain PyTorch."""
    base = seconds["plain PyTorch"]
    return {
        name: {
            "ms": 1e3 * statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, base, strict=True)),
        }
        for name, own in seconds.items()
    }


def main() -> None:
    """Run both settings, and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds only")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    report: dict = {**reports.environment(), "settings": []}
    print(report["machine"], report["versions"])
    for setting in SETTINGS:
        hidden, batch, bound = (setting[key] for key in ("hidden", "batch", "bound"))
        rows = table(compare(hidden, batch, 3 if arguments.quick else 12))
        report["settings"].append({**setting, "figures": rows})
        print(f"\n784-{hidden}-{LATENTS}, batch {batch} (bound {bound:.2f})")
        for name, row in rows.items():
            print(f"  {name:24s}{row['ms']:8.2f} ms  {row['ratio']:6.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
