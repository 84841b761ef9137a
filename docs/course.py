"""The scripts of tutorials/ as notebooks: converted, executed, and made into pages.

    python docs/course.py                    # run in quick mode what has no run yet
    python docs/course.py --full SCRIPT...   # run on the full data, and keep it in docs/full
    python docs/course.py --keep FILE...     # trim notebooks of full runs into docs/full

Each script is executed in a Jupyter kernel, in quick mode and with warnings as errors. A process
keeps its kernel, whose imports take as long as many a script, and clears it before each script. The
executed notebook is kept in build/course, and used again as long as the code of the script and the
library are the same. A notebook in docs/full holds a run on the full data, which takes minutes; its
outputs are preferred while its code is that of the script, branches of the quick mode left out.
"""

import argparse
import ast
import atexit
import base64
import hashlib
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "tutorials"
FULL = ROOT / "docs" / "full"
RUNS = ROOT / "build" / "course"

# The library of this checkout, here and in the kernels.
sys.path.insert(0, str(ROOT))
QUICK = {"PYROVAE_QUICK": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
CLEARED = """
%reset -f
import os, sys, warnings
os.chdir({folder!r})
warnings.resetwarnings()
warnings.simplefilter("error")
if "pyro" in sys.modules:
    sys.modules["pyro"].clear_param_store()
del os, sys, warnings
"""
LENIENT = """
import os, warnings
os.chdir({root!r})
warnings.resetwarnings()  # the kernel itself warns when it shuts down
"""
NO_WIDGETS = "ignore:IProgress not found"  # tqdm's, where ipywidgets is not installed
_STARTS = 3  # of a kernel


class CourseError(Exception):
    """A script that does not run, or that warns."""


def scripts() -> list[Path]:
    """Return the scripts of the course and the answers to their exercises."""
    return sorted(TUTORIALS.glob("*.py")) + sorted((TUTORIALS / "answers").glob("*.py"))


def is_old(script: Path) -> bool:
    """Whether a script still has an argument parser, and so no quick mode as a notebook."""
    return "argparse" in script.read_text()


def convert(script: Path) -> NotebookNode:
    """Return a script in percent format as a notebook that has not been executed."""
    notebook = jupytext.read(script, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel})
    return notebook


def code(notebook: NotebookNode) -> list[str]:
    """Return the source of the code cells."""
    return [cell.source.rstrip() for cell in notebook.cells if cell.cell_type == "code"]


# ------------------------------------------------------------------------------------- execution


def execute(notebook: NotebookNode, timeout: float = 900) -> NotebookNode:
    """Return the notebook with the outputs of a quick run.

    Raises:
        CourseError: If a cell raises, warns, writes to the standard error, or leaves a file.
    """
    with TemporaryDirectory() as folder:
        run = execute_in(folder, notebook, timeout)
        if left := os.listdir(folder):
            raise CourseError(f"the script leaves files behind: {left}")
    for text in standard_error(run):
        raise CourseError(f"a cell wrote to the standard error:\n{text}")
    return run


def execute_in(folder: str, notebook: NotebookNode, timeout: float) -> NotebookNode:
    """Return the notebook with the outputs of a run in `folder`, with warnings as errors.

    A kernel that does not start, as may happen where another one takes its port, is started again.
    """
    for start in range(_STARTS):
        try:
            return _executed_once(folder, notebook, timeout)
        except CellExecutionError as problem:
            stop_kernel()
            raise CourseError(str(problem)) from None
        except Exception as problem:  # nbclient and zmq raise many kinds
            stop_kernel()
            if start == _STARTS - 1:
                raise CourseError(str(problem)) from None
            print(f"the kernel is started again ({problem})", file=sys.stderr)
    raise AssertionError  # not reached


