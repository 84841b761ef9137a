"""Ctrl-C while the command line imports what it needs."""

import signal
import subprocess
import sys

import pytest

from pyrovae.command.interrupts import effective_interrupts

SWALLOWS = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except BaseException:  # as the C code of some modules does
    pass
"""
RUN = """
from pyrovae.command.interrupts import effective_interrupts
with effective_interrupts():
    import swallows
    print("went on")
"""


def test_ctrl_c_within_an_import_ends_the_process(tmp_path):
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    run = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "pyrovae: interrupted\n")


def test_elsewhere_it_is_as_usual():
    before = signal.getsignal(signal.SIGINT)
    with effective_interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_of_a_caller_stays():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with effective_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
