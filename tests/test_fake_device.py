"""A fit, and what is done with its result, on a GPU that is pretended; see `pretended_gpu.py`."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pretended_gpu import Gpu, OnGpu, pretended
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyrovae as pv
from pyrovae import likelihoods, nets, objectives, posteriors, priors, programs
from pyrovae.training import distributed, loop

X = torch.rand(70, 6, generator=torch.Generator().manual_seed(0)).round()
COUNTS = torch.poisson(torch.full((70, 6), 1.5), generator=torch.Generator().manual_seed(0))
BATCHES = torch.eye(3)[torch.arange(70) % 3]


@pytest.fixture
def gpu(monkeypatch) -> Iterator[Gpu]:
    with pretended(monkeypatch) as seen:
        yield seen


def with_likelihood(p: Callable[[nn.Module], nn.Module]) -> pv.VAE:
    torch.manual_seed(1)
    q = posteriors.DiagonalNormal(nets.MLP(6, [8], 4))
    return pv.VAE(priors.StandardNormal(2), q, p(nets.MLP(2, [8], 6)))


def vae() -> pv.VAE:
    return with_likelihood(likelihoods.Bernoulli)


def counts() -> pv.CountVAE:
    torch.manual_seed(1)
    return pv.graphs.count_vae(6, batches=3, library=([3.0] * 3, [0.4] * 3))


def bayesian() -> pv.BayesianVAE:
    inner = vae()
    return pv.BayesianVAE(inner.prior, inner.posterior, inner.likelihood, data_size=70)


def fitted(graph: Any, data: Any, **options: Any) -> tuple[pv.History, dict[str, Tensor]]:
    options = {"epochs": 2, "batch_size": 20, "seed": 0, "progress": False, **options}
    history = pv.fit(graph, data, **copy.deepcopy(options))
    history.seconds.clear()
    return history, {name: value.cpu() for name, value in graph.state_dict().items()}


def assert_same(one: Any, other: Any, exact: bool = True) -> None:
    close = {"rtol": 0, "atol": 0} if exact else {}
    torch.testing.assert_close(one[0].loss, other[0].loss, **close)
    torch.testing.assert_close(one[1], other[1], **close)


def on_both(monkeypatch, make: Callable[[], Any], data: Any, **options: Any) -> tuple[Any, ...]:
    """Return what a fit gives on the CPU and on the GPU, and what its steps there waited for."""
    on_cpu, in_steps, step = fitted(make(), data, **options), [], loop.Loop.step
    with monkeypatch.context() as patch, pretended(patch) as gpu:

        def watched(self, group):
            before = len(gpu.waits)
            step(self, group)
            in_steps.extend(gpu.waits[before:])

        patch.setattr(loop.Loop, "step", watched)
        return on_cpu, fitted(make().to("cuda"), data, **options), in_steps


def test_what_waits_or_mixes_devices_is_seen(gpu):
    x, mask = torch.ones(3, device="cuda"), torch.ones(3, device="cuda") > 0
    with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu"):
        x + torch.ones(3)
    with pytest.raises(TypeError, match="cuda:0 device type tensor"):
        x.numpy()
    for wait in (
        lambda: x.sum().item(),
        lambda: bool(mask.all()),
        lambda: x[mask],
        lambda: x[torch.tensor([0, 1])],
        lambda: mask.nonzero(),
        lambda: x.cpu(),
        lambda: torch.ones(3).to("cuda"),
        lambda: torch.tensor(1.0, device="cuda"),
        lambda: torch.distributions.Normal(x, 1.0, validate_args=False),
        x.tolist,
    ):
        wait()
        assert sum(gpu.counted().values()) == 1
    assert isinstance((x * 2 + 1).exp(), OnGpu)
    assert torch.ones(3).to("cuda", non_blocking=True).sum().device.type == "cuda"
    queued = x.to("cpu", non_blocking=True)
    assert queued.isnan().all()  # until an event says that the copy is made
    assert not gpu.waits


OPTIONS: list[dict[str, Any]] = [
    {},
    {"accumulate": 2},
    {"clip_norm": 0.3},
    {"clip_norm": "auto", "epochs": 4},
    {"accumulate": 3, "clip_norm": 0.3, "ema": 0.9},
    {"precision": "tf32", "freeze": "posterior"},
    {"transform": pv.batches.binarize},
    {"validation": X[:30], "patience": 1},
    {"optimizer": lambda p: torch.optim.AdamW(p, 0.01, fused=True)},
    {"scheduler": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 12)},
    {"objective": objectives.SGVB_A(samples=2, beta=objectives.warm_up(0.5))},
    {"objective": objectives.FreeBits(0.1)},
    {"objective": objectives.IWAE(3)},
    {"objective": objectives.DReG(3)},
    {"objective": objectives.Renyi(0.5, 3)},
    {"objective": objectives.ScoreFunction(2, objectives.RunningMean())},
    {"objective": objectives.ScoreFunction(2, objectives.LeaveOneOut())},
    {"objective": objectives.ReweightedWakeSleep(3, 0.5)},
    {"objective": objectives.WakeSleep()},
]


def named(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(
            type(each).__name__ if name == "objective" else name for name, each in value.items()
        )
    return getattr(value, "__name__", type(value).__name__)


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_a_fit_is_that_of_the_cpu_and_no_step_waits(monkeypatch, options):
    on_cpu, there, waits = on_both(monkeypatch, vae, X, **options)
    assert not waits
    assert_same(on_cpu, there, exact="clip_norm" not in options)  # a factor of 1, or none


def test_a_step_in_bfloat16_does_not_wait(monkeypatch):
    """The CPU's autocast does not see the pretended GPU, so that its results are in float32."""
    _, there, waits = on_both(monkeypatch, vae, X, precision="bf16")
    assert not waits
    assert_same(fitted(vae(), X), there)


