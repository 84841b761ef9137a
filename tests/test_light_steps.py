"""What a fit does beside its mathematics: the optimizer's import, and the number of threads."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import pyrovae as pv
from pyrovae.objectives import SGVB_B
from pyrovae.training import Adam, AdamW, FusedSVI, Optimization
from pyrovae.training.threads import Products, threads_for


@pytest.mark.parametrize(
    ("own", "reference"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]
)
@pytest.mark.parametrize(
    "settings",
    [{"fused": True}, {"amsgrad": True, "weight_decay": 0.1}, {"foreach": True}],
    ids=str,
)
def test_the_optimizer_is_that_of_torch(own, reference, settings):
    start, ended = torch.randn(5), []
    for kind in (own, reference):
        first, second = (nn.Parameter(start.clone()) for _ in range(2))
        optimizer = kind([{"params": [first], "lr": 0.2}, {"params": [second]}], lr=0.1, **settings)
        schedule, stepped = OneCycleLR(optimizer, [0.3, 0.1], total_steps=8), []
        optimizer.register_step_post_hook(lambda *_, stepped=stepped: stepped.append(1))
        for i in range(6):
            for p in (first, second):
                p.grad = p.detach() - 1
            optimizer.step()
            schedule.step()
            if i == 2:  # a checkpoint of the one is a checkpoint of the other
                loaded = reference([first], **settings) if kind is own else own([first], **settings)
                loaded.add_param_group({"params": [second]})
                loaded.load_state_dict(optimizer.state_dict())
        assert len(stepped) == 6
        ended.append(torch.stack([first, second]).detach())
    assert torch.equal(*ended)


def test_a_first_use_imports_neither_the_compiler_nor_sympy(tmp_path):
    """Seconds of a process: torch.optim imports the one, torch.broadcast_shapes the other."""
    code = """
import sys, torch, pyrovae as pv
torch.set_num_threads(1)
q = pv.posteriors.DiagonalNormal(torch.nn.Linear(6, 4))
vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(torch.nn.Linear(2, 6)))
x = torch.rand(64, 6).round()
settings = dict(validation=x, progress=False)
pv.fit(vae, x, epochs=1, checkpoint="fit.ckpt", **settings)
pv.fit(vae, x, epochs=2, resume="fit.ckpt", **settings)
pv.log_evidence(vae, x, samples=2)
pv.annealed_log_evidence(vae, x[:2], temperatures=2)
pv.impute(vae, x[:2], hidden=x[0] < 1)
pv.save(vae, "vae.safetensors")
print({"torch._dynamo", "sympy"} & set(sys.modules))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.stdout.strip() == "set()", found.stderr


def test_products_are_those_of_the_layers():
    x = torch.zeros(3, 2, 8, 8)
    with Products() as counted:
        nn.Conv2d(2, 5, 3)(x)
    assert counted.total == 3 * 5 * 6 * 6 * 2 * 9
    with Products() as counted:
        nn.ConvTranspose2d(2, 5, 3)(x)
    assert counted.total == x.numel() * 5 * 9
    with Products() as counted:
        nn.Linear(8, 7)(x) @ torch.zeros(7, 4)
    assert counted.total == 3 * 2 * 8 * (8 * 7 + 7 * 4)


class Last(nn.Module):
    """A recurrent layer over the rows."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(30, 4)

    def forward(self, x):
        return self.lstm(x)[0]


def test_products_by_keyword_and_of_layers_that_are_not_seen():
    x, layer = torch.zeros(4, 30), nn.Linear(30, 7)
    with Products() as counted:
        nn.functional.linear(input=x, weight=layer.weight)
        nn.LSTM(30, 5)(x)
    assert counted.total == 4 * 30 * 7

    q = pv.posteriors.DiagonalNormal(Last())
    graph = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 30)))
    svi = FusedSVI(graph, SGVB_B(), Optimization(Adam), (torch.zeros(8, 30),))
    assert svi.products == 8 * sum(parameter.numel() for parameter in graph.parameters())


@pytest.mark.parametrize(("width", "wanted"), [(8, 1), (2000, 3)])
def test_threads_follow_the_size_of_a_step(width, wanted):
    """64 rows times width squared: 256 million multiplications at a width of 2000."""
    before, seen = torch.get_num_threads(), []

    class Look(pv.hooks.Hook):
        def on_step(self, step):
            seen.append(torch.get_num_threads())

    def net(n, m):
        return nn.Sequential(nn.Linear(n, width), nn.Linear(width, width), nn.Linear(width, m))

    graph = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(nn.Linear(30, 4)),
        pv.likelihoods.Bernoulli(net(2, 30)),
    )
    torch.set_num_threads(3)
    try:
        pv.fit(graph, torch.rand(64, 30).round(), epochs=1, batch_size=64, hooks=Look())
        assert set(seen) == {wanted}
        assert torch.get_num_threads() == 3
        with threads_for(0):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
