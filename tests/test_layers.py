"""The design's table held by the syntax tree: imports point up only, importing is light and touches nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyrovae"

# What each file may import from the library. A file that is not named here fails the test.
MAY = {
    "axes": set(),
    "datasets": set(),
    "sparse": set(),
    "batches": {"sparse"},
    "simulation": {"distributions"},
    "nets": {"axes"},
    "blocks": {"axes"},
    "supports": set(),
    "distributions": {"distributions"},
    "conditional": set(),
    "history": set(),
    "hmc": set(),
    "checkpoint": set(),
    "outputs": set(),
    "priors": {"conditional", "distributions", "outputs", "priors"},
    "posteriors": {"conditional", "distributions", "outputs", "posteriors"},
    "likelihoods": {"conditional", "distributions", "supports"},
    "expression": {"axes", "blocks", "conditional", "distributions", "likelihoods", "supports"},
    "graphs": {"blocks", "conditional", "distributions", "expression", "graphs", "nets", "posteriors", "priors"},
    "traces": {"conditional", "distributions"},
    "objectives": {"hmc", "objectives", "traces"},
    "svi": {"conditional", "objectives", "traces"},
    "normalization": {"conditional", "traces"},
    "failure": {"history", "svi", "traces"},
    "loop": {"batches", "checkpoint", "conditional", "failure", "history", "normalization", "objectives", "svi", "traces"},
    "fit": {"batches", "checkpoint", "history", "loop", "objectives", "svi", "traces"},
    "passes": {"batches", "traces"},
    "evaluate": {"batches", "passes", "traces"},
    "paths": {"hmc", "passes", "traces"},
    "annealing": {"batches", "evaluate", "hmc", "passes", "paths", "traces"},
    "reciprocal": {"batches", "evaluate", "hmc", "passes", "paths", "traces"},
    "latents": {"batches", "traces"},
    "tasks": {"batches", "latents", "traces"},
    "files": {"checkpoint", "history"},
    "encoding": set(),
    "cells": {"encoding", "sparse", "supports"},
    "celldata": {"cells", "encoding", "sparse"},
    "profiles": {"batches", "graphs", "latents", "traces"},
    "differential": set(),
    "celltraining": {"batches", "celldata", "cells", "expression", "fit", "graphs", "history", "objectives"},
    "queries": {
        "batches",
        "celldata",
        "celltraining",
        "differential",
        "evaluate",
        "graphs",
        "history",
        "latents",
        "profiles",
        "tasks",
        "traces",
    },
    "singlecell": {
        "batches",
        "celldata",
        "cells",
        "checkpoint",
        "encoding",
        "expression",
        "files",
        "graphs",
        "history",
        "objectives",
        "queries",
        "svi",
        "traces",
    },
}
FRONT = {"__init__", "__main__", "cellplots", "cli", "command", "plots", "report"}  # may use all of the above


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pyrovae":
            inner = node.module.split(".")[1:2]
            yield from inner or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pyrovae."))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_up_only(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer in FRONT:
        return
    assert layer in MAY, f"{layer}: new file, give it a row in this table"
    assert set(imported(path)) <= MAY[layer]


def test_nothing_below_the_graphs_knows_a_network():
    for layer, allowed in MAY.items():
        assert layer in ("nets", "graphs") or "nets" not in allowed  # graphs/assembly.py


def run(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_is_light():
    modules = ("torchvision", "matplotlib", "sklearn", "anndata", "pandas", "typer")
    heavy = run(f"import sys, pyrovae; print([m for m in {modules} if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_importing_changes_nothing():
    code = """
import torch, pyro
from torch.distributions import Distribution
pyro.param("kept", torch.zeros(2))
def look():
    return (torch.get_rng_state().sum().item(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
            Distribution.__dict__.get("_validate_args"),
            sorted(pyro.get_param_store().keys()), pyro.settings.get())
before = look()
import pyrovae as pv
vae = pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.Point(torch.nn.Identity()), pv.likelihoods.Bernoulli(torch.nn.Identity()))
print(look() == before)
"""
    assert run(code).strip() == "True"


def test_the_version_is_one():
    import pyrovae

    assert run("import pyrovae; print(pyrovae.__version__)").strip() == pyrovae.__version__
