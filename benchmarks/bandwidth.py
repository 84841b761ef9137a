"""What limits a fit of cells in files on many processes: reading, the step, or the all-reduce.

Measured on this machine, one thread, CPU seconds: bytes of a cell on the disk, in memory and in a
minibatch, cells read a second, a training step of the count model, and the bytes that a process
sends to average the gradient, 4 bytes x parameters x 2 (N - 1) / N. The cells are simulated: 2,000
genes, a tenth of them non-zero. The files were just written, so that they are read from memory:
what is measured is the work of a core, and a disk has to be as fast.

Simulated with these constants: N processes, each of which reads its share of a minibatch, takes a
step of random duration, and waits for all others in the all-reduce,

    step of all = max_r (read_r + compute_r) + latency + bytes / bandwidth       as the library does
                  max_r max(read_r, compute_r) + ...                             if it read ahead

on hardware that one can rent. Its figures are NOMINAL, from public data sheets, and no GPU was
measured: `compute` of a GPU is its nominal arithmetic times an assumed use, plus a floor for the
launches of a step.

    python benchmarks/bandwidth.py [--cells 40000] [--json FILE]
"""

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch
from scipy import sparse

import pyrovae as pv
from pyrovae.data.blocks import BlockMinibatches
from pyrovae.graphs.scvi import count_vae
from pyrovae.singlecell import open_shards

GENES, NON_ZEROS, BATCH = 2_000, 200, 128
ATLASES = ((10_000_000, 60), (1_000_000_000, 3600))  # cells, and the unit of time
JITTER = 0.1  # standard deviation of the log of a step's duration
STEPS = 300  # that are simulated


@dataclass(frozen=True)
class Constants:
    """What is measured. Cells are those of `GENES` and `NON_ZEROS`.

    Attributes:
        disk: bytes of a cell in an uncompressed h5ad file.
        compressed: the same with gzip.
        memory: bytes of a cell as CSR.
        dense: bytes of a cell in a minibatch.
        read: cells that a core reads a second, uncompressed.
        read_compressed: the same with gzip.
        step: CPU seconds of a step of `BATCH` cells.
        parameters: of the model.
    """

    disk: float
    compressed: float
    memory: float
    dense: float
    read: float
    read_compressed: float
    step: float
    parameters: int


@dataclass(frozen=True)
class Machine:
    """Hardware of one process, nominal.

    Attributes:
        name: what it is.
        storage: bytes a second that all processes of a machine share.
        sharing: processes of a machine.
        compute: seconds of a step of `rows` cells.
        link: bytes a second between processes, and seconds until the first byte arrives.
    """

    name: str
    storage: float
    sharing: int
    compute: Callable[[int], float]
    link: tuple[float, float]


def simulated(folder: Path, cells: int) -> Constants:
    """Write shards, and measure."""
    generator = np.random.default_rng(0)
    x = _counts(generator, cells)
    sizes = {}
    for name, compression in (("plain", None), ("gzip", "gzip")):
        (folder / name).mkdir()
        for i, rows in enumerate(np.array_split(np.arange(cells), 4)):
            adata = anndata.AnnData(x[rows])
            adata.write_h5ad(folder / name / f"{i}.h5ad", compression=compression)
        sizes[name] = sum(file.stat().st_size for file in (folder / name).iterdir()) / cells
    seconds, parameters = step_seconds(torch.from_numpy(x[: 20 * BATCH].toarray()))
    return Constants(
        disk=sizes["plain"],
        compressed=sizes["gzip"],
        memory=(x.data.nbytes + x.indices.nbytes + x.indptr.nbytes) / cells,
        dense=4 * GENES,
        read=cells_read(folder / "plain"),
        read_compressed=cells_read(folder / "gzip"),
        step=seconds,
        parameters=parameters,
    )


def _counts(generator: np.random.Generator, cells: int) -> sparse.csr_matrix:
    places = [np.sort(generator.choice(GENES, NON_ZEROS, replace=False)) for _ in range(cells)]
    values = 1 + generator.poisson(1.0, cells * NON_ZEROS)
    indptr = np.arange(cells + 1) * NON_ZEROS
    indices = np.concatenate(places).astype(np.int32)
    return sparse.csr_matrix((values.astype(np.float32), indices, indptr), (cells, GENES))


def cells_read(folder: Path) -> float:
    """Return the cells that a core reads a second, as minibatches of dense rows."""
    minibatches = BlockMinibatches((open_shards(folder),), None, BATCH)
    begun = time.process_time()
    cells = sum(len(minibatch.batch[0]) for minibatch in minibatches.epoch(0))
    return cells / (time.process_time() - begun)


