"""A sample of `benchmarks/damaged_files.py`: no file is accepted in silence, none fails raw."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "damaged_files.py"
DAMAGED, EDITED, SEED = 16, 12, 1000


def loaded():
    spec = importlib.util.spec_from_file_location("damaged_files", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["damaged_files"] = module
    spec.loader.exec_module(module)
    return module


script = loaded()


@pytest.mark.parametrize("subject", script.SUBJECTS, ids=lambda subject: subject.name)
def test_damaged_files_are_refused_by_name_or_harmless(subject, tmp_path):
    trials = list(script.count(subject, DAMAGED, EDITED, SEED, tmp_path))
    assert [trial for trial in trials if trial[1] in ("raw", "silent")] == []
    assert Counter(outcome for _, outcome, _ in trials)["refused"] > DAMAGED / 2


def test_the_script_sees_what_is_silent_and_what_is_raw(tmp_path):
    """A reader without checks: it is no proof of safety if nothing can fail it."""

    def make(folder, seed):
        folder.mkdir(parents=True)
        (folder / "a.json").write_text(f"[1, 2, {seed}]")

    def read(folder):
        return script.json.loads((folder / "a.json").read_bytes())

    def edit(folder, rng):
        (folder / "a.json").write_text("{")

    careless = script.Subject("careless", make, read, lambda found: tuple(map(int, found)), edit)
    outcomes = Counter(trial[1] for trial in script.count(careless, 60, 2, 0, tmp_path))
    assert outcomes["raw"] > 10
    assert outcomes["silent"] > 0
