"""Every test and docstring example starts with one thread, an empty store and a fixed seed."""

import os
from pathlib import Path

import pyro
import pytest
import torch

torch.set_num_threads(1)  # tests are small, and run beside each other
os.environ.setdefault("OMP_NUM_THREADS", "1")  # so do the processes that they start

SHARED_DATA = Path(os.environ.get("PYROVAE_DATA", Path(__file__).parents[1] / "shared" / "data"))


@pytest.fixture(autouse=True, scope="session")
def _few_restorations():
    """The section on restoration of each report that a test writes: few images, little effort."""
    from pyrovae.command.images import restoration

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoration, "ROWS", 4)
        patch.setattr(restoration, "EFFORT", {"samples": 20, "steps": 3, "components": 1})
        yield


@pytest.fixture(autouse=True)
def _clean():
    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(torch=torch, nn=torch.nn)


@pytest.fixture
def shared_data():
    """The folder of real data (`PYROVAE_DATA`, or shared/data beside the checkout)."""
    if not (SHARED_DATA / "MNIST").is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}: set PYROVAE_DATA to a torchvision root")
    return SHARED_DATA
