"""What a long fit meets: hooks that draw or move elsewhere, signals at odd moments."""

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from test_training import binary, quiet, small_vae
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae.command.fit import Trained, outcome
from pyrovae.files import History
from pyrovae.training import loop


def with_dropout():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    return small_vae(net)


def equal(a, b):
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


class Stop(pv.hooks.Hook):
    """End the fit after a step."""

    def __init__(self, last):
        self.last = last

    def on_step(self, step):
        return step.step == self.last


class Draw(pv.hooks.Hook):
    """Draw, reseed and look at the graph in eval() mode wherever a hook is called."""

    def on_start(self, start):
        torch.manual_seed(1)
        start.graph.eval()

    def on_step(self, step):
        torch.rand(3)
        step.graph.eval()

    def on_epoch(self, epoch):
        torch.randn(3)
        pv.generate(epoch.graph.eval(), 2, seed=None)


def draw_and_go_on(history):
    torch.rand(5)
    return False


@pytest.mark.parametrize(
    "options", [{"hooks": Draw()}, {"callback": draw_and_go_on}, {"progress": True}]
)
def test_hooks_that_draw_or_switch_to_eval_leave_the_fit_as_it_is(options):
    alone, heard = with_dropout(), with_dropout()
    how = {"epochs": 3, "batch_size": 16, "seed": 0, "progress": False}
    pv.fit(alone, binary(), **how)
    pv.fit(heard, binary(), **how | options)
    assert equal(alone, heard)
    assert heard.training


def test_a_relative_checkpoint_stays_where_it_was_begun(tmp_path, monkeypatch):
    """A hook may change the current folder."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)

    class Move(pv.hooks.Hook):
        def on_step(self, step):
            os.chdir(there)

    quiet(small_vae(), binary(), epochs=1, checkpoint="state", hooks=Move())
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["state"]
    assert (here / "state").is_file()


def loaded(rows):
    return DataLoader(TensorDataset(rows), batch_size=8, shuffle=True)


def generated(rows):
    return (rows[8 * (i % 5) : 8 * (i % 5) + 8] for i in count())


@pytest.mark.parametrize("data", [lambda rows: rows, loaded, generated])
@pytest.mark.parametrize("last", [2, 4])
def test_a_fit_resumes_after_a_last_step_of_fewer_minibatches(tmp_path, data, last):
    """Five minibatches are two steps of three: the second has two, and the epoch has no more."""
    rows, file = binary(40), tmp_path / "state"
    how = {"epochs": 3, "batch_size": 8, "accumulate": 3, "seed": 0, "steps_per_epoch": 5}
    if data is not generated:
        del how["steps_per_epoch"]
    whole, resumed = small_vae(), small_vae()
    expected = quiet(whole, data(rows), **how)
    quiet(small_vae(), data(rows), checkpoint=file, hooks=Stop(last), **how)
    history = quiet(resumed, data(rows), resume=file, **how)
    assert history.loss == expected.loss
    assert equal(whole, resumed)


@pytest.mark.parametrize("when", ["validation", "callback"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_signal_between_epochs_ends_the_fit_there(tmp_path, monkeypatch, when, epoch):
    """After the last epoch too: whoever asked would otherwise wait for what follows the fit."""
    whole, cut, file = small_vae(), small_vae(), tmp_path / "state"
    how = {"epochs": 3, "batch_size": 16, "seed": 0, "validation": binary(8, seed=1)}
    quiet(whole, binary(), **how)
    validate, looks = loop.validate, count(1)

    def validate_and_send(*given):
        if when == "validation" and next(looks) == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(*given)

    def send(history):
        if when == "callback" and len(history.loss) == epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "validate", validate_and_send)
    history = quiet(cut, binary(), checkpoint=file, callback=send, **how)
    assert history.stopped == "terminated"
    assert len(history.loss) == epoch
    resumed = small_vae(seed=5)
    assert quiet(resumed, binary(), resume=file, **how).stopped == "all epochs ran"
    assert equal(whole, resumed)


def test_parameters_of_inference_mode_are_named():
    with torch.inference_mode():
        vae = small_vae()
    with pytest.raises(ValueError, match=r"made in torch.inference_mode\(\).* outside of it"):
        quiet(vae, binary(), epochs=1)


@pytest.mark.parametrize("name", ["checkpoint", "resume"])
def test_a_path_of_another_type_is_named(name):
    with pytest.raises(TypeError, match=f"fit: {name} is a bool, expected the path of a file"):
        quiet(small_vae(), binary(), **{name: True})


def test_a_gradient_that_a_caller_left_is_no_part_of_the_first_step():
    clean, used = small_vae(), small_vae()
    for parameter in used.parameters():
        parameter.grad = torch.ones_like(parameter)
    for vae in (clean, used):
        quiet(vae, binary(), epochs=1, seed=0)
    assert equal(clean, used)


@pytest.mark.parametrize("run", [quiet, pv.log_evidence])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(type(runtime._DIM_ALLOCATOR), "free"), (Messenger, "__exit__"), (torch.no_grad, "__exit__")],
)
def test_an_interrupt_within_a_handler_leaves_the_process_usable(monkeypatch, run, owner, name):
    """A second Ctrl-C may strike anywhere, as one during an evaluation does."""
    vae, calls = small_vae(), count(1)
    left = getattr(owner, name)

    def interrupted(*given):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return left(*given)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(vae, binary())
    monkeypatch.undo()
    assert (runtime._PYRO_STACK, runtime._DIM_ALLOCATOR._stack) == ([], [])
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in vae.parameters())
    quiet(vae, binary(), epochs=1, seed=0)


def test_other_parameters_to_train_are_named_in_a_resumed_fit(tmp_path):
    file, other = tmp_path / "state", small_vae()
    quiet(small_vae(), binary(), epochs=1, checkpoint=file)
    other.likelihood.requires_grad_(False)
    words = (
        "another set of trained parameters: it also holds likelihood.net.layers.0.bias and 3 more"
    )
    with pytest.raises(pv.FileError, match=words):
        quiet(other, binary(), epochs=2, resume=file)


IN_A_FORK = """
import multiprocessing, torch
from test_training import binary, quiet, small_vae
torch.set_num_threads(2)
torch.ones(3000, 300) @ torch.ones(300, 300)  # by two threads, which a fork does not have
child = multiprocessing.get_context("fork").Process(
    target=quiet, args=(small_vae(), binary(20_000)), kwargs={"epochs": 1, "batch_size": 10_000}
)
child.start()
child.join(60)
print("ended by", child.exitcode)
child.kill()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fit_in_a_forked_process_waits_for_no_thread_of_its_parent():
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_FORK],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert told.stdout.split("\n")[0] == "ended by 0", told.stderr


def test_the_command_that_continues_a_run_quotes_its_paths():
    settings = SimpleNamespace(data=Path("my data.npy"))
    run = SimpleNamespace(settings=settings, folder=Path("runs/a b"))
    told = outcome(run, Trained(History(stopped="interrupted")))
    assert told.message.endswith("pyrovae fit 'my data.npy' --output 'runs/a b' --resume")
