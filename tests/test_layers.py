"""The table of rooms, held on the syntax tree: what may import what, and only by a room's face.

A room is a folder of `pyrovae/`. Importing the library is light and touches nothing.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyrovae"
PARTS = {"priors", "posteriors", "likelihoods"}
WHAT_A_MODEL_IS = {"data", "nets", "distributions", "graphs"} | PARTS
WHAT_IS_DONE = {"programs", "objectives", "training", "evaluation", "tasks", "files"}

# What each room may import. A room that is not named here fails the test.
MAY = {
    "data": set(),
    "nets": set(),
    "files": set(),
    "distributions": set(),
    "priors": {"distributions"},
    "posteriors": {"distributions"},
    "likelihoods": {"distributions", "data", "nets"},
    "programs": {"distributions"},
    "graphs": {"programs", "distributions"},
    "objectives": {"programs"},
    "training": {"objectives", "programs", "data", "files"},
    "evaluation": {"distributions", "programs", "data"},
    "tasks": {"distributions", "programs", "data", "evaluation"},
    "singlecell": WHAT_A_MODEL_IS | WHAT_IS_DONE,
    "command": WHAT_A_MODEL_IS | WHAT_IS_DONE | {"singlecell"},
}
# Files that may import more than their room, or alone use what the room may.
MORE = {
    "graphs/scvi.py": PARTS | {"nets"},
    "command/cli.py": set(),
    "distributions/families.py": {"data"},  # the number of threads
    "objectives/base.py": {"distributions"},  # the check of a whole number
    "tasks/refining.py": {"training"},  # its Adam, which does not import torch's compiler
    "tasks/restoring.py": {"training"},  # as many threads as a run is worth
}
ALONE = {("likelihoods", "nets"): {"likelihoods/expression.py"}}
# The library's idea: what is done with a pair of programs knows no part, no network, no graph.
NEVER = {"objectives", "programs", "training", "evaluation", "tasks"}
# What the report may import, a room within the command line's.
REPORT = {"files", "command/report"}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree(path):
    return ast.parse(path.read_text())


def imports(path):
    """Yield (module, name, alias) for every `from module import name as alias` of the library."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "pyrovae" for alias in node.names), (
                "use `from`"
            )
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}: relative import"
            if node.module and node.module.split(".")[0] == "pyrovae":
                yield from (
                    (node.module, alias.name, alias.asname or alias.name) for alias in node.names
                )


def target(module, name):
    """Return the path below `pyrovae` that an import leads to: ["data", "batches"], ..."""
    inner = module.split(".")[1:]
    return inner or [name]


def rooms_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


@cache
def public(dotted):
    """Return `__all__` of a module or package of the library, None if there is no such module."""
    home = PACKAGE.joinpath(*dotted.split("."))
    path = home / "__init__.py" if home.is_dir() else home.with_suffix(".py")
    if not path.is_file():
        return None
    return public_of(tree(path).body)


def public_of(body):
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_what_the_table_allows(path):
    own, name = rooms_of(path), name_of(path)
    if own is None:
        return  # the front door
    assert own in MAY, f"{own}: a new room, give it a row in this table"
    for module, imported, _ in imports(path):
        room = target(module, imported)[0]
        allowed = MAY[own] | MORE.get(name, set())
        assert room == own or room in allowed, f"{name} imports {module}.{imported}"
        alone = ALONE.get((own, room))
        assert alone is None or name in alone, f"{name} imports {module}.{imported}"


@pytest.mark.parametrize("path", [path for path in FILES if rooms_of(path) in NEVER], ids=name_of)
def test_what_is_done_with_programs_knows_no_model(path):
    known = {target(module, name)[0] for module, name, _ in imports(path)}
    assert not known & (PARTS | {"nets", "graphs", "singlecell", "command"})


