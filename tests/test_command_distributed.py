"""`torchrun -m pyrovae fit`: two processes, one run."""

import json
import os
import subprocess
import sys

import pytest

import pyrovae as pv
from pyrovae.files import description

FIT = ["-m", "pyrovae", "fit", "digits", "--epochs", "2", "--hidden", "16", "--samples", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node=2", *FIT, "--output", str(folder), "--no-report"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_one_run_folder_is_written(run):
    folder, _ = run
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "model", "run.json"]
    assert json.loads((folder / "metrics.json").read_text())["test"]["elbo"] < 0


def test_the_model_loads_and_has_learned(run):
    folder, _ = run
    loss = description(folder / "model")["history"]["loss"]
    assert len(loss) == 2
    assert loss[1] < loss[0]
    assert pv.generate(pv.load(folder / "model"), 3).shape == (3, 1, 8, 8)


def test_each_line_is_printed_once(run):
    lines = [line for line in run[1].splitlines() if line]
    assert len([line for line in lines if line.startswith("epoch")]) == 2
    assert len([line for line in lines if line.startswith("model:")]) == 1
