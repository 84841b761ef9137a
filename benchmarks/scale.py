"""Does the cost of a cell stay the same from ten thousand to a million cells on the disk?

Simulated cells of 2,000 genes, a tenth of them not zero, in .h5ad files (or .zarr folders) of
10,000, read through `pyrovae.singlecell.open_shards`. For each number of cells, in a process of its
own: the cells a second of an epoch, and of the scan by which a `SingleCellVAE` of them begins, and
the largest memory before the fit and at the end. The files are copies of one, as their content does
not matter here.

    python benchmarks/scale.py [--cells 10000 100000 1000000] [--zarr] [--json FILE]
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GENES, SHARE, PER_FILE, BATCH = 2000, 0.1, 10_000, 128


def write(folder: Path, files: int, zarr: bool) -> None:
    """Write the files."""
    import anndata
    import numpy as np
    from scipy.sparse import random_array

    generator = np.random.default_rng(0)
    shape, suffix = (PER_FILE, GENES), "zarr" if zarr else "h5ad"
    counts = random_array(shape, density=SHARE, format="csr", dtype=np.float32, rng=generator)
    counts.data = 1 + generator.poisson(1.0, len(counts.data)).astype(np.float32)
    adata, one = anndata.AnnData(counts), folder / f"0.{suffix}"
    (adata.write_zarr if zarr else adata.write_h5ad)(one)
    for i in range(1, files):
        (shutil.copytree if zarr else shutil.copy)(one, folder / f"{i}.{suffix}")


def megabytes() -> float:
    """Return the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path) -> dict[str, float]:
    """Return the figures of one epoch."""
    import torch

    import pyrovae as pv
    from pyrovae.singlecell import SingleCellVAE, open_shards

    torch.set_num_threads(1)
    cells = open_shards(folder)
    graph = pv.graphs.count_vae(GENES, library=([6.0], [0.3]))
    warm: dict[str, Any] = {"batch_size": BATCH, "progress": False, "seed": 0}
    pv.fit(graph, cells[:1024], epochs=2, **warm)
    before, cpu, wall = megabytes(), time.process_time(), time.perf_counter()
    pv.fit(graph, cells, epochs=1, **warm)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    SingleCellVAE.setup_anndata(cells)
    scan, n = time.process_time(), len(cells)
    SingleCellVAE(cells)
    scan = time.process_time() - scan
    return {
        "cells": n,
        "cells a second": n / wall,
        "cells a CPU second": n / cpu,
        "cells a CPU second, scan": n / scan,
        "MB before": before,
        "MB": megabytes(),
    }


def main() -> None:
    """Measure each number of cells in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--zarr", action="store_true", help="in place of .h5ad")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    found = []
    for n in given.cells:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), max(1, n // PER_FILE), given.zarr)
            command = [sys.executable, __file__, "--measure", folder]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(run.stdout.splitlines()[-1]))
        print({key: round(value) for key, value in found[-1].items()}, flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
