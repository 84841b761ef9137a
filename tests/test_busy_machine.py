"""Fewer threads while other programs have the processors, and as many as before afterwards."""

import time

import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import ThreadWatch, threads


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Return a function that says how long two threads of this process have waited."""

    def write(*seconds):
        for name, waited in enumerate(seconds):
            (tmp_path / str(name)).mkdir(exist_ok=True)
            (tmp_path / str(name) / "schedstat").write_text(f"5 {int(waited * 1e9)} 7\n")

    write(1.0, 2.0)
    monkeypatch.setattr(threads, "_TASKS", tmp_path)
    monkeypatch.setattr(threads, "_WINDOW", 0.0)
    threads._say_once.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield write
    torch.set_num_threads(before)


def test_threads_are_halved_while_one_waits(tasks, monkeypatch, caplog):
    clock = iter(range(100))
    monkeypatch.setattr(threads.time, "perf_counter", lambda: next(clock))
    with ThreadWatch() as watch:
        for waited, expected in [((1.05, 2.05), 4), ((1.1, 2.5), 2), ((1.2, 2.52), 2)]:
            tasks(*waited)
            watch.look()
            assert torch.get_num_threads() == expected
        tasks(2.0, 2.6, 9.0)
        watch.look()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
    assert [record.getMessage()[:14] for record in caplog.records] == ["other programs"]


def test_nothing_changes_where_the_system_tells_nothing(tasks, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "_TASKS", tmp_path / "none")
    with ThreadWatch() as watch:
        watch.look()
        (tmp_path / "0" / "schedstat").write_text("")
        monkeypatch.setattr(threads, "_TASKS", tmp_path)
        watch.look()
        assert torch.get_num_threads() == 4


def test_looks_are_rare(tasks, monkeypatch):
    monkeypatch.setattr(threads, "_WINDOW", 1e9)
    with ThreadWatch() as watch:
        tasks(50.0, 50.0)
        watch.look()
        assert torch.get_num_threads() == 4


class _Seen(nn.Linear):
    """A layer that notes with how many threads it runs, and lets the other threads wait."""

    def __init__(self, tasks):
        super().__init__(6, 4)
        self.tasks, self.seen = tasks, []

    def forward(self, x):
        self.seen.append(torch.get_num_threads())
        self.tasks(time.perf_counter() * 2, 0.0)
        return super().forward(x)


def busy_vae(tasks):
    net = _Seen(tasks)
    q, p = pv.posteriors.DiagonalNormal(net), pv.likelihoods.Bernoulli(nn.Linear(2, 6))
    return pv.VAE(pv.priors.StandardNormal(2), q, p), net


def test_a_fit_takes_fewer(tasks, monkeypatch):
    monkeypatch.setattr("pyrovae.training.threads._PER_THREAD", 1)
    vae, net = busy_vae(tasks)
    pv.fit(vae, torch.rand(60, 6).round(), epochs=2, batch_size=10, progress=False)
    assert net.seen[0] == 4
    assert net.seen[-1] == 1
    assert torch.get_num_threads() == 4


def test_an_evaluation_takes_fewer(tasks):
    vae, net = busy_vae(tasks)
    pv.elbo(vae, torch.rand(5000, 6).round())
    assert net.seen[0] == 4
    assert net.seen[-1] < 4
    assert torch.get_num_threads() == 4