class Rows(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Tensor:
        return X[i]


DATA = {
    "NumPy": X.numpy(),
    "bytes": X.byte(),
    "CSR": csr_matrix((X * (torch.arange(6) < 1)).numpy()),
    "data set": Rows(),
    "loader": DataLoader(TensorDataset(X), batch_size=20),
}


@pytest.mark.parametrize("kind", DATA)
def test_no_step_waits_for_its_data(monkeypatch, kind):
    on_cpu, there, waits = on_both(monkeypatch, vae, DATA[kind])
    assert not waits
    assert_same(on_cpu, there)


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (counts, (COUNTS, BATCHES)),
        (bayesian, X),
        (lambda: with_likelihood(likelihoods.Gaussian), X),
        (lambda: with_likelihood(lambda net: likelihoods.Gaussian(net, learned=True)), X),
        (lambda: with_likelihood(lambda net: likelihoods.Binomial(net, 4)), X),
        (lambda: with_likelihood(likelihoods.Poisson), COUNTS),
        (lambda: with_likelihood(likelihoods.ContinuousBernoulli), X / 2),
    ],
    ids=["counts", "Bayesian", "Gaussian", "learned", "Binomial", "Poisson", "continuous"],
)
def test_no_step_waits_in_a_graph(monkeypatch, make, data):
    (on_cpu, _), (there, _), waits = on_both(monkeypatch, make, data)
    assert not waits
    torch.testing.assert_close(on_cpu.loss, there.loss)  # counts have another path on a GPU


def test_an_epoch_waits_for_the_weights_once(monkeypatch, gpu):
    graph = programs.Programs(vae().to("cuda"))
    gpu.counted()
    assert graph.broken_parameter() is None
    assert sum(gpu.counted().values()) == 1
    with torch.no_grad():
        graph.graph.likelihood.net.layers[0].weight[0, 0] = torch.nan
    assert graph.broken_parameter() == "likelihood.net.layers.0.weight"


