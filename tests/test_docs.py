"""The code of the documentation runs as it stands, its texts are linked and translated."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from PIL import Image

from pyrovae import datasets
from pyrovae.singlecell import simulate

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ["index", "howto/images", "howto/cells", "howto/swap", "howto/follow"]
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
    new = cells[200:].copy()
    new.obs["batch"] = "c"
    new.write_h5ad("new_cells.h5ad")


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
            exec(compile(block, page, "exec"), names)
