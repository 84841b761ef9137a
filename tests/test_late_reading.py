"""A loss that is read one step late, as on a GPU, held on the CPU; see `training/results.py`."""

import math

import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.training import loop, results, svi
from pyrovae.training.adam import adam

X = torch.rand(70, 6, generator=torch.Generator().manual_seed(0)).round()


def vae() -> pv.VAE:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        return pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))


def both(monkeypatch, run):
    """Return what a run gives with losses that are read at once, and late."""
    at_once = run()
    monkeypatch.setattr(svi, "can_read_late", lambda *_: True)
    return at_once, run()


def fitted(graph, **options):
    options = {"epochs": 3, "batch_size": 20, "seed": 0, "progress": False, **options}
    history = pv.fit(graph, X, **options)
    return history, graph.state_dict()


def equal(one, other):
    for history in (one[0], other[0]):
        history.seconds.clear()
    return vars(one[0]) == vars(other[0]) and all(
        torch.equal(one[1][name], other[1][name]) for name in one[1]
    )


def count_unread(monkeypatch):
    """Return a list that fills up with how many steps wait when one more is read."""
    found, read = [], loop.Loop.read

    def counted(self, all_but=0):
        found.append(len(self.taken))
        return read(self, all_but)

    monkeypatch.setattr(loop.Loop, "read", counted)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"validation": X[:30], "patience": 1},
        {"ema": 0.9},
        {"precision": "bf16"},
        {"accumulate": 2},
        {"clip_norm": 0.3},
        {"clip_norm": "auto", "optimizer": lambda p: torch.optim.Adam(p, 0.1, fused=True)},
        {"accumulate": 3, "clip_norm": 0.3, "ema": 0.9},
        {"objective": pv.objectives.IWAE(3)},
        {"optimizer": lambda p: torch.optim.AdamW(p, 0.1, fused=True)},
        {"scheduler": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 12)},
    ],
    ids=lambda options: " ".join(options),
)
def test_the_fit_is_the_same(monkeypatch, options):
    waiting = count_unread(monkeypatch)
    one, other = both(monkeypatch, lambda: fitted(vae(), **options))
    assert max(waiting) == 2  # one is read while the next is queued
    assert equal(one, other)


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2}, {"clip_norm": 1.0}],
    ids=lambda options: " ".join(options),
)
def test_hooks_get_the_numbers_at_once(monkeypatch, options):
    waiting = count_unread(monkeypatch)
    options = {**options, "hooks": [pv.training.Hook()]}
    one, other = both(monkeypatch, lambda: fitted(vae(), **options))
    assert max(waiting) == 1
    assert equal(one, other)


class Breaks(nn.Module):
    """A decoder whose logits of one row are NaN from a step of the fit on."""

    def __init__(self, step, row):
        super().__init__()
        self.net, self.step, self.row, self.calls = nn.Linear(2, 6), step, row, 0

    def forward(self, z):
        self.calls += self.training
        factor = torch.ones(len(z), 1)
        factor[self.row] = math.nan if self.calls >= self.step else 1.0
        return self.net(z) * factor


def test_a_loss_that_is_not_finite_is_that_of_its_step(monkeypatch):
    """The words are the same, and no later step moves a weight."""
    moved, move = [], svi.FusedSVI._move

    def counted(self):
        before = [parameter.clone() for parameter in self.parameters]
        move(self)
        moved.append(not all(map(torch.equal, before, self.parameters)))

    def words():
        graph = vae()
        graph.likelihood.net = Breaks(step=7, row=3)
        with pytest.raises(pv.TrainingError, match=r"step 3 of epoch 2: the loss is nan") as error:
            fitted(graph)
        return str(error.value)

    monkeypatch.setattr(svi.FusedSVI, "_move", counted)
    one, other = both(monkeypatch, words)
    assert moved == [True] * 6 + [True] * 6 + [False] * 2
    assert one == other
    assert "no finite density in 1 rows of the batch: [3], which are rows [" in one


def test_a_checkpoint_holds_all_steps(monkeypatch, tmp_path):
    """A fit that was interrupted in the middle of an epoch continues bit for bit."""
    monkeypatch.setattr(svi, "can_read_late", lambda *_: True)
    whole = fitted(vae())
    path, take = tmp_path / "checkpoint.safetensors", loop.Loop.step

    def stopped(self, group):
        take(self, group)
        if self.steps_done() == 6:
            self.history.stopped = "for a test"

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "step", stopped)
        fitted(vae(), checkpoint=path)
    assert equal(fitted(vae(), resume=path), whole)


def test_the_optimizer_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(svi, "can_read_late", lambda *_: True)
    graph = vae()
    optimizer = torch.optim.Adam(graph.parameters(), fused=True)
    fitted(graph, optimizer=optimizer)
    assert getattr(optimizer, "found_inf", None) is None


def test_only_a_fused_optimizer_on_one_gpu_can_wait():
    weight = nn.Parameter(torch.zeros(2))
    assert not results.can_read_late(adam([weight]), [weight])
    with torch._subclasses.FakeTensorMode():
        there = nn.Parameter(torch.empty(2, device="cuda"))
        assert results.can_read_late(adam([there]), [there])
        assert not results.can_read_late(torch.optim.Adam([there]), [there])
        assert not results.can_read_late(torch.optim.SGD([there], 0.1, fused=True), [there])
        assert not results.can_read_late(adam([there, weight]), [there, weight])
