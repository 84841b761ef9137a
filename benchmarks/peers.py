"""This library beside its peers: time, memory and the quality reached, in one run.

Each peer runs in an environment of its own, made from the registry where it does not exist. Every
row fits once untimed; then the rows of a table take turns, so that the noise of the machine affects
all alike. A fit begins with new weights and has the same data, sizes, minibatches, epochs and
threads. Reported: rows of data per second (median); how many times faster this library is, from the
time and from the processor time, each the median of the ratios within a turn; memory beyond that
before the fit; held-out log p(x) by one importance sampler for all, mean and spread over the turns.

    python benchmarks/peers.py [--quick] [--only counts images] [--json FILE]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REQUIREMENTS = {  # by row; the others run where this program runs
    "scvi-tools": ["scvi-tools", "-e", f"{HERE.parent}[cells]"],
    "pythae": ["pythae"],
    "pyroVED": ["pyroved"],
}
CELLS = ["pyrovae", "pyrovae, no numba", "scvi-tools"]
IMAGES = ["pyrovae.fit", "pyrovae.fit, bf16", "PyTorch", "Pyro's example", "pythae", "pyroVED"]
COUNTS = [  # genes, share of non-zeros, training cells
    (158, 0.27, 4000),
    (2511, 0.17, 3000),
    (7000, 0.06, 1500),
    (3529, 0.73, 1500),
    (11_000, 0.46, 1000),
]
NETWORKS = [(500, 100, 8000), (400, 1024, 16_000)]  # hidden units, minibatch, training images
Table = dict[str, list[dict[str, float]]]


def cases(given: argparse.Namespace) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """Yield the title, the rows and the case of each table."""
    shared = {"epochs": given.epochs, "threads": given.threads, "test": 100}
    if "counts" in given.only:
        for genes, share, rows in COUNTS:
            case = {"genes": genes, "share": share, "rows": rows, "samples": 50}
            yield f"{genes:,} genes, {share:.0%} non-zeros", CELLS, case | shared
    if "images" in given.only:
        for hidden, batch, rows in NETWORKS:
            case = {"hidden": hidden, "batch": batch, "rows": rows, "samples": 50}
            yield f"images, 784-{hidden}-20, batch {batch}", IMAGES, case | shared


# -------------------------------------------------------------------------------------- processes
def python_of(row: str, folder: Path) -> Path:
    """Return the Python of a row's environment, made if it is not there."""
    if row not in REQUIREMENTS:
        return Path(sys.executable)
    home = folder / row.lower()
    python = home / "bin" / "python"
    if not python.exists():
        print(f"making {home} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "uv"], check=True)
        install = [python, "-m", "uv", "pip", "install", "-q", "--python", python]
        subprocess.run([*install, *REQUIREMENTS[row]], check=True)
    return python


class Contender:
    """The process of one row.

    Attributes:
        ready: its versions, and its memory before the first fit, in MB.
    """

    def __init__(self, row: str, python: Path, case: Path, threads: int) -> None:
        command = [python, "-W", "ignore", HERE / "contenders.py", row, case]
        own = row not in REQUIREMENTS  # runs this checkout
        paths = [str(HERE.parent)] if own or row == "scvi-tools" else []
        variables = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
        self.row, self.log = row, tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | variables,
            cwd=case.parent,
        )
        self.ready = self._answer()

    def fit(self, seed: int, quality: bool) -> dict[str, float]:
        """Return the figures of one fit."""
        print(json.dumps({"seed": seed, "wanted": quality}), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.row}: ended\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
        self.log.close()


@contextmanager
def contenders(rows: list[str], case: dict[str, Any], folder: Path) -> Iterator[list[Contender]]:
    """Context with the processes of a table, all of them ready."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (home / "case.json").write_text(json.dumps(case))
        started = []
        for row in rows:
            one = Contender(row, python_of(row, folder), home / "case.json", case["threads"])
            stack.callback(one.close)
            started.append(one)
        yield started


# ------------------------------------------------------------------------------------------- tables
def table(rows: list[str], case: dict[str, Any], turns: int, folder: Path) -> dict[str, Any]:
    """Return the figures of each row at each turn, and its versions and memory."""
    with contenders(rows, case, folder) as started:
        found: Table = {one.row: [] for one in started}
        for one in started:
            one.fit(seed=0, quality=False)
        for turn in range(turns):
            for one in started[turn % len(started) :] + started[: turn % len(started)]:
                found[one.row].append(one.fit(seed=turn, quality=True))
        ready = {one.row: one.ready for one in started}
    return {"case": case, "turns": found, "ready": ready}


def shown(title: str, result: dict[str, Any]) -> list[str]:
    """Return a table as lines of Markdown."""
    turns: Table = result["turns"]
    ours, case = next(iter(turns)), result["case"]
    lines = [
        f"| {title} | rows/s | times slower | by processor time | MB | log p(x) |",
        "|---|---|---|---|---|---|",
    ]
    for row, figures in turns.items():
        speed = case["rows"] * case["epochs"] / statistics.median(f["wall"] for f in figures)
        ratios = [
            statistics.median(f[key] / o[key] for f, o in zip(figures, turns[ours], strict=True))
            for key in ("wall", "cpu")
        ]
        memory = max(f["peak"] for f in figures) - result["ready"][row]["before"]
        reached = [f["log p(x)"] for f in figures]
        spread = statistics.stdev(reached) if len(reached) > 1 else 0.0
        lines.append(
            f"| {row} | {speed:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {memory:.0f} "
            f"| {statistics.mean(reached):.2f} ± {spread:.2f} |"
        )
    return lines


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one turn of one epoch: a check that it runs")
    add("--only", nargs="+", choices=["counts", "images"], default=["counts", "images"])
    add("--epochs", type=int, default=10, help="of each fit")
    add("--turns", type=int, default=3, help="fits of each row")
    add("--threads", type=int, default=1)
    add("--environments", type=Path, default=HERE.parent / ".peers", help="made if absent")
    add("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    if given.quick:
        given.epochs, given.turns = 1, 1
    return given


def main() -> None:
    """Run all tables, print them and write the figures."""
    given, started = options(), time.perf_counter()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, threads {given.threads}"
    report: dict[str, Any] = {"machine": machine, "tables": {}}
    report["date"] = datetime.now(UTC).date().isoformat()
    for title, rows, case in cases(given):
        result = table(rows, case, given.turns, given.environments)
        report["tables"][title] = result
        print("\n".join(shown(title, result)), end="\n\n", flush=True)
        if given.json:
            given.json.write_text(json.dumps(report, indent=1))
    print(f"{machine}; {report['date']}; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