@pytest.mark.parametrize(
    "path", [p for p in FILES if name_of(p).startswith("command/report/")], ids=name_of
)
def test_the_report_draws_and_measures_nothing(path):
    for module, name, _ in imports(path):
        assert (
            "/".join(target(module, name)[:2]).removesuffix(f"/{name}") in REPORT
            or target(module, name)[0] in REPORT
        )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_another_room_is_used_by_its_face_only(path):
    own = rooms_of(path)
    for module, imported, alias in imports(path) if own else ():  # the front door uses any
        inner = target(module, imported)
        if inner[0] == own or public(inner[0]) is None:
            continue  # its own room, or a name of the front door
        if module == "pyrovae":  # `from pyrovae import programs`, then programs.run
            used, face = attributes(path, alias), public(imported)
        elif (
            len(inner) == 1 and public(f"{inner[0]}.{imported}") is not None
        ):  # a submodule, as pyrovae.data.batches
            assert imported in public(inner[0]), (
                f"{name_of(path)}: {module} does not export {imported}"
            )
            used, face = attributes(path, alias), public(f"{inner[0]}.{imported}")
        elif len(inner) == 2 and inner[1] in public(
            inner[0]
        ):  # from pyrovae.likelihoods.expression import Poisson
            used, face = {imported}, public(".".join(inner))
        else:
            used, face = {imported}, public(inner[0])
            assert len(inner) == 1, f"{name_of(path)}: {module} is inside another room"
        assert used <= face, (
            f"{name_of(path)} uses {sorted(used - face)}, which {module} keeps to itself"
        )


def attributes(path, alias):
    """Return the names X of every `alias.X` in a file."""
    return {
        node.attr
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == alias
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_private_names_stay_in_their_module(path):
    private = [
        (module, name)
        for module, name, _ in imports(path)
        if name.startswith("_") and name != "__version__"
    ]
    assert not private


def test_the_root_holds_rooms_and_four_files():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert {name for name in entries if (PACKAGE / name).is_file()} == {
        "__init__.py",
        "__init__.pyi",
        "__main__.py",
        "py.typed",
    }
    assert {name for name in entries if (PACKAGE / name).is_dir()} == set(MAY)
    assert len(MAY) <= 15


def test_each_room_has_a_test_module_of_its_name():
    tests = Path(__file__).parent
    assert [room for room in MAY if not (tests / f"test_{room}.py").is_file()] == []


def test_every_name_in_all_is_there():
    import importlib

    for path in FILES:
        if path.name == "__init__.py":
            dotted = ".".join(["pyrovae", *path.relative_to(PACKAGE).parts[:-1]])
            module = importlib.import_module(dotted)
            assert all(hasattr(module, name) for name in getattr(module, "__all__", ()))


def run(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_importing_is_light():
    modules = (
        "torchvision",
        "matplotlib",
        "sklearn",
        "skimage",
        "scipy",
        "anndata",
        "pandas",
        "typer",
        "jinja2",
    )
    named = "from pyrovae import *"
    heavy = run(f"import sys; {named}; print([m for m in {modules} if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_help_does_not_wait_for_torch():
    code = "import sys; from pyrovae.command import cli; print('torch' in sys.modules)"
    assert run(code).strip() == "False"


@pytest.mark.parametrize("room", ["data", "distributions", "training"])
def test_a_room_is_there_before_anything_is_imported(room):
    assert run(f"import pyrovae as pv; print(pv.{room}.__name__)").strip() == f"pyrovae.{room}"


def test_the_cells_are_at_the_front_door():
    code = """
import sys
import pyrovae as pv
early = "pyrovae.singlecell" in sys.modules or not {"SingleCellVAE", "singlecell"} <= set(dir(pv))
from pyrovae.singlecell import SingleCellVAE
print(early, pv.SingleCellVAE is pv.singlecell.SingleCellVAE is SingleCellVAE)
"""
    assert run(code).split() == ["False", "True"]


def test_the_stub_names_what_is_there():
    import pyrovae

    found = tree(PACKAGE / "__init__.pyi").body
    named = [
        alias.name for node in found if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(named) == sorted(pyrovae.__all__)
    assert set(public_of(found)) == set(named)
    assert all(hasattr(pyrovae, name) for name in named)


def test_importing_changes_nothing():
    code = """
import torch, pyro
from torch.distributions import Distribution, kl
pyro.param("kept", torch.zeros(2))
def look():
    return (torch.get_rng_state().sum().item(), torch.get_default_dtype(),
            torch.get_num_threads(), torch.is_grad_enabled(),
            Distribution.__dict__.get("_validate_args"), len(kl._KL_REGISTRY),
            sorted(pyro.get_param_store().keys()), pyro.settings.get())
before = look()
import pyrovae as pv
net = torch.nn.Identity()
vae = pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.Point(net), pv.likelihoods.Bernoulli(net))
print(look() == before)
"""
    assert run(code).strip() == "True"


def test_the_version_is_one():
    import pyrovae

    assert run("import pyrovae; print(pyrovae.__version__)").strip() == pyrovae.__version__
