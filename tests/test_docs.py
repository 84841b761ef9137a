"""The code of the documentation runs as it stands, its texts are linked and translated."""

import inspect
import re
import shlex
from pathlib import Path

import anndata
import catalogues
import concordance
import course
import docstrings
import numpy as np
import pytest
import reference
import site_pages
import translation
from command_line import call
from PIL import Image

import pyrovae as pv
from pyrovae import datasets
from pyrovae.singlecell import simulate

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ["index", "howto/images", "howto/cells", "howto/swap", "howto/follow", "limits"]
SMALLER = {  # what the code of a page becomes here: fewer epochs, draws and rows
    "epochs=300": "epochs=20",
    "epochs=20": "epochs=2",
    "samples=500": "samples=50",
    "[:20]": "[:3]",
    "rand(20, ": "rand(3, ",
    "view(20, ": "view(3, ",
}
FEW = ["--epochs", "1", "--samples", "0", "--no-report"]  # what `pyrovae fit` gets here


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """The files that the pages speak of, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyrovae.singlecell.training.default_epochs", lambda *_: 2)
    monkeypatch.setattr("pyrovae.singlecell.labels._LEAST_STEPS", 20)
    for number, image in enumerate(datasets.digits().x[:60, 0]):
        path = Path("photos") / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(path)
    cells = simulate(cells=240, genes=30, types=2, batches=2, seed=0).to_anndata()
    cells.obs["batch"] = np.array(["a", "b"])[cells.obs["batch"].astype("category").cat.codes]
    types = np.array(["t0", "t1"])[cells.obs["cell_type"].astype("category").cat.codes]
    cells.obs["cell_type"] = np.where(np.arange(240) % 4, types, "Unknown")
    cells[:200].copy().write_h5ad("cells.h5ad")
    Path("atlas").mkdir()
    for number in range(2):
        cells[100 * number : 100 * (number + 1)].copy().write_h5ad(f"atlas/{number}.h5ad")
    new = cells[200:].copy()
    new.obs["batch"] = "c"
    new.write_h5ad("new_cells.h5ad")


def run_python(block, names):
    for words, fewer in SMALLER.items():
        block = block.replace(words, fewer)
    exec(compile(block, "page", "exec"), names)


def run_shell(block):
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["pyrovae"]:
            call(*words[1:], *(FEW if words[1] == "fit" else []))
        for name in re.findall(r"tutorials/\w+\.py", line):
            assert (DOCS.parent / name).exists()


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # models after two epochs
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, own_data):
    names = {}
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text())
    for kind, block in blocks:
        if kind == "bash":
            run_shell(block)
        else:
            run_python(block, names)


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")
@pytest.mark.filterwarnings("ignore::pyrovae.RestorationWarning")
def test_the_code_of_the_readme_runs(own_data):
    names = {
        "adata": anndata.read_h5ad("cells.h5ad"),
        "new_cells": anndata.read_h5ad("new_cells.h5ad"),
    }
    for kind, block in BLOCK.findall((DOCS.parent / "README.md").read_text()):
        if kind == "python":
            run_python(block, names)


# ----------------------------------------------------------------------------- notes and scripts
def test_every_section_that_the_concordance_names_exists():
    for row in [*concordance.read("concordance"), *concordance.read("mistakes")]:
        for number, section in row.places:
            path = concordance.script(number)
            if path is not None and not course.is_old(path):
                assert section in concordance.sections(path), f"{path.name}, named by {row}"


def test_the_concordance_has_all_notes_in_order():
    rows = concordance.read("concordance")
    assert [row.note for row in rows] == sorted(row.note for row in rows)
    assert {row.note for row in rows} == {"N0", "N1", "N2", "N3", "N4"}
    assert len(rows) == 97  # the statements that the review of the course counts
    assert len({(row.note, row.statement) for row in rows}) == 97


def test_both_directions_of_the_concordance_agree():
    text = concordance.README.read_text(encoding="utf-8")
    assert text == concordance.updated(text), "run python docs/concordance.py"
    back = text.partition("begin of docs/concordance.py: scripts")[2]
    for row in concordance.read("concordance"):
        for number, _ in row.places:
            line = next(
                line
                for line in back.splitlines()
                if line.startswith(f"| {concordance.link(number)} |")
            )
            assert row.what in line.partition(f"**{row.note}**")[2].partition("**")[0]


# ------------------------------------------------------------------------------ links, reference
def test_links_of_the_texts_lead_to_files():
    texts = [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md"), concordance.README]
    for path in texts:
        for target, _ in site_pages.LINK.findall(path.read_text(encoding="utf-8")):
            if "://" not in target and not target.endswith((".ipynb", ".html")):
                to = (path.parent / target).resolve()
                generated = to.name in [f"{page}.md" for page in site_pages.TEXTS.values()]
                assert to.exists() or generated or to == DOCS / "course/index.md", (path, target)


def test_a_docstring_becomes_restructured_text():
    text = [
        "p(x | z) of z*, see `name`:",
        "",
        "    x | z ~ N(0, I)",
        "",
        "Args:",
        "    a: of b_.",
        "    >>> a | b",
    ]
    docstrings.to_restructured_text(None, "", "", None, None, text)
    assert text == [
        r"p(x \| z) of z\*, see ``name``:",
        "",
        "::",
        "",
        "    x | z ~ N(0, I)",
        "",
        "Args:",
        r"    a: of b\_.",
        "    >>> a | b",
    ]


def test_the_reference_has_every_public_name_once():
    pages = "\n".join(reference.pages().values())
    entries = re.findall(r"^\.\. auto(?:class|function|exception):: ([\w.]+)$", pages, re.MULTILINE)
    assert len(entries) == len(set(entries))
    modules = {name for name in pv.__all__ if inspect.ismodule(getattr(pv, name))}
    assert {f"pyrovae.{name}" for name in pv.__all__ if name not in modules} <= {*entries}


# --------------------------------------------------------------------------------- translations
@pytest.mark.parametrize(
    "path", sorted(DOCS.rglob("*.po")), ids=lambda path: str(path.relative_to(DOCS))
)
def test_no_message_of_a_catalogue_is_untranslated(path):
    assert catalogues.missing(path) == []


@pytest.mark.parametrize(
    ("message", "wordless"),
    [
        ("`pv.fit`", True),
        ("$p(x)$, 3 $\\pm$ 1", True),
        ("[N](a.md)", True),
        ("A word `x`", False),
        (r"\log p(x)", True),
    ],
)
def test_what_needs_no_translation(message, wordless):
    assert translation.is_wordless(message) == wordless