def step_seconds(x: torch.Tensor) -> tuple[float, int]:
    """Return CPU seconds of a step of the count model, and its number of parameters."""
    ends: list[float] = []

    class Clock(pv.hooks.Hook):
        def on_epoch(self, epoch: Any) -> None:
            ends.append(time.process_time())

    graph = count_vae(GENES, library=([5.9], [0.1]))
    pv.fit(graph, x, epochs=4, batch_size=BATCH, hooks=Clock(), progress=False, seed=0)
    steps = len(x) // BATCH
    spans = [(after - before) / steps for before, after in pairwise(ends)]
    return sorted(spans)[len(spans) // 2], sum(p.numel() for p in graph.parameters())


# ------------------------------------------------------------------------------------- simulation
def machines(constants: Constants) -> list[Machine]:
    """Return hardware that one can rent; all figures but those of this CPU are nominal."""
    # Of a cell: 6 multiplications and additions a weight, and about 30 passes over the dense row
    # (likelihood and its gradient), at 30 % of a GPU's nominal FP32 and memory bandwidth.
    arithmetic, traffic = 6 * constants.parameters, 30 * constants.dense

    def gpu(flops: float, memory: float) -> Callable[[int], float]:
        use, floor = 0.3, 1.5e-3  # seconds: about 300 kernels of 5 microseconds
        return lambda rows: max(floor, rows * (arithmetic / flops + traffic / memory) / use)

    def cpu(rows: int) -> float:
        return constants.step * rows / BATCH

    return [
        Machine("CPU core, local NVMe 3 GB/s, 25 Gb/s", 3e9, 16, cpu, (3.1e9, 5e-5)),
        Machine("A10G, network disk 1 GB/s, 25 Gb/s", 1e9, 1, gpu(31e12, 0.6e12), (3.1e9, 5e-5)),
        Machine("H100, 8 x NVMe 20 GB/s, NVLink", 20e9, 8, gpu(67e12, 3.35e12), (450e9, 2e-5)),
        Machine("H100, 8 x NVMe 20 GB/s, 400 Gb/s", 20e9, 8, gpu(67e12, 3.35e12), (50e9, 3e-5)),
        Machine("H100, object store 5 GB/s, 400 Gb/s", 5e9, 8, gpu(67e12, 3.35e12), (50e9, 3e-5)),
    ]


@dataclass(frozen=True)
class Outcome:
    """Of a simulation: cells a second, and the seconds of a step by what they are spent on."""

    machine: str
    processes: int
    ahead: bool
    cells: float
    read: float
    compute: float
    wait: float
    reduce: float

    @property
    def limit(self) -> str:
        """What takes most of a step."""
        parts = {"reading": self.read, "the step": self.compute, "all-reduce": self.reduce}
        return max(parts, key=lambda name: parts[name])


def simulate(machine: Machine, processes: int, constants: Constants, ahead: bool) -> Outcome:
    """Simulate steps of `BATCH` x 8 cells a process (of `BATCH` on a CPU core)."""
    draw = random.Random(0)
    rows = BATCH if machine.name.startswith("CPU") else 8 * BATCH
    on_machine = min(processes, machine.sharing)
    read = rows * max(1 / constants.read, constants.disk * on_machine / machine.storage)
    bandwidth, latency = machine.link
    sent = 4 * constants.parameters * 2 * (processes - 1) / processes
    reduce = latency * 2 * (processes > 1) + sent / bandwidth
    total = slowest = 0.0
    for _ in range(STEPS):
        durations = []
        for _ in range(processes):
            compute = machine.compute(rows) * draw.lognormvariate(0, JITTER)
            durations.append(max(read, compute) if ahead else read + compute)
        slowest += max(durations)
        total += max(durations) + reduce
    mean = max(read, machine.compute(rows)) if ahead else read + machine.compute(rows)
    return Outcome(
        machine.name,
        processes,
        ahead,
        rows * processes * STEPS / total,
        read,
        machine.compute(rows),
        slowest / STEPS - mean,
        reduce,
    )


def print_constants(found: Constants) -> None:
    """Print what was measured."""
    print(f"measured: {platform.platform()}, {os.cpu_count()} cores, one thread, CPU seconds")
    for name, plain, other, more in (
        ("a cell on the disk, bytes", found.disk, "with gzip", found.compressed),
        ("a cell in memory as CSR, bytes", found.memory, "dense", found.dense),
        ("cells read by a core a second", found.read, "with gzip", found.read_compressed),
        ("cells trained by a core a second", BATCH / found.step, "ms a step", 1e3 * found.step),
    ):
        print(f"  {name:<36}{plain:>10,.0f}   {other:<12}{more:>10,.1f}")
    print(f"  all-reduce of a step, bytes         {4 * found.parameters:>10,} x 2 (N - 1) / N")


def print_outcomes(outcomes: list[Outcome]) -> None:
    """Print the simulation."""
    print(
        "\nsimulated on NOMINAL hardware; ms of a step; an epoch of 10 M cells in minutes, of 1 G "
        "in hours"
    )
    head = f"{'each process':<38}{'N':>5}{'read':>7}{'step':>7}{'wait':>7}{'reduce':>8}"
    print(f"{head}{'cells/s':>12}{'10 M':>8}{'1 G':>8}  limited by (read ahead: cells/s)")
    for now, ahead in zip(outcomes[::2], outcomes[1::2], strict=True):
        times = (now.read, now.compute, now.wait, now.reduce)
        shown = [f"{1e3 * part:.2f}" for part in times]
        spans = [f"{cells / now.cells / unit:.1f}" for cells, unit in ATLASES]
        print(
            f"{now.machine:<38}{now.processes:>5}{shown[0]:>7}{shown[1]:>7}{shown[2]:>7}"
            f"{shown[3]:>8}{now.cells:>12,.0f}{spans[0]:>8}{spans[1]:>8}  {now.limit} "
            f"({ahead.cells:,.0f})"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=40_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        constants = simulated(Path(folder), args.cells)
    print_constants(constants)
    outcomes = [
        simulate(machine, processes, constants, ahead)
        for machine in machines(constants)
        for processes in (1, 8, 64)
        for ahead in (False, True)
    ]
    print_outcomes(outcomes)
    if args.json:
        found = {"constants": asdict(constants), "simulated": [asdict(o) for o in outcomes]}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
