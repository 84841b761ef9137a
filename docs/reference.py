"""The pages of the reference: what each room offers, from its docstrings."""

import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import typer
from typer.testing import CliRunner

import pyrovae
from pyrovae.command.cli import app

PAGES = {
    "graphs": ("Graphs", ["pyrovae.graphs"]),
    "priors": ("Priors", ["pyrovae.priors"]),
    "posteriors": ("Posteriors", ["pyrovae.posteriors"]),
    "likelihoods": ("Likelihoods", ["pyrovae.likelihoods"]),
    "nets": ("Networks", ["pyrovae.nets", "pyrovae.blocks"]),
    "objectives": ("Objectives", ["pyrovae.objectives"]),
    "training": ("Training", ["pyrovae.training", "pyrovae.hooks"]),
    "evaluation": (
        "Evaluation",
        ["pyrovae.evaluation", "pyrovae.scores", "pyrovae.baselines", "pyrovae.realism"],
    ),
    "tasks": ("Tasks", ["pyrovae.tasks"]),
    "singlecell": ("Single cells", ["pyrovae.singlecell"]),
    "data": ("Data", ["pyrovae.datasets", "pyrovae.batches"]),
    "files": ("Files", ["pyrovae.files"]),
    "plots": ("Plots", ["pyrovae.plots"]),
    "distributions": ("Distributions", ["pyrovae.distributions", "pyrovae.conditional"]),
    "programs": ("Programs", ["pyrovae.programs"]),
}


def pages() -> dict[str, str]:
    """Return the Markdown of each page, by its name."""
    seen: set[int] = set()
    return {name: page(title, names, seen) for name, (title, names) in PAGES.items()}


def page(title: str, names: list[str], seen: set[int]) -> str:
    """Return a page: a section for each module, with a table and an entry for each name."""
    parts = [f"# {title}\n"]
    for name in names:
        module = find(name)
        entries = [*objects(name, module, seen)]
        heading = f"## pv.{name.removeprefix('pyrovae.')}\n" if name != names[0] else ""
        parts += [heading, in_rst(introduction(module), table(entries), *map(directive, entries))]
    return "\n".join(parts)


def find(name: str) -> ModuleType:
    """Return a module by the name that users write: pyrovae.blocks is pyrovae.nets.counts."""
    short = name.removeprefix("pyrovae.")
    named = short in pyrovae.__all__
    return getattr(pyrovae, short) if named else importlib.import_module(name)


def objects(name: str, module: ModuleType, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield what a module offers and no page has yet: the name that users write, and the object."""
    for each in module.__all__:
        thing = getattr(module, each)
        if inspect.ismodule(thing) or not inspect.getdoc(thing) or not ours(thing):
            continue
        if id(thing) not in seen:
            seen.add(id(thing))
            short = each in pyrovae.__all__ and getattr(pyrovae, each) is thing
            yield (f"pyrovae.{each}" if short else f"{name}.{each}"), thing


def ours(thing: Any) -> bool:
    """Whether a thing is a class or a function of the library."""
    return (inspect.isclass(thing) or inspect.isroutine(thing)) and thing.__module__.startswith(
        "pyrovae"
    )


def introduction(module: ModuleType) -> str:
    """Return what a module says of itself, with its lines as they are."""
    lines = inspect.getdoc(module).splitlines()
    return "\n".join([".. code-block:: text", "", *(f"   {line}" for line in lines), ""])


def table(entries: list[tuple[str, Any]]) -> str:
    """Return a table of names and first sentences."""
    rows = (f"   ~{name}" for name, _ in entries)
    return "\n".join([".. autosummary::", "   :nosignatures:", "", *rows, ""])


def directive(entry: tuple[str, Any]) -> str:
    """Return the entry of one object."""
    name, thing = entry
    if inspect.isclass(thing):
        return f".. auto{'exception' if issubclass(thing, Exception) else 'class'}:: {name}\n"
    return f".. autofunction:: {name}\n"


def in_rst(*parts: str) -> str:
    """Return reStructuredText inside Markdown."""
    return "\n".join(["```{eval-rst}", *parts, "```", ""])


def command() -> str:
    """Return the page of the command line: the help of every command."""
    group = typer.main.get_command(app)
    names = group.list_commands(None)
    parts = ["# The command line\n", *(f"## pyrovae {name}\n\n{help_of(name)}" for name in names)]
    return "\n".join(parts)


def help_of(name: str) -> str:
    """Return what `pyrovae NAME --help` prints."""
    environment = {"COLUMNS": "90", "TERMINAL_WIDTH": "90", "NO_COLOR": "1"}
    shown = CliRunner().invoke(app, [name, "--help"], env=environment)
    text = "\n".join(line.rstrip() for line in shown.output.strip("\n").splitlines())
    return f"```text\n{text}\n```\n"
