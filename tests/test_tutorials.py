"""Every tutorial in quick mode: no warnings, no blank pictures, and claims that hold.

A script is executed as a notebook; the executed notebooks stay in build/course, from where the
documentation takes them. The scripts assert their claims themselves.
"""

import re
from pathlib import Path

import course
import pytest

TUTORIALS = Path(__file__).parents[1] / "tutorials"
INDEX = TUTORIALS / "README.md"


# How many pictures each script shows by pyplot.
PICTURES = {
    "00_bare_pyro": 2,
    "01_three_parts": 2,
    "02_autoencoder_and_vae": 4,
    "03_jensen_and_kl": 1,
    "04_estimators": 1,
    "05_manifold": 6,
    "06_tasks": 4,
    "07_mixtures": 2,
    "08_flows": 2,
    "09_maps": 4,
    "10_pose": 3,
    "11_single_cell": 3,
    "12_uncertain_decoder": 2,
    "13_new_cells": 2,
    "14_the_gap": 3,
    "15_expectation_maximization": 2,
    "16_tighter_bounds": 2,
    "17_learned_priors": 2,
    "mini_vae": 1,
}


def test_every_tutorial_is_listed():
    found = {path.stem for path in TUTORIALS.glob("*.py")}
    assert found == {*PICTURES}, "each script in tutorials/ needs a row in PICTURES"
    index = INDEX.read_text()
    assert [name for name in found if f"{name}.py" not in index] == []


def test_each_script_names_the_next_one_and_none_comes_before_what_it_needs():
    rows = re.findall(r"^\| \[`(\w+).py`\].*\|([^|]*)\| \d+ \|$", INDEX.read_text(), re.MULTILINE)
    needs = {name.partition("_")[0]: re.findall(r"\d\d", before) for name, before in rows}
    path, order = TUTORIALS / "mini_vae.py", []
    while path is not None:
        text = " ".join(path.read_text().replace("\n# ", " ").split())
        found = re.search(r"\*\*Next:\*\* (\d\d)", text)
        path = next(TUTORIALS.glob(f"{found[1]}_*.py")) if found else None
        order += [found[1]] if found else []
        assert len(order) == len(set(order)), f"a circle: {order}"
    assert ["mini", *order] == [*needs], "all scripts, in the order of the index"
    for place, number in enumerate(order):
        assert set(needs[number]) <= set(order[:place]), f"{number} needs {needs[number]}"


@pytest.mark.parametrize("name", PICTURES)
def test_a_tutorial_executed_as_a_notebook_shows_its_pictures(name):
    run = course.quick_run(TUTORIALS / f"{name}.py", again=True)
    shown = course.pictures(run)
    assert len(shown) == PICTURES[name]
    for number, picture in enumerate(shown):
        assert min(picture.shape[:2]) > 80, f"picture {number} is {picture.shape}"
        assert picture.std() > 0.05, f"picture {number} is blank"  # a line plot has at least 0.1


@pytest.mark.parametrize("path", sorted((TUTORIALS / "answers").glob("*.py")), ids=lambda p: p.stem)
def test_the_answers_to_the_exercises_hold(path):
    course.quick_run(path, again=True)
    assert "\nassert " in path.read_text()
    assert (TUTORIALS / path.name).exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import warnings\nwarnings.warn('old')", "UserWarning: old"),
        ("import sys\nprint('progress', file=sys.stderr)", "standard error"),
        ("assert 1 + 1 == 3", "AssertionError"),
        ("open('left', 'w').close()", "leaves files"),
    ],
)
def test_a_script_that_warns_fails_or_leaves_files_is_refused(tmp_path, body, message):
    (tmp_path / "a.py").write_text(f"# %% [markdown]\n# # A title\n\n# %%\n{body}\n")
    with pytest.raises(course.CourseError, match=message):
        course.execute(course.convert(tmp_path / "a.py"))


@pytest.mark.parametrize(
    ("body", "same"),
    [
        ("a = (9, 9) if QUICK else (2, 1)\nif QUICK:\n    a = 3", True),
        ("a = (1, 1) if QUICK else (2, 2)\nif QUICK:\n    a = 0", False),
        ("a = (1, 1) if QUICK else (2, 1)\nif not QUICK:\n    a = 0", False),
    ],
)
def test_a_full_run_does_not_depend_on_the_quick_mode(tmp_path, monkeypatch, body, same):
    monkeypatch.setattr(course, "TUTORIALS", tmp_path)
    monkeypatch.setattr(course, "FULL", tmp_path / "full")
    script, kept = tmp_path / "a.py", tmp_path / "full" / "a.ipynb"
    script.write_text("# %%\na = (1, 1) if QUICK else (2, 1)\nif QUICK:\n    a = 0\n")
    course.write(course.convert(script), kept)
    script.write_text(f"# %%\n{body}\n")
    assert (course.full_run(script) is not None) is same


def size(name):
    """The number of words of a script's text, and of its lines of code."""
    lines = [line for line in (TUTORIALS / f"{name}.py").read_text().splitlines() if line]
    text = [line for line in lines if line.startswith("#")]
    return sum(len(line.split()) - 1 for line in text), len(lines) - len(text)


@pytest.mark.parametrize("name", sorted({*PICTURES} - {"mini_vae"}))
def test_a_tutorial_has_one_idea_and_says_it(name):
    lines = (TUTORIALS / f"{name}.py").read_text().splitlines()
    words, code = size(name)
    assert len(lines) < 250
    assert sum(line.startswith(("assert ", "    assert ")) for line in lines) >= 8
    assert words > 5 * code


@pytest.mark.parametrize("name", PICTURES)
def test_the_index_says_how_long_a_tutorial_takes_to_read(name):
    row = re.search(rf"^\| \[`{name}.py`.*\| (\d+) \|$", INDEX.read_text(), re.MULTILINE)
    words, code = size(name)
    assert abs(int(row[1]) - words / 100 - code / 10) <= 1  # words and lines of code a minute