def _executed_once(folder: str, notebook: NotebookNode, timeout: float) -> NotebookNode:
    texts = CLEARED.format(folder=folder), LENIENT.format(root=str(ROOT))
    first, last = (nbformat.v4.new_code_cell(text.strip()) for text in texts)
    run = nbformat.from_dict({**notebook, "cells": [first, *notebook.cells, last]})
    client = _client()
    client.nb, client.timeout = run, timeout
    inherited = {name: text for name, text in os.environ.items() if name != "MPLBACKEND"}
    client.execute(cleanup_kc=False, env={**inherited, **QUICK})
    run.cells = run.cells[1:-1]
    return run


@cache
def _client() -> NotebookClient:
    """Return the client of this process, which starts its kernel at the first execution."""
    atexit.register(stop_kernel)
    quiet = ["--log-level=CRITICAL", "--InteractiveShell.colors=nocolor"]
    return NotebookClient(nbformat.v4.new_notebook(), extra_arguments=quiet)


def stop_kernel() -> None:
    """Stop the kernel of this process, if it has one."""
    if _client().km is not None:
        with _client().setup_kernel():  # at whose end it is stopped
            pass


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """Yield the outputs of all code cells."""
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def standard_error(notebook: NotebookNode) -> list[str]:
    """Return what the cells wrote to the standard error."""
    return [each.text for each in outputs(notebook) if each.get("name") == "stderr"]


def printed(notebook: NotebookNode) -> list[str]:
    """Return the text that the cells print or show."""
    found = [
        each.get("text") or each.get("data", {}).get("text/plain") for each in outputs(notebook)
    ]
    return [text for text in found if text]


def pngs(notebook: NotebookNode) -> list[str]:
    """Return the pictures that a notebook shows, encoded."""
    shown = (each.get("data", {}) for each in outputs(notebook))
    return [data["image/png"] for data in shown if "image/png" in data]


def pictures(notebook: NotebookNode) -> list[np.ndarray]:
    """Return the pictures that a notebook shows, each of shape (height, width, 3), in [0, 1]."""
    images = (Image.open(io.BytesIO(base64.b64decode(png))) for png in pngs(notebook))
    return [np.asarray(image.convert("RGB")) / 255 for image in images]


# ------------------------------------------------------------------------- runs that are kept


@cache
def library() -> str:
    """Return a digest of the library's source, on which every output depends."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "pyrovae").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key(notebook: NotebookNode) -> str:
    """Return a digest of what the outputs of a quick run depend on."""
    return hashlib.sha256("\n# %%\n".join([library(), *code(notebook)]).encode()).hexdigest()


def place(script: Path, folder: Path) -> Path:
    """Return where the notebook of a script is kept."""
    return (folder / script.relative_to(TUTORIALS)).with_suffix(".ipynb")


def trimmed(notebook: NotebookNode, **about: str) -> NotebookNode:
    """Return a notebook without what changes from run to run, with smaller pictures."""
    notebook.metadata = nbformat.from_dict({"pyrovae": about})
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [each for each in cell.outputs if not is_address(each)]
    for each in outputs(notebook):
        each.pop("execution_count", None)
        if each.output_type == "execute_result":
            each.execution_count = None
        if "image/png" in each.get("data", {}):
            each.data = NotebookNode({"image/png": smaller(each.data["image/png"])})
            each.metadata = NotebookNode()
    return notebook


def is_address(output: NotebookNode) -> bool:
    """Whether an output only says where an object is, as <Generator at 0x7f3da2d8e8f0> does."""
    data = output.get("data", {})
    return "image/png" not in data and " at 0x" in data.get("text/plain", "")


def smaller(png: str) -> str:
    """Return a picture with at most 256 colours, where that makes the file smaller."""
    content, buffer = base64.b64decode(png), io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    least = min(content, buffer.getvalue(), key=len)
    return base64.b64encode(least).decode()


def today() -> str:
    """Return the date."""
    return time.strftime("%Y-%m-%d")


def quick_run(script: Path, again: bool = False) -> NotebookNode:
    """Return the executed notebook of a script, from build/course if nothing has changed.

    Args:
        script: A script of tutorials/.
        again: Whether to execute it even so.
    """
    notebook, path = convert(script), place(script, RUNS)
    if not again and path.exists():
        kept = nbformat.read(path, as_version=4)
        if kept.metadata.pyrovae.key == key(notebook):
            return with_outputs(notebook, kept)
    run = trimmed(execute(notebook), mode="quick", date=today(), key=key(notebook))
    write(run, path)
    return run


def full_run(script: Path) -> NotebookNode | None:
    """Return a script with the outputs of its full run, or None if its code has changed since."""
    path = place(script, FULL)
    kept = nbformat.read(path, as_version=4) if path.exists() else None
    notebook = convert(script)
    same = kept and code_of_full_run(kept) == code_of_full_run(notebook)
    return with_outputs(notebook, kept) if same else None


def code_of_full_run(notebook: NotebookNode) -> list[str]:
    """Return what a full run executes: the code cells without the branches `if QUICK`."""
    return [ast.dump(_NotQuick().visit(ast.parse(source))) for source in code(notebook)]


class _NotQuick(ast.NodeTransformer):
    """Replaces `a if QUICK else b`, and the statement `if QUICK: a` `else: b`, by b."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        kept = self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "QUICK" else kept

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        kept = self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "QUICK" else kept


