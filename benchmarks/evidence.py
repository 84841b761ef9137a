"""What `log_evidence` takes beside the arithmetic that it cannot avoid.

That is the decoder's matrix products for every draw, and one pass of the likelihood over its
outputs, both by plain PyTorch, 4,096 draws at a time. Each round times both and `log_evidence`, so
that the machine's noise affects them alike; the network is that of the papers, 784-500-20 with
tanh, at random weights.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py [--images 1000] [--samples 1000] [--rounds 3]
"""

import argparse
import functools
import resource
import statistics
import time
import warnings

import reports
import torch
from torch import Tensor, nn
from torch.nn import functional

import pyrovae as pv

LATENTS, HIDDEN, PIXELS, AT_ONCE = 20, 500, 784, 4096


def graph() -> pv.VAE:
    """Return the model, at random weights."""
    mlp = functools.partial(pv.nets.MLP, activation=nn.Tanh)
    return pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.posteriors.DiagonalNormal(mlp(PIXELS, [HIDDEN], 2 * LATENTS)),
        pv.likelihoods.Bernoulli(mlp(LATENTS, [HIDDEN], PIXELS)),
    ).eval()


def products(draws: int) -> float:
    """Return seconds of the decoder's matrix products."""
    z, h = torch.randn(AT_ONCE, LATENTS), torch.randn(AT_ONCE, HIDDEN)
    first, second = torch.randn(LATENTS, HIDDEN), torch.randn(HIDDEN, PIXELS)
    outputs = torch.empty(AT_ONCE, HIDDEN), torch.empty(AT_ONCE, PIXELS)
    start = time.perf_counter()
    for _ in range(draws // AT_ONCE):
        torch.mm(z, first, out=outputs[0])
        torch.mm(h, second, out=outputs[1])
    return time.perf_counter() - start


def likelihood(draws: int) -> float:
    """Return seconds of log p(x | z), the logits being there."""
    logits, x = torch.randn(AT_ONCE, PIXELS), torch.rand(AT_ONCE, PIXELS).round()
    start = time.perf_counter()
    for _ in range(draws // AT_ONCE):
        functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    return time.perf_counter() - start


def evidence(vae: pv.VAE, x: Tensor, samples: int) -> float:
    """Return seconds of `log_evidence`."""
    start = time.perf_counter()
    pv.log_evidence(vae, x, samples=samples)
    return time.perf_counter() - start


def main() -> None:
    """Print a row for each round, and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore", pv.EvidenceWarning)  # the weights are random
    report = reports.environment()
    print(report["machine"], report["versions"])
    print("seconds: products, likelihood, log_evidence; its ratio to the first two")
    vae, draws, ratios = graph(), given.images * given.samples, []
    x = torch.rand(given.images, PIXELS).round()
    evidence(vae, x[:10], given.samples)
    for _ in range(given.rounds):
        needed, taken = (products(draws), likelihood(draws)), evidence(vae, x, given.samples)
        ratios.append(taken / sum(needed))
        print(f"{needed[0]:6.1f} {needed[1]:6.1f} {taken:6.1f} {ratios[-1]:6.2f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"median ratio {statistics.median(ratios):.2f}; largest memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
