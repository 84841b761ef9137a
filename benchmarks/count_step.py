"""The count model's training step, plain and compiled, at five shapes of data.

Each round fits both anew, one after the other and with the same seed, and takes the processor time
of every epoch but the first, which compiles. The last column is the median ratio of the rounds.
`first epoch` is the longest one: the first time on a machine it holds the work of the C++ compiler.

    OMP_NUM_THREADS=1 python benchmarks/count_step.py [--rounds 3]
"""

import argparse
import statistics
import time
from typing import Any

import reports
import torch
from contenders import cells

import pyrovae as pv
from pyrovae.data import SparseRows

SHAPES = [(158, 0.27), (2_511, 0.17), (7_000, 0.06), (3_529, 0.73), (11_000, 0.46)]
ROWS, BATCH, EPOCHS = 5_120, 128, 6


class Clock(pv.hooks.Hook):
    """The processor time at which each epoch ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_epoch(self, epoch: Any) -> None:
        """Read the clock."""
        self.ends.append(time.process_time())

    def per_step(self) -> float:
        """Return the milliseconds of a step, the median over the epochs but the first."""
        steps = ROWS // BATCH
        pairs = zip(self.ends, self.ends[1:], strict=False)
        return statistics.median(1e3 * (end - start) / steps for start, end in pairs)


def fit(x: SparseRows, seed: int, compiled: bool) -> tuple[float, float, float]:
    """Return milliseconds per step, seconds of the first epoch, and the last ELBO."""
    logs = x.sum(1).log()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        graph = pv.graphs.count_vae(x.shape[1], library=([logs.mean()], [logs.std()]))
    clock = Clock()
    settings: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "progress": False}
    history = pv.fit(graph, x, compile=compiled, seed=seed, hooks=clock, **settings)
    return clock.per_step(), history.seconds[0], history.elbo[-1]


def main() -> None:
    """Print a row for each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    report = reports.environment()
    print(report["machine"], report["versions"])
    print(
        "genes, non-zeros: ms a step, plain and compiled; first epoch (s); ELBO; plain / compiled"
    )
    for genes, share in SHAPES:
        x = SparseRows.of(cells({"genes": genes, "share": share, "rows": ROWS}).X)
        pairs = [(fit(x, i, compiled=False), fit(x, i, compiled=True)) for i in range(rounds)]
        plain, compiled = (
            statistics.median(f[0] for f in side) for side in zip(*pairs, strict=True)
        )
        first = max(other[1] for _, other in pairs)
        elbo = " ".join(f"{one[2]:.2f} {other[2]:.2f}" for one, other in pairs)
        ratio = statistics.median(one[0] / other[0] for one, other in pairs)
        print(
            f"{genes:6,}, {share:.0%}: {plain:6.2f} {compiled:6.2f}; {first:.1f}; {elbo}; "
            f"{ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
