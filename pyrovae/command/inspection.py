"""What a saved model is, in words: its parts, tensors, versions, data and figures."""

from pathlib import Path
from typing import Any

from pyrovae import files

__all__ = ["as_call", "describe", "parts_of"]


def parts_of(folder: Path) -> dict[str, Any]:
    """Return the parts of a saved model by name, as `pyrovae.inspect` describes them."""
    graph = files.inspect(folder)["graph"]
    return graph.get("arguments") or graph.get("parts") or {}


def as_call(part: object) -> str:
    """Return a part's description the way one would write the call that makes it."""
    if isinstance(part, list):
        return f"({', '.join(map(as_call, part))})"
    if not isinstance(part, dict):
        return f"{part:.4g}" if isinstance(part, float) else str(part)
    if "class" not in part:
        return str(next(iter(part.values())))
    arguments = part["arguments"].items()
    given = [f"{name}={as_call(value)}" for name, value in arguments if value not in (None, 0)]
    return f"{part['class'].split('.')[-1]}({', '.join(given)})"


def describe(folder: Path) -> list[str]:
    """Return lines about the model in a run's folder, or in its own, without building it."""
    folder = folder / "model" if (folder / "model").is_dir() else folder
    content = files.inspect(folder)
    history = content["history"] or {}
    tensors = [_tensor(name, facts) for name, facts in content["tensors"].items()]
    versions = [f"{name} {version}" for name, version in content["versions"].items()]
    return [
        *_tree(content["graph"]),
        *_cells(folder),
        f"{content['parameters']:,} numbers in {len(tensors)} tensors",
        *tensors,
        f"versions: {', '.join(versions)}",
        f"data: SHA-256 {content['data']}",
        f"training: {len(history.get('loss', []))} epochs, {history.get('stopped', 'unknown')}",
        *_tree(content["metrics"], "metrics"),
    ]


def _cells(folder: Path) -> list[str]:
    """Return lines about the cells that a model of cells takes; none for other models."""
    if not (folder / "cells.json").is_file():
        return []
    from pyrovae.singlecell import saved_setup

    return ["cells that it takes:", *(f"  {line}" for line in saved_setup(folder).splitlines())]


def _tensor(name: str, facts: dict[str, Any]) -> str:
    """Return a line about a tensor."""
    shape = "x".join(map(str, facts["shape"])) or "scalar"
    return f"  {name:<40} {shape:<12} {facts['dtype']}"


def _tree(part: object, name: str = "", depth: int = 0) -> list[str]:
    """Return nested content as indented lines; a part is headed by its class."""
    indent, label = "  " * depth, f"{name}: " if name else ""
    if not isinstance(part, dict):
        return [f"{indent}{label}{part}"]
    if len(part) == 1 and next(iter(part)) in ("activation", "foreign", "same as"):
        return [f"{indent}{label}{next(iter(part.values()))}"]
    head, items = "", part
    if set(part) == {"class", "arguments"}:
        head, items = part["class"].split(".")[-1], part["arguments"]
    elif "foreign" in part:
        head, items = part["foreign"], part.get("constants", {}) | part.get("parts", {})
    lines = [f"{indent}{label}{head}".rstrip()]
    return lines + [line for key, value in items.items() for line in _tree(value, key, depth + 1)]
