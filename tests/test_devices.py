"""What runs on a GPU, held where there is none, by tensors that have a device but no values.

They refuse what mixes devices, and what makes a step wait for its device: reading a value.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import cases
import pyro
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import pyrovae as pv
from pyrovae import likelihoods, nets, objectives, posteriors, priors
from pyrovae.data import SparseRows
from pyrovae.programs import Layout

ROWS = 5


@contextmanager
def on_device(module: nn.Module) -> Iterator[nn.Module]:
    """Context in which tensors have no values, and a module's parameters and buffers are on a GPU.

    Nothing else that it holds is there.
    """
    new: dict[int, Tensor] = {}
    with pyro.validation_enabled(False), FakeTensorMode():
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        new.setdefault(id(tensor), _like(tensor))
                        tensors[name] = new[id(tensor)]
        yield module


def _like(tensor: Tensor) -> Tensor:
    there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
    return nn.Parameter(there) if isinstance(tensor, nn.Parameter) else there


def given(case: cases.Case) -> list[Tensor]:
    return [torch.empty(ROWS, *shape, device="cuda") for shape in case.given]


def test_what_waits_or_mixes_devices_is_seen():
    with on_device(nn.Linear(3, 1)) as net:
        with pytest.raises(Exception, match="_local_scalar_dense"):
            net.weight.sum().item()
        with pytest.raises(Exception, match="at least two devices, cuda:0 and cpu"):
            net.weight + torch.empty(3)


@pytest.mark.parametrize("case", cases.NETS, ids=str)
def test_every_network(case):
    with on_device(case.make()) as net:
        assert net(*given(case)).device.type == "cuda"


@pytest.mark.parametrize("case", cases.PARTS, ids=str)
def test_every_part(case):
    with on_device(case.make()) as part:
        p = part(*given(case))
        if case in cases.POSTERIORS:
            z = p.rsample() if p.has_rsample else p.sample()
        else:
            z = torch.empty(ROWS, *case.event, device="cuda")
        log_p = p.log_prob(z) if case.proper else z
        assert {z.device.type, log_p.device.type} == {"cuda"}


def vae() -> pv.VAE:
    q = posteriors.DiagonalNormal(nets.MLP(6, [8], 4))
    return pv.VAE(
        priors.Vamp(q, torch.empty(3, 6), low=0.0, high=1.0),
        q,
        likelihoods.Bernoulli(nets.MLP(2, [8], 6)),
    )


def counts() -> pv.CountVAE:
    return pv.graphs.count_vae(6, batches=3, library=([3.0] * 3, [0.4] * 3))


@pytest.mark.parametrize("make", [vae, counts])
@pytest.mark.parametrize(
    "objective",
    [
        objectives.SGVB_A(samples=2),
        objectives.SGVB_B(beta=objectives.warm_up(0.5)),
        objectives.FreeBits(0.1),
        objectives.IWAE(samples=3),
        objectives.Renyi(0.5, samples=3),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_the_loss_waits_for_nothing(monkeypatch, objective, make):
    depth = 1 if objective.samples > 1 or objective.needs_rows else 0
    layout = Layout(ROWS, objective.samples, depth) if depth else Layout(ROWS)
    monkeypatch.setattr(objective, "layout", lambda *_: layout)  # it is found from values
    with on_device(make()) as graph:
        columns = (6, 3) if make is counts else (6,)
        batch = [torch.empty(ROWS, n, device="cuda") for n in columns]
        bound = objective.bound(graph.model, graph.guide, *batch)
        terms = [objective.loss_of(bound, ROWS), bound.reconstruction, *bound.kl.values()]
        assert {term.device.type for term in terms} == {"cuda"}


def deep() -> pv.HierarchicalVAE:
    mlp = lambda a, b: nets.MLP(a, [8], b)  # noqa: E731
    p = priors.StandardNormal(2), priors.ConditionalNormal(mlp(2, 6))
    q = posteriors.DiagonalNormal(mlp(6, 6)), posteriors.DiagonalNormal(mlp(3, 4))
    return pv.HierarchicalVAE(*p, *q, likelihoods.Bernoulli(mlp(3, 6)))


def posed(**options) -> pv.PoseVAE:
    return pv.PoseVAE(
        priors.StandardNormal(2),
        posteriors.DiagonalNormal(nets.MLP((1, 8, 8), [8], 4) if options else nn.Linear(12, 4)),
        likelihoods.Bernoulli(nets.CoordinateDecoder(2, (1, 8, 8), [16])),
        shape=(1, 8, 8),
        encoder=nets.TurnedCopies(nets.MLP((1, 8, 8), [12], 12), 4),
        turn=nn.Linear(12, 1),
        rotation_prior=priors.UniformAngle(1),
        rotation_posterior=posteriors.WrappedNormal(nn.Linear(12, 2)),
        translation_prior=priors.CentredNormal(2, 0.1),
        translation_posterior=posteriors.DiagonalNormal(nn.Linear(12, 4)),
        scale_prior=priors.CentredNormal(1, 0.2),
        scale_posterior=posteriors.DiagonalNormal(nn.Linear(12, 2)),
        **options,
    )


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (deep, [(6,)]),
        (lambda: pv.BayesianVAE(*_parts(), data_size=100), [(6,)]),
        (lambda: pv.Denoising(pv.VAE(*_parts()), nn.Dropout(0.3)), [(6,)]),
        (lambda: pv.Missing(pv.VAE(*_parts())), [(6,), (6,)]),
        (posed, [(1, 8, 8)]),
        (lambda: posed(align=True, centre=True, pixels=9), [(1, 8, 8)]),
    ],
    ids=["hierarchical", "Bayesian", "denoising", "missing", "pose", "pose, aligned"],
)
def test_every_graph(make, shapes):
    objective = objectives.SGVB_B()
    with on_device(make()) as graph:
        batch = [torch.empty(ROWS, *shape, device="cuda") for shape in shapes]
        bound = objective.bound(graph.model, graph.guide, *batch)
        assert {term.device.type for term in (bound.reconstruction, *bound.kl.values())} == {"cuda"}


def _parts() -> tuple[nn.Module, ...]:
    q = posteriors.DiagonalNormal(nets.MLP(6, [8], 4))
    return priors.StandardNormal(2), q, likelihoods.Bernoulli(nets.MLP(2, [8], 6))


@pytest.mark.parametrize("rows", [torch.tensor([3, 0, 7]), slice(2, 9), slice(0, 0)], ids=str)
def test_the_size_of_sparse_rows_is_read_on_the_host(monkeypatch, rows):
    dense = torch.poisson(torch.full((20, 7), 0.4)).half()  # a type that SciPy does not read
    table = SparseRows.of(csr_matrix(dense.float().numpy()))
    there = SparseRows(table.indptr, table.indices, table.values.half(), columns=7).to("cpu")
    sizes, repeat = [], torch.repeat_interleave

    def repeated(lengths, output_size=None):
        sizes.append(output_size)
        return repeat(lengths, output_size=output_size)

    monkeypatch.setattr(torch, "repeat_interleave", repeated)
    assert torch.equal(there[rows], dense[rows])
    assert set(sizes) == {int((dense[rows] != 0).sum())}
    there._ends = None  # of a table that was made on a device
    assert torch.equal(there[rows], dense[rows])
