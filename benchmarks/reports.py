"""Reports of benchmarks, with machine and versions; those of long ones are continued."""

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["environment", "started"]


def environment() -> dict[str, Any]:
    """Return the machine, and the versions of this library and of those below it."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {capability}",
        "versions": {name: metadata.version(name) for name in ("pyrovae", "torch", "pyro-ppl")},
    }


def started(file: Path | None, budget: dict[str, Any], *parts: str) -> dict[str, Any]:
    """Return the report that a file holds, or one whose parts are empty.

    Raises:
        SystemExit: if the fits of the file are of another size than `budget` says.
    """
    report: dict[str, Any] = {**budget, **{part: {} for part in parts}}
    if file is not None and file.exists():
        report = json.loads(file.read_text())
    if {key: report[key] for key in budget} != budget:
        raise SystemExit(f"{file}: holds fits of another size. Name another file")
    return {**report, **environment()}