class Breaks(nn.Module):
    """A decoder whose gradient, and not its output, becomes infinite from a step on."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.net, self.step, self.calls = nn.Linear(2, 6), step, 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += self.training
        y = self.net(z)
        if self.calls >= self.step and y.requires_grad:
            y.register_hook(lambda gradient: gradient * torch.inf)
        return y


def test_a_gradient_that_is_not_finite_is_that_of_its_step(monkeypatch):
    def words(device: str) -> str:
        graph = vae()
        graph.likelihood.net = Breaks(step=7)
        with pytest.raises(pv.TrainingError, match="step 3 of epoch 2: the norm of") as error:
            fitted(graph.to(device), X, clip_norm=1.0)
        return str(error.value)

    on_cpu = words("cpu")
    with monkeypatch.context() as patch, pretended(patch):
        assert words("cuda") == on_cpu


@pytest.mark.parametrize("data", [Rows(), DataLoader(TensorDataset(X), batch_size=20)], ids=named)
def test_values_off_the_support_have_the_same_error(monkeypatch, data):
    def words(device: str) -> str:
        with pytest.raises(ValueError, match="expected x to hold") as error:
            fitted(vae().to(device), data)
        return str(error.value)

    X[65, 2] = 0.5
    try:
        on_cpu = words("cpu")
        with monkeypatch.context() as patch, pretended(patch):
            assert words("cuda") == on_cpu
    finally:
        X[65, 2] = 0.0


def test_grey_levels_that_are_no_probabilities_are_refused(gpu):
    drawn = pv.batches.binarize(torch.tensor([[0.0, 1.0, 1 + 1e-7, -0.1, 255.0]]).to("cuda"))
    assert drawn.cpu().isnan().tolist() == [[False, False, False, True, True]]
    with pytest.raises(ValueError, match="nan"):
        fitted(vae().to("cuda"), 255 * X, transform=pv.batches.binarize)


@pytest.mark.parametrize("options", [{}, {"clip_norm": "auto"}], ids=named)
def test_a_checkpoint_of_either_device_continues_on_the_other(monkeypatch, tmp_path, options):
    for ended, resumed in (("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")):
        whole, path = fitted(vae(), X, epochs=4, **options), tmp_path / f"{ended} {resumed}"
        with monkeypatch.context() as patch, pretended(patch):
            fitted(vae().to(ended), X, checkpoint=path, **options)
            again = fitted(vae().to(resumed), X, epochs=4, resume=path, **options)
        assert_same(whole, again, exact=not options)


def test_a_model_is_saved_from_a_gpu(gpu, tmp_path):
    graph = vae().to("cuda")
    pv.save(graph, tmp_path / "model")
    kept = pv.load(tmp_path / "model").state_dict()
    assert_same([pv.History(), kept], [pv.History(), fitted_state(graph)])


def fitted_state(graph: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in graph.state_dict().items()}


JOBS: dict[str, Callable[..., Any]] = {
    "log_evidence": lambda g, x: pv.log_evidence(g, x, samples=20),
    "naive": lambda g, x: pv.naive_log_evidence(g, x, samples=20),
    "elbo": lambda g, x: pv.elbo(g, x, samples=3),
    "annealed": lambda g, x: pv.annealed_log_evidence(
        g, x[:4], samples=2, temperatures=3, leapfrog=2
    ),
    "reciprocal": lambda g, x: pv.reciprocal_log_evidence(g, x[:4], samples=4, moves=2, leapfrog=2),
    "kl": pv.kl_per_dimension,
    "active": pv.active_units,
    "mutual_information": pv.mutual_information,
    "embed": pv.embed,
    "decode": lambda g, x: pv.decode(g, x[:, :2]),
    "reconstruct": pv.reconstruct,
    "generate": lambda g, x: pv.generate(g, 5, seed=0),
    "manifold": lambda g, x: pv.manifold(g, steps=3),
    "interpolate": lambda g, x: pv.interpolate(g, x[0], x[1], steps=3),
    "anomaly_score": pv.anomaly_score,
    "impute": lambda g, x: pv.impute(g, x, hidden=x > 0, draws=4, samples=16, steps=5, seed=0).mean,
}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")
@pytest.mark.filterwarnings("ignore::pyrovae.RestorationWarning")
def test_what_is_done_with_a_graph_is_that_of_the_cpu(monkeypatch, job):
    on_cpu = JOBS[job](vae(), X[:12])
    with monkeypatch.context() as patch, pretended(patch):
        graph = vae().to("cuda")
        for x in (X[:12], X[:12].to("cuda")):
            found = JOBS[job](graph, x)
            parts = found if isinstance(found, tuple) else [found]
            there = [part.cpu() if isinstance(part, Tensor) else part for part in parts]
            wanted = list(on_cpu) if isinstance(on_cpu, tuple) else [on_cpu]
            torch.testing.assert_close(there, wanted, equal_nan=True)


def test_streams_of_other_gpus_are_left_alone(monkeypatch, gpu):
    """A graph begins the streams of the CPU and of its own GPU, and puts them back."""
    (own, other), graph, there = (torch.Generator(), torch.Generator()), vae(), vae().to("cuda")
    own.manual_seed(3)
    states = [torch.get_rng_state(), own.get_state(), other.get_state()]
    monkeypatch.setattr(torch.cuda, "default_generators", (own, other))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: own.get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, *_: own.set_state(state))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: other.manual_seed(seed))
    with programs.evaluation(there, seed=5):
        assert (torch.initial_seed(), own.initial_seed()) == (5, 5)
    with programs.evaluation(graph, seed=5):
        assert own.initial_seed() == 3
    pv.manifold(there, steps=2)
    now = [torch.get_rng_state(), own.get_state(), other.get_state()]
    assert [torch.equal(*pair) for pair in zip(now, states, strict=True)] == [True] * 3


def test_a_graph_that_shows_no_parameters_may_draw_on_any_gpu(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert programs.cuda_devices(object()) == [0, 1]
    assert programs.cuda_devices(nn.Module()) == [0, 1]
    assert programs.cuda_devices(vae()) == []
    assert programs.cuda_devices(vae().to("cuda")) == [0]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert programs.cuda_devices(object()) == []


def test_two_processes_on_one_gpu_are_refused(monkeypatch, gpu):
    group = distributed.Processes()
    group.size = 2
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: type("P", (), {"uuid": i}))
    for others, refused in ((["0"], True), (["1"], False), ([], False)):
        monkeypatch.setattr(group, "gathered", lambda own, others=others: [own, others])
        weights = [torch.zeros(2, device="cuda")]
        assert distributed._gpus([*weights, torch.zeros(2)]) == {"0"}
        if refused:
            with pytest.raises(ValueError, match="processes 0 and 1 are on the same GPU"):
                group._check_gpus(weights)
        else:
            group._check_gpus(weights)
