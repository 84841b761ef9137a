"""Full disks, pipes and devices as files, links, and processes without a standard error."""

import csv
import os
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import call
from test_training import binary, quiet, small_vae

import pyrovae as pv
from pyrovae.files import write_atomically
from pyrovae.training.loggers import on_terminal

linux = pytest.mark.skipif(sys.platform != "linux", reason="files of Linux")


@contextmanager
def files_up_to(size):
    """Context in which no file can grow beyond a number of bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def bash(command, *arguments):
    """Run a command of the shell, in which "$0" is python and arguments follow."""
    line = ["bash", "-c", command, sys.executable, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_csv_of_an_earlier_fit_stays_where_a_resumed_fit_finds_the_disk_full(tmp_path):
    file, state = tmp_path / "steps.csv", tmp_path / "state"
    settings = {"batch_size": 20, "seed": 0}
    quiet(small_vae(), binary(), epochs=2, checkpoint=state, hooks=[pv.hooks.CSV(file)], **settings)
    before = file.read_bytes()
    logger = pv.hooks.CSV(file)
    with files_up_to(100), pytest.raises(OSError, match=r"steps\.csv cannot be written.*Free"):
        quiet(small_vae(), binary(), epochs=4, resume=state, hooks=[logger], **settings)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path).count("steps.csv") == 1
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["CSV", "TensorBoard"])
def test_a_logger_names_its_file_where_the_disk_fills_up(name, tmp_path):
    if name == "TensorBoard":
        pytest.importorskip("tensorboard")
    logger, before = getattr(pv.hooks, name)(tmp_path / "log"), set(threading.enumerate())
    with files_up_to(150), pytest.raises(OSError, match=r"log cannot be written.*another folder"):
        quiet(small_vae(), binary(), epochs=2, batch_size=1, hooks=[logger])
    for thread in set(threading.enumerate()) - before:  # its exception is this test's
        thread.join(5)


def test_csv_has_the_steps_of_a_checkpoint_when_the_process_is_killed(tmp_path):
    file, lines = tmp_path / "steps.csv", []

    class Killed(pv.hooks.Hook):
        def on_step(self, step):  # what a kill -9 here would leave
            lines.append(len(file.read_text().splitlines()) - 1)

    quiet(small_vae(), binary(), epochs=1, batch_size=20, hooks=[pv.hooks.CSV(file), Killed()])
    assert lines == [1, 2, 3]


def test_csv_of_an_earlier_fit_that_is_damaged_is_named_and_half_a_line_left_out(tmp_path):
    file, state = tmp_path / "steps.csv", tmp_path / "state"
    settings = {"batch_size": 20, "seed": 0}
    first = {"epochs": 2, "checkpoint": state, "hooks": [pv.hooks.CSV(file)]}
    quiet(small_vae(), binary(), **first, **settings)
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    again = {"epochs": 3, "resume": state, "hooks": [pv.hooks.CSV(file)]}
    quiet(small_vae(), binary(), **again, **settings)
    with file.open() as lines:
        assert [row["step"] for row in csv.DictReader(lines)] == list("12345789")
    file.write_bytes(whole[:60] + b"\xff" + whole[61:])
    with pytest.raises(pv.FileError, match=r"steps\.csv: no lines of an earlier fit.*another file"):
        quiet(small_vae(), binary(), **again, **settings)
    assert b"\xff" in file.read_bytes()


def test_csv_at_a_folder_is_refused_as_one(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder, expected the name of a file"):
        quiet(small_vae(), binary(), epochs=1, hooks=[pv.hooks.CSV(tmp_path)])


def test_every_hook_is_told_of_the_end_though_another_fails_there(tmp_path):
    class Broken(pv.hooks.Hook):
        def on_end(self):
            raise RuntimeError("broken")

    logger = pv.hooks.CSV(tmp_path / "steps.csv")
    with pytest.raises(RuntimeError, match="broken"):
        quiet(small_vae(), binary(), epochs=1, batch_size=20, hooks=[Broken(), logger])
    with (tmp_path / "steps.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == 3
    assert logger._file.closed


@pytest.mark.parametrize("closed", [False, True])
def test_a_fit_needs_no_standard_error(closed, monkeypatch, tmp_path):
    stream = (tmp_path / "err").open("w")
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if closed else None)
    assert not on_terminal()
    history = pv.fit(small_vae(), binary(), epochs=2)  # shows its progress
    monkeypatch.undo()
    assert history.stopped == "all epochs ran"


@linux
def test_the_command_line_fits_without_a_standard_error(tmp_path):
    options = "--epochs 1 --hidden 4 --latents 2 --samples 0 --no-report"
    done = bash(f'"$0" -m pyrovae fit digits {options} --output "$1" 2>&-', tmp_path / "run")
    assert done.returncode == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_the_earlier_run_stays_where_a_full_disk_takes_no_new_one(tmp_path):
    run, options = tmp_path / "run", ["--epochs", 1, "--hidden", 4, "--latents", 2, "--samples", 0]
    fit = "fit", "digits", "--output", run, *options, "--no-report", "--quiet"
    call(*fit)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with files_up_to(400):
        assert "run.json cannot be written" in call(*fit, "--overwrite", code=2)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@linux
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to("elsewhere/target")
    write_atomically(link, lambda part: part.write_text("new"))
    assert link.is_symlink()
    assert target.read_text() == "new"


@linux
def test_a_pipe_gets_the_content_and_stays_a_pipe(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, lambda part: part.write_text("new"))
    if not pipe.is_fifo():  # let the reader go
        pipe.unlink()
    reader.join(10)
    assert read == [b"new"]
    assert pipe.is_fifo()


@linux
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_gets_the_content_in_its_place(name, tmp_path):
    code = (
        "import sys; from pathlib import Path; from pyrovae.files import write_atomically; "
        "print('first', flush=True); "
        "write_atomically(Path(sys.argv[1]), lambda part: part.write_text('second\\n')); "
        "print('third')"
    )
    done = bash('"$0" -c "$1" "$2" > "$3"', code, name, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text().split() == ["first", "second", "third"]
    assert Path("/dev/stdout").is_symlink()


@linux
def test_a_full_disk_under_standard_output_is_named(tmp_path):
    done = bash('"$0" -m pyrovae fit digits --output "$1" > /dev/full', tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith("pyrovae: [Errno 28] standard output cannot be written")