def with_outputs(notebook: NotebookNode, run: NotebookNode) -> NotebookNode:
    """Return the text of `notebook` with the outputs of `run`, whose code is the same."""
    executed = (cell for cell in run.cells if cell.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = next(executed).outputs
    notebook.metadata = run.metadata
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, and leave a file with the same content alone."""
    text = nbformat.writes(notebook) + "\n"
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def keep(path: Path) -> None:
    """Trim the notebook of a full run into docs/full.

    Raises:
        CourseError: If it holds errors or warnings, or paths of the machine it ran on.
    """
    notebook = nbformat.read(path, as_version=4)
    if problems := standard_error(notebook):
        raise CourseError(f"{path}: a cell wrote to the standard error:\n{problems[0]}")
    if any(each.output_type == "error" for each in outputs(notebook)):
        raise CourseError(f"{path}: a cell raised")
    if found := re.search(r"(/tmp|/work|/home|/root)/[^\s\"']*", "".join(printed(notebook))):
        raise CourseError(f"{path}: an output has a path of this machine, {found[0]}")
    made = time.strftime("%Y-%m-%d", time.localtime(path.stat().st_mtime))
    write(trimmed(notebook, mode="full", date=made), FULL / path.name)


def run_in_full(script: Path) -> None:
    """Run a script on its full data, which takes minutes, and keep the run in docs/full.

    Raises:
        CourseError: If a cell raises, and as `keep`.
    """
    run = convert(script)
    quiet = ["--log-level=CRITICAL", "--InteractiveShell.colors=nocolor"]
    inherited = {name: text for name, text in os.environ.items() if name != "MPLBACKEND"}
    inherited.pop("PYROVAE_QUICK", None)
    with TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = NotebookClient(run, timeout=None, extra_arguments=quiet, resources=where)
        try:
            client.execute(env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": NO_WIDGETS})
        except CellExecutionError as problem:
            raise CourseError(f"{script}: {problem}") from None
    path = RUNS.with_name("full") / f"{script.stem}.ipynb"  # stays, if it cannot be kept
    write(run, path)
    keep(path)


def kept(path: Path) -> CourseError | None:
    """Keep a full run, and return why if it cannot be kept."""
    try:
        return keep(path)
    except CourseError as problem:
        return problem


def main() -> None:
    """Run the scripts that have no run, or keep full runs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--full", nargs="+", type=Path, default=[], metavar="SCRIPT")
    options = parser.parse_args()
    for script in options.full:
        run_in_full(script.resolve())
    problems = [str(problem) for path in options.keep if (problem := kept(path))]
    if problems:
        sys.exit("\n".join(problems))
    for script in [] if options.keep or options.full else scripts():
        if not is_old(script) and full_run(script) is None:
            quick_run(script)
            print(script.relative_to(ROOT))


if __name__ == "__main__":
    main()
