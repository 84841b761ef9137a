"""A fit that is killed at random moments: what the next start resumes from, and what is lost.

`pyrovae fit digits` trains in a process of its own, which is killed by SIGKILL at a random moment
after its start, and started again with --resume, time after time; then it may end. Reported for
each kill:

    after          seconds from the start of the process to the kill
    while          what the process had done: "importing", or epochs in the checkpoint on the disk
    whole          whether that checkpoint can be read and its digest is right
    resumed at     the first epoch that the next process finished
    lost epochs    epochs of the checkpoint that the next process trained again; 0 is right

and, at the end, whether weights and losses are those of a run that was never interrupted, bit for
bit. With --processes 2 the run is a job of `torchrun`, of which one process, drawn at random, is
killed; `torchrun` then ends the others.

    python benchmarks/killed.py [--kills 10] [--processes 1] [--seed 0] [--json FILE]

The exit status is 1 if a checkpoint was not whole, an epoch was lost, or the result differs.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pyrovae.files import checkpoint, description

EPOCHS, BATCH = 40, 4  # an epoch of 324 steps, so that there are moments within epochs
FIT = ["-m", "pyrovae", "fit", "digits", "--hidden", "32", "--samples", "0", "--no-report"]
POLL = 0.01  # seconds


@dataclass
class Kill:
    """One kill."""

    after: float
    epochs: int | None
    whole: bool
    resumed_at: int | None = None

    @property
    def lost(self) -> int:
        """Epochs of the checkpoint that were trained again."""
        kept = self.epochs or 0
        return 0 if self.resumed_at is None else kept + 1 - self.resumed_at


def start(folder: Path, processes: int, resume: bool) -> subprocess.Popen:
    """Start the run, or start it again."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [*FIT, "--epochs", str(EPOCHS), "--batch-size", str(BATCH), "--output", str(folder)]
    command += ["--resume"] if resume else []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, **quiet, env={**os.environ, "OMP_NUM_THREADS": "1"})


def epochs_in(file: Path) -> int | None:
    """Return the epochs of a checkpoint, None if there is none; an error if it is not whole."""
    return len(checkpoint.read(file)["history"]["loss"]) if file.is_file() else None


def victim(process: subprocess.Popen, draw: random.Random) -> int:
    """Return the id of the process to kill: of the run, or one of the job's."""
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = file.read_text().split() if file.is_file() else []
    return int(draw.choice(workers)) if workers else process.pid


def next_epoch(process: subprocess.Popen, file: Path, before: int | None) -> int | None:
    """Wait for the first checkpoint of a process; return the epoch that it ends with."""
    written = file.stat().st_mtime_ns if file.is_file() else None
    while process.poll() is None:
        if file.is_file() and file.stat().st_mtime_ns != written:
            return epochs_in(file)
        time.sleep(POLL)
    return None


def kill_again_and_again(
    folder: Path, args: argparse.Namespace, starting: float, epoch: float
) -> list[Kill]:
    """Run until it has been killed as often as wanted, and then to its end.

    Args:
        folder: of the run.
        args: the number of kills, of processes, and the seed.
        starting: seconds until the first checkpoint; a quarter of the kills come within them.
        epoch: seconds of an epoch; the others come within them, after the first checkpoint.
    """
    draw, kills = random.Random(args.seed), list[Kill]()
    file, run = folder / "checkpoint.safetensors", folder / "run.json"
    while True:
        before, begun = epochs_in(file), time.monotonic()
        process = start(folder, args.processes, resume=run.is_file())
        last = len(kills) == args.kills
        early = not last and draw.random() < 0.25
        if early:
            time.sleep(draw.uniform(0, starting))
        else:
            resumed_at = next_epoch(process, file, before)
            if kills and kills[-1].resumed_at is None:
                kills[-1].resumed_at = resumed_at
            if last:
                process.wait()
                return kills
            time.sleep(draw.uniform(0, epoch))
        if process.poll() is not None:
            raise RuntimeError("the run ended before it was killed: raise EPOCHS")
        os.kill(victim(process, draw), signal.SIGKILL)
        process.wait()
        kills.append(inspected(file, time.monotonic() - begun))


def inspected(file: Path, after: float) -> Kill:
    """Return what a kill left."""
    try:
        return Kill(after, epochs_in(file), True)
    except ValueError:
        return Kill(after, None, False)


def same(folder: Path, other: Path) -> dict[str, bool]:
    """Return whether two runs have the same weights and the same losses, bit for bit."""
    weights = [load_file(next((run / "model").glob("*.safetensors"))) for run in (folder, other)]
    losses = [description(run / "model")["history"]["loss"] for run in (folder, other)]
    alike = weights[0].keys() == weights[1].keys() and all(
        torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items()
    )
    return {"weights": alike, "losses": losses[0] == losses[1]}


def table(kills: list[Kill]) -> str:
    """Return the kills as a table."""
    lines = ["kill   after (s)   epochs in the checkpoint   whole   resumed at   lost epochs"]
    for i, kill in enumerate(kills, 1):
        kept = "none yet" if kill.epochs is None else str(kill.epochs)
        resumed = "killed again" if kill.resumed_at is None else str(kill.resumed_at)
        whole = "yes" if kill.whole else "NO"
        lines.append(
            f"{i:>4} {kill.after:>11.2f} {kept:>26} {whole:>7} {resumed:>12} {kill.lost:>13}"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="killed-"))
    begun = time.monotonic()
    whole = start(home / "whole", args.processes, resume=False)
    next_epoch(whole, home / "whole" / "checkpoint.safetensors", None)
    first = time.monotonic()
    if whole.wait():
        raise RuntimeError("the run that is not killed failed")
    span = time.monotonic() - first
    print(
        f"uninterrupted: {span + first - begun:.1f} s, of which training {span:.1f} s", flush=True
    )
    kills = kill_again_and_again(home / "killed", args, first - begun, span / EPOCHS)
    alike = same(home / "whole", home / "killed")
    print(table(kills))
    print(f"weights bit for bit: {alike['weights']}; losses: {alike['losses']}")
    good = all(alike.values()) and all(kill.whole and not kill.lost for kill in kills)
    found: dict[str, Any] = {
        "machine": platform.platform(),
        "torch": torch.__version__,
        "processes": args.processes,
        "seed": args.seed,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "kills": [asdict(kill) | {"lost": kill.lost} for kill in kills],
        "same": alike,
    }
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    shutil.rmtree(home)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
