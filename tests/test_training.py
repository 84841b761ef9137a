"""`fit`: it trains, resumes bit for bit, stops in time; errors are named and nothing is lost."""

import copy
import functools
import math
import os
import signal
import threading
import time
from pathlib import Path

import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae import programs
from pyrovae.command.report import plots
from pyrovae.files import History, checkpoint, in_words
from pyrovae.objectives import (
    IWAE,
    SGVB_A,
    SGVB_B,
    MonteCarloEM,
    Renyi,
    RunningMean,
    ScoreFunction,
    warm_up,
)
from pyrovae.training.batchnorm import recompute_batchnorm
from pyrovae.training.interrupts import graceful_interrupt

quiet = functools.partial(pv.fit, progress=False)
HANDLERS = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]


def small_vae(net=None, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return pv.VAE(
            pv.priors.StandardNormal(2),
            pv.posteriors.DiagonalNormal(net or pv.nets.MLP(6, [8], 4)),
            pv.likelihoods.Bernoulli(pv.nets.MLP(2, [8], 6)),
        )


def binary(n=50, seed=0):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def equal(a, b):
    return all(
        torch.equal(u, v)
        for u, v in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# ------------------------------------------------------------------------------------- it trains
def test_a_linear_vae_reaches_the_evidence_that_eigenvalues_give():
    """The linear VAE's optimal bound is pPCA's maximum likelihood (Dai et al. 2018)."""
    x, graph = linear_gaussian.data(500), linear_gaussian.vae(sigma=0.5)
    optimizer = functools.partial(torch.optim.Adam, lr=0.02)
    decay = functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=250)
    quiet(graph, x, epochs=250, batch_size=100, optimizer=optimizer, scheduler=decay, seed=0)
    bound = pv.elbo(graph, x, samples=50).elbo.mean().item()
    best = linear_gaussian.maximum_evidence(x, latents=2, sigma=0.5)
    assert bound < best + 0.02  # 50 draws a row: Monte Carlo error
    assert bound > best - 0.05


@pytest.mark.parametrize(
    "objective",
    [
        SGVB_A(),
        SGVB_B(),
        SGVB_B(samples=3),
        Trace_ELBO(),
        TraceMeanField_ELBO(),
        RenyiELBO(alpha=0.5, num_particles=2),
    ],
)
def test_any_elbo_of_ours_or_pyros_trains(objective):
    graph, before = small_vae(), small_vae()
    history = quiet(graph, binary(), epochs=2, objective=objective)
    assert not equal(graph, before)
    assert all(map(torch.isfinite, map(torch.tensor, history.loss)))


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.Adagrad,
        torch.optim.Adamax,
        functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    ],
)
def test_any_torch_optimizer_trains(optimizer):
    graph, x = small_vae(), binary()
    before = pv.elbo(graph, x, samples=50).elbo.mean()
    quiet(graph, x, epochs=30, batch_size=10, optimizer=optimizer)
    assert pv.elbo(graph, x, samples=50).elbo.mean() > before + 0.1


def test_fit_is_bare_svi_at_equal_seed():
    """One epoch of one batch: the same weights as SVI with TraceMeanField_ELBO on the mean loss."""
    a, b, x = small_vae(), small_vae(), binary()
    quiet(
        a, x, epochs=1, batch_size=50, seed=5, optimizer=functools.partial(torch.optim.SGD, lr=0.5)
    )
    torch.manual_seed(5)
    svi = pyro.infer.SVI(b.model, b.guide, pyro.optim.SGD({"lr": 0.5 / 50}), TraceMeanField_ELBO())
    svi.step(x)
    for u, v in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(u, v, rtol=1e-4, atol=1e-6)


def test_a_graph_of_the_users_that_is_no_module_trains():
    class Line:
        def model(self, x):
            m = pyro.param("m", torch.zeros(()))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(m, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x):
            a = pyro.param("a", torch.zeros(()))
            s = pyro.param("s", torch.ones(()), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(a + 0.5 * x, s))

    line = Line()
    x = 3 + torch.randn(400)
    quiet(line, x, epochs=60, batch_size=50, optimizer=functools.partial(torch.optim.Adam, lr=0.05))
    assert pyro.param("m").item() == pytest.approx(x.mean().item(), abs=0.15)


def test_context_reaches_every_part_that_wants_it():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, c):
            return dist.Normal(self.net(c), 1.0).to_event(1)

    graph = pv.VAE(
        Shifted(),
        pv.posteriors.DiagonalNormal(pv.nets.MLP(6 + 3, [], 4)),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2 + 3, [], 6)),
    )
    before = [p.clone() for p in graph.parameters()]
    c = torch.eye(3)[torch.arange(50) % 3]
    quiet(graph, (binary(), c), validation=(binary(10), c[:10]), epochs=1)
    assert all(not torch.equal(p, q) for p, q in zip(before, graph.parameters(), strict=True))
    assert pv.log_evidence(graph, binary(4), c[:4], samples=7).log_p.shape == (4,)
    assert pv.generate(graph, 4, c[:4]).shape == (4, 6)


def test_last_batch_of_one_row_joins_the_one_before():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    history = quiet(small_vae(net), binary(21), epochs=2, batch_size=10)
    assert history.stopped == "all epochs ran"


def test_mean_loss_so_that_the_step_does_not_depend_on_the_batch_size():
    """Every row twice: the same gradient. A sum would double it."""
    graphs = small_vae(), small_vae()
    for graph, x in zip(graphs, (binary(10), binary(10).repeat(2, 1)), strict=True):
        # Var of the noise apart: a posterior of zero width
        with torch.no_grad():
            graph.posterior.net.layers[-1].bias[2:] = -30.0
            graph.posterior.net.layers[-1].weight[2:] = 0.0
        quiet(
            graph, x, epochs=1, batch_size=20, optimizer=functools.partial(torch.optim.SGD, lr=0.1)
        )
    for u, v in zip(graphs[0].parameters(), graphs[1].parameters(), strict=True):
        torch.testing.assert_close(u, v, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------- no side effects
def test_the_global_state_is_left_alone():
    graph, x = small_vae().eval(), binary()
    state, validation = torch.get_rng_state(), pyro.settings.get("validate_poutine")
    handler = signal.getsignal(signal.SIGINT)
    quiet(graph, x, epochs=1, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert validation == pyro.settings.get("validate_poutine")
    assert not graph.training
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_bound_that_is_no_elbo_is_called_by_its_name():
    """The remainder of an importance weighted bound is not a KL, and may be negative."""
    names = {"ELBO": SGVB_B(), "L_K": IWAE(samples=3), "L_alpha": Renyi(alpha=0.5)}
    for name, objective in names.items():
        history = quiet(small_vae(), binary(), epochs=1, objective=objective)
        assert history.bound_name == name
        assert History.from_dict(history.to_dict()).bound_name == name
        titles = [axis.get_title() for axis in plots.curves(history).axes]
        assert titles[0] == name
        assert ("KL(q(z | x) || p(z))" in titles) == (name == "ELBO")
        words = in_words(history.bound_name, history.reconstruction[0], history.kl[0])
        assert words.startswith(f"{name} {history.elbo[0]:.2f}")
        assert ("KL" in words) == (name == "ELBO")


def test_the_global_seed_makes_a_fit_reproducible():
    pair = []
    for _ in range(2):
        torch.manual_seed(9)
        pair.append(small_vae())
        quiet(pair[-1], binary(), epochs=2)
    assert equal(*pair)


# ----------------------------------------------------------------------------- resume, interrupt
SETTINGS = dict(epochs=6, batch_size=8, seed=3, clip_norm=5.0)
OPTIMIZERS = {
    "adam": dict(),
    "adagrad": dict(optimizer=torch.optim.Adagrad),
    "scheduled": dict(
        scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    ),
    "plateau": dict(
        scheduler=functools.partial(
            torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5
        )
    ),
    "warm": dict(objective=SGVB_B(beta=warm_up(0.5))),
    "binarized": dict(transform=pv.batches.binarize),
    "running mean": dict(objective=ScoreFunction(baseline=RunningMean())),
    "EM": dict(objective=MonteCarloEM(leapfrog=2)),
}


def batchnorm():
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 4)
    )


def test_grey_data_train_through_binarization_and_not_without():
    grey = torch.rand(40, 6)
    history = quiet(small_vae(), grey, epochs=2, transform=pv.batches.binarize)
    assert history.stopped == "all epochs ran"
    with pytest.raises(ValueError, match="binarize"):
        quiet(small_vae(), grey, epochs=1)
    for raw in (255 * grey, (255 * grey).byte()):
        with pytest.raises(ValueError, match=r"binarize: x has values from .* 255 for bytes"):
            quiet(small_vae(), raw, epochs=1, transform=pv.batches.binarize)


@pytest.mark.parametrize("extra", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_stop_at_k_and_resume_equals_never_stopping(tmp_path, extra):
    torch.manual_seed(0)
    a, x, held_out = small_vae(batchnorm()), binary(), binary(20, seed=1)
    torch.manual_seed(0)
    b = small_vae(batchnorm())
    torch.manual_seed(0)
    c = small_vae(batchnorm())
    extra = [copy.deepcopy(extra) for _ in range(3)]  # an objective may learn as it goes
    whole = quiet(a, x, validation=held_out, **SETTINGS, **extra[0])
    file = tmp_path / "state"
    quiet(
        b,
        x,
        validation=held_out,
        checkpoint=file,
        callback=lambda history: len(history.loss) == 3,
        **SETTINGS,
        **extra[1],
    )
    torch.manual_seed(
        77
    )  # resuming must not depend on the process's random state, nor on the weights it starts from
    rest = quiet(c, x, validation=held_out, resume=file, **SETTINGS, **extra[2])
    assert equal(a, c)
    assert whole.elbo == rest.elbo
    assert whole.validation_elbo == rest.validation_elbo
    assert (whole.best_epoch, whole.beta) == (rest.best_epoch, rest.beta)


class Plain:
    """A graph that is no module: Pyro's store has its parameters, but no buffers."""

    def __init__(self):
        self.net, self.decoder = batchnorm(), nn.Linear(2, 6)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).expand([len(x), 2]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("net", self.net)
        with pyro.plate("rows", len(x)):
            mu, log_sigma = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mu, log_sigma.exp()).to_event(1))

    def state(self):
        return [*self.net.state_dict().values(), *self.decoder.state_dict().values()]


@pytest.mark.filterwarnings("ignore:Found plate statements in guide")
def test_buffers_of_a_graph_that_is_no_module_are_resumed(tmp_path):
    states = []
    for stop, resume in ((None, None), (3, None), (None, tmp_path / "state")):
        pyro.clear_param_store()
        torch.manual_seed(0)
        graph = Plain()
        quiet(
            graph,
            binary(),
            validation=binary(20, seed=1),
            checkpoint=tmp_path / "state" if stop else None,
            resume=resume,
            callback=lambda history, stop=stop: len(history.loss) == stop,
            **SETTINGS,
        )
        states.append(graph.state())
    whole, stopped, resumed = states
    assert all(map(torch.equal, whole, resumed))
    assert not all(map(torch.equal, whole, stopped))


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_in_mid_epoch_leaves_a_usable_graph_and_resumes_exactly(tmp_path, number, word):
    whole, cut, file = small_vae(), small_vae(), tmp_path / "state"
    quiet(whole, binary(), **SETTINGS)
    steps = []

    def transform(x):
        steps.append(len(x))
        if len(steps) == 18:  # the check takes the first call; 7 steps an epoch: in the third
            assert signal.getsignal(number) not in HANDLERS
            os.kill(os.getpid(), number)
        return x

    history = quiet(cut, binary(), transform=transform, checkpoint=file, **SETTINGS)
    assert history.stopped == word
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == HANDLERS
    assert len(history.loss) == 2
    assert torch.isfinite(pv.elbo(cut, binary()).elbo).all()
    resumed = small_vae(seed=4)
    history = quiet(resumed, binary(), transform=lambda x: x, resume=file, **SETTINGS)
    assert history.stopped == "all epochs ran"
    assert equal(whole, resumed)


def test_sigterm_is_left_to_its_own_handler_and_in_a_job_to_the_default():
    """A worker of `torchrun` that waits for a dead one must still be ended by it."""
    with graceful_interrupt(alone=False):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    own = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with graceful_interrupt():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, own)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_sigterm_ends_a_process_that_was_forked_during_a_fit():
    reader, writer = os.pipe()
    with graceful_interrupt() as asked:
        child = os.fork()
        if not child:
            os.write(writer, b".")  # Python forgets signals that come within the fork itself
            time.sleep(30)
            os._exit(0)
        os.read(reader, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert not asked.word


def test_fit_in_another_thread_works_without_a_signal_handler():
    graph, result = small_vae(), []
    thread = threading.Thread(target=lambda: result.append(quiet(graph, binary(), epochs=1)))
    thread.start()
    thread.join()
    assert result[0].stopped == "all epochs ran"


BEFORE = dict(objective=SGVB_B(beta=warm_up(0.5)), scheduler=OPTIMIZERS["scheduled"]["scheduler"])
OTHERS = {  # what differs in the continued fit: the graph, the data, arguments
    "data": (small_vae, binary(seed=5), {}),
    "batch_size": (small_vae, binary(), {"batch_size": 16}),
    "graph": (lambda: small_vae(pv.nets.MLP(6, [9], 4)), binary(), {}),
    "optimizer": (small_vae, binary(), {"optimizer": torch.optim.SGD}),
    "optimizer's options": (
        small_vae,
        binary(),
        {"optimizer": functools.partial(torch.optim.Adam, lr=0.01)},
    ),
    "scheduler": (small_vae, binary(), {"scheduler": None}),
    "scheduler: gamma": (
        small_vae,
        binary(),
        {"scheduler": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.1)},
    ),
    "objective": (small_vae, binary(), {"objective": SGVB_A(beta=warm_up(0.5))}),
    "objective's samples": (small_vae, binary(), {"objective": SGVB_B(3, beta=warm_up(0.5))}),
    "clip_norm": (small_vae, binary(), {"clip_norm": None}),
    "number of validation rows": (small_vae, binary(), {"validation": binary(10)}),
}


def interrupted_fit(file, **extra):
    stop = {"callback": lambda history: len(history.loss) == 2}
    return quiet(small_vae(), binary(), checkpoint=file, **SETTINGS | BEFORE | stop | extra)


def everything(graph):
    store = pyro.get_param_store()
    params = [store[name].detach().clone() for name in sorted(store.keys())]
    return [
        *(value.clone() for value in graph.state_dict().values()),
        torch.get_rng_state(),
        *params,
    ]


def refused(match, graph, x, file, **extra):
    """Resuming is refused, and the graph, the store and the random stream are as they were."""
    before = everything(graph)
    with pytest.raises(pv.FileError, match=match) as caught:
        quiet(graph, x, resume=file, **SETTINGS | BEFORE | extra)
    assert str(file) in str(caught.value)
    after = everything(graph)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("what", OTHERS)
def test_resuming_something_else_is_refused(tmp_path, what):
    interrupted_fit(tmp_path / "state")
    make, x, extra = OTHERS[what]
    refused(
        f"resume: the checkpoint is of a fit with another {what}",
        make(),
        x,
        tmp_path / "state",
        **extra,
    )


@pytest.mark.filterwarnings("ignore:Found plate statements in guide")
def test_a_refusal_leaves_nothing_in_pyros_store(tmp_path):
    plain = {"objective": None, "scheduler": None}
    interrupted_fit(tmp_path / "state", **plain)
    with pytest.raises(pv.FileError, match="another graph"):
        quiet(Plain(), binary(), resume=tmp_path / "state", **SETTINGS)
    assert list(pyro.get_param_store().keys()) == []


def test_an_optimizer_at_hand_is_left_alone_by_a_refusal(tmp_path):
    """The state of the optimizer was loaded before the rest was compared."""
    interrupted_fit(tmp_path / "state")
    graph = small_vae(pv.nets.MLP(6, [9], 4))
    own = torch.optim.Adam(graph.parameters(), lr=1e-3, fused=True)
    refused("another graph", graph, binary(), tmp_path / "state", optimizer=lambda _: own)
    assert not own.state_dict()["state"]


def test_more_epochs_may_not_make_the_weight_of_the_kl_jump(tmp_path):
    interrupted_fit(tmp_path / "state")
    refused(
        "would jump from .* Pass epochs=6", small_vae(), binary(), tmp_path / "state", epochs=12
    )
    constant = {"objective": None, "scheduler": None}
    interrupted_fit(tmp_path / "constant", **constant)
    again = {"resume": tmp_path / "constant", "epochs": 8}
    history = quiet(small_vae(), binary(), **SETTINGS | BEFORE | constant | again)
    assert len(history.loss) == 8


def test_a_fit_that_patience_ended_stays_ended(tmp_path):
    """It trained on when it was resumed, as if it had been interrupted."""
    plan = dict(epochs=200, batch_size=4, patience=3, seed=3, validation=binary(30, seed=1))
    plan["optimizer"] = functools.partial(torch.optim.Adam, lr=0.05)
    whole = small_vae()
    history = quiet(whole, binary(12), checkpoint=tmp_path / "state", **plan)
    assert "no better validation" in history.stopped
    again = small_vae(seed=4)
    assert quiet(again, binary(12), resume=tmp_path / "state", **plan) == history
    assert equal(whole, again)


@pytest.mark.parametrize("name", ["folder", "file/below", "x" * 300, ""])
def test_a_checkpoint_that_cannot_be_written_is_refused_before_training(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text("old")
    graph, epochs = small_vae(), []
    before = everything(graph)
    with pytest.raises(OSError, match=f"fit: checkpoint is '/.*{name}': .* (folder|cannot)"):
        quiet(graph, binary(), checkpoint=name, callback=epochs.append, **SETTINGS)
    assert epochs == []
    assert all(torch.equal(a, b) for a, b in zip(before, everything(graph), strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_missing_truncated_or_foreign_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        quiet(small_vae(), binary(), epochs=1, resume=tmp_path / "none")
    file = tmp_path / "state"
    quiet(small_vae(), binary(), epochs=1, checkpoint=file)
    content = file.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"\x80\x04pickle"):
        file.write_bytes(broken)
        refused("truncated or not a checkpoint", small_vae(), binary(), file)


def test_a_checkpoint_with_one_changed_bit_is_refused(tmp_path):
    file = tmp_path / "state"
    interrupted_fit(file)
    content = file.read_bytes()
    for at in (-1, -1000, len(content) // 2, 300):
        damaged = bytearray(content)
        damaged[at] ^= 1
        file.write_bytes(damaged)
        refused("state", small_vae(), binary(), file)


def changed_state(file, change):
    state = checkpoint.read(file)
    change(state)
    checkpoint.write(file, state)


EDITS = {
    "position": lambda state: state.update(position=10**6),
    "history": lambda state: state.update(history={"loss": [1.0]}),
    "seed": lambda state: state["history"].update(seed="x"),
    "random": lambda state: state["random"].update(cpu=torch.zeros(3, dtype=torch.uint8)),
    "sums": lambda state: state.update(sums=[1.0, "x", 2.0, 3.0]),
    "weights": lambda state: state["weights"].popitem(),
    "best": lambda state: state.update(best={"x": torch.zeros(1)}),
    "slots": lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(2, 2)),
    "slot": lambda state: state["optimizer"]["state"][3].update(exp_avg=None),
    "groups": lambda state: state["optimizer"].update(param_groups=[]),
    "betas": lambda state: state["optimizer"]["param_groups"][0].update(betas=[None, 0.9]),
    "maximize": lambda state: state["optimizer"]["param_groups"][0].update(maximize=0),
    "fused": lambda state: state["optimizer"]["param_groups"][0].update(fused="x"),
    "lr": lambda state: state["optimizer"]["param_groups"][0].update(lr="x"),
    "last_epoch": lambda state: state["scheduler"].pop("last_epoch"),
    "objective": lambda state: state.update(objective={"x": 1.0}),
    "lengths": lambda state: state.update(lengths=[[8, -1]]),
    "another length": lambda state: state["lengths"][0].reverse(),
    "unknown": lambda state: state.update(further=1),
    "missing": lambda state: state.pop("random"),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_a_checkpoint_that_does_not_fit_itself_or_the_fit_is_refused(tmp_path, change):
    """Whoever computed the digest again may change numbers, and not break the fit."""
    file = tmp_path / "state"
    interrupted_fit(file)
    changed_state(file, change)
    refused("state", small_vae(), binary(), file)


# -------------------------------------------------------------------- validation, early stopping
def test_the_best_weights_are_put_back():
    graph = small_vae()
    history = quiet(
        graph,
        binary(12),
        validation=binary(30, seed=1),
        epochs=60,
        batch_size=4,
        optimizer=functools.partial(torch.optim.Adam, lr=0.05),
    )
    assert history.best_epoch < 60
    objective = SGVB_B()
    with programs.evaluation(graph):
        rec, kl = objective.bound(graph.model, graph.guide, binary(30, seed=1)).numbers()
    assert (rec - kl) / 30 == pytest.approx(max(history.validation_elbo), rel=1e-6)


def test_early_stopping_counts_from_the_best_epoch():
    history = quiet(
        small_vae(),
        binary(12),
        validation=binary(30, seed=1),
        epochs=200,
        batch_size=4,
        patience=3,
        optimizer=functools.partial(torch.optim.Adam, lr=0.05),
    )
    assert history.stopped == "no better validation ELBO for 3 epochs"
    assert len(history.loss) == history.best_epoch + 3


def test_early_stopping_never_falls_into_the_warm_up():
    history = quiet(
        small_vae(), binary(12), validation=binary(30, seed=1), epochs=40, batch_size=4, patience=1,
        optimizer=functools.partial(torch.optim.Adam, lr=0.1), objective=SGVB_B(beta=warm_up(0.8)),
    )  # fmt: skip
    assert history.best_epoch > 0.8 * 40
    assert history.beta[history.best_epoch - 1] == 1.0


def test_validation_is_at_beta_one_and_repeats():
    graphs = small_vae(), small_vae()
    histories = [
        quiet(
            graph,
            binary(),
            validation=binary(20, seed=1),
            epochs=1,
            optimizer=functools.partial(torch.optim.SGD, lr=0.0),
            objective=SGVB_B(beta=beta),
        )
        for graph, beta in zip(graphs, (1.0, 7.0), strict=True)
    ]
    assert histories[0].validation_elbo == histories[1].validation_elbo


# ------------------------------------------------------------------------------------ divergence
def test_a_nan_names_step_site_and_rows_and_gives_back_the_last_good_weights():
    class Breaks(nn.Module):
        """Puts out NaN for one datum from the third epoch on."""

        calls = 0

        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 4)

        def forward(self, x):
            out = self.net(x)
            if self.training:
                self.calls += 1
            marked = (x.sum(-1, keepdim=True) == 6) & (self.calls > 10)
            return torch.where(marked, torch.nan, out)

    x = binary()
    x[x.sum(1) == 6] = 0
    x[17] = 1
    graph = small_vae(Breaks())
    kept = []
    with pytest.raises(
        pv.TrainingError,
        match=r'the loss is nan: site "z" of the guide.*which are rows \[17\] of the data',
    ) as error:
        quiet(
            graph,
            x,
            epochs=9,
            batch_size=10,
            callback=lambda _: kept.append([p.clone() for p in graph.parameters()]) and None,
        )
    assert "[17]" in str(error.value)
    assert "step" in str(error.value)
    assert len(error.value.history.loss) == 2
    assert all(torch.equal(p, q) for p, q in zip(kept[-1], graph.parameters(), strict=True))


def test_a_validation_row_without_a_density_ends_the_fit_and_is_named():
    """No validation ELBO is above NaN: if kept, that epoch would stay the best one."""

    class Tires(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += not self.training
            return torch.where(
                (x.sum(-1, keepdim=True) == 6) & (self.calls > 8), torch.nan, super().forward(x)
            )

    held_out = binary(20, seed=1)
    held_out[:, 0], held_out[7] = 0, 1
    graph = small_vae(Tires(6, 4))
    with pytest.raises(
        pv.TrainingError,
        match=r"validation ELBO.*rows \[7\] of the validation data.*weights of epoch",
    ) as error:
        quiet(graph, binary(), epochs=9, validation=held_out)
    assert 0 < len(error.value.history.loss) < 9
    assert all(map(math.isfinite, error.value.history.validation_elbo))
    assert all(torch.isfinite(p).all() for p in graph.parameters())


def test_weights_that_overflow_are_named_and_not_kept():
    graph = small_vae()
    with pytest.raises(pv.TrainingError, match=r"parameter .* is not finite|the loss is"):
        quiet(
            graph,
            binary(),
            epochs=5,
            batch_size=10,
            optimizer=functools.partial(torch.optim.SGD, lr=1e38),
        )
    assert all(torch.isfinite(p).all() for p in graph.parameters())


# ------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.full((4, 6), 0.5), r"Bernoulli.*0\.5 at row 0"),
        (torch.full((4, 6), torch.nan), r"nan in row 0, position \(0,\)"),
        (torch.zeros(0, 6), "at least one row"),
        (torch.zeros(4, 5), "shape"),
        (torch.zeros(6), r"of one row alone give x\[None\], of a list of rows torch\.stack"),
        ((torch.zeros(4, 6), torch.zeros(3, 2)), "context 1 has 3 rows, x has 4"),
    ],
)
def test_data_are_refused_before_training(x, words):
    graph, before = small_vae(), small_vae()
    with pytest.raises(ValueError, match=words):
        quiet(graph, x, epochs=1)
    assert equal(graph, before)


@pytest.mark.parametrize(
    "bad",
    [
        dict(epochs=0),
        dict(batch_size=0),
        dict(patience=2),
        dict(clip_norm=0.0),
        dict(validation=torch.zeros(3, 5)),
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_settings_are_refused_before_training(bad):
    with pytest.raises(ValueError, match=r"expected|validation"):
        quiet(small_vae(), binary(), **{"epochs": 1, **bad})


class Sized(torch.utils.data.Dataset):
    """Images, each of its own size."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.zeros(i + 1)


class Unstacked(Sized):
    """Items that are no tensors."""

    def __getitem__(self, i):
        return object()


class Endless(torch.utils.data.Dataset):
    """Without a length."""

    def __getitem__(self, i):
        return torch.zeros(6)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (Sized(), {}, r"items of the Sized cannot be stacked .*Resize and ToTensor"),
        (Unstacked(), {}, "items of the Unstacked cannot be stacked"),
        (Endless(), {}, "Endless has no length"),
        ({"x": torch.zeros(4, 6)}, {}, r"dictionary with the keys \['x'\], expected x"),
        (torch.zeros(4, 6), {"callback": "print"}, "callback is a str"),
        (torch.zeros(4, 6), {"batch_transform": lambda x: None}, "batch_transform returned a None"),
        (torch.zeros(4, 6), {"objective": pv.objectives.IWAE}, "such as SGVB_B"),
        (torch.zeros(4, 6), {"objective": pyro.infer.Trace_ELBO}, "such as SGVB_B"),
    ],
)
def test_what_is_of_another_kind_is_refused_by_name(data, options, words):
    with pytest.raises(TypeError, match=words):
        quiet(small_vae(), data, epochs=1, **options)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: pv.nets.MLP(6, 8, 4), TypeError, r"hidden is 8 .* as in MLP\(784, \[500\], 20\)"),
        (lambda: pv.nets.MLP(6, 4, [8]), TypeError, r"features_out \[8\]"),
        (
            lambda: of_parts(prior=pv.priors.StandardNormal),
            TypeError,
            "prior is the class Standard",
        ),
        (lambda: of_parts(prior=None), TypeError, "prior is None, expected an object"),
        (lambda: of_parts(prior=pv.priors.StandardNormal(5)), ValueError, r"\(5,\) .* drew \(2,\)"),
        (lambda: of_parts(prior=pv.priors.StandardNormal(1)), ValueError, "the same dimensions"),
        (
            lambda: of_parts(likelihood=torch.nn.Linear(2, 6)),
            TypeError,
            "A network alone is no part: wrap",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(make, kind, words):
    with pytest.raises(kind, match=words) as found:
        quiet(make(), binary(), epochs=1)
    assert "Trace Shapes" not in str(found.value)


def of_parts(**parts):
    own = {
        "prior": pv.priors.StandardNormal(2),
        "posterior": pv.posteriors.DiagonalNormal(torch.nn.Linear(6, 4)),
        "likelihood": pv.likelihoods.Bernoulli(torch.nn.Linear(2, 6)),
    }
    return pv.VAE(**own | parts)


def test_a_class_is_no_graph():
    with pytest.raises(TypeError, match="graph is the class VAE, expected an object"):
        quiet(pv.VAE, binary(), epochs=1)


@pytest.mark.parametrize(("rows", "size"), [(10, 1), (1, 4)])
def test_batch_normalization_of_one_row_is_refused(rows, size):
    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4))
    graph = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(net),
        pv.likelihoods.Bernoulli(torch.nn.Linear(2, 6)),
    )
    with pytest.raises(ValueError, match="at least 2 rows in a minibatch: give more rows"):
        quiet(graph, binary(rows), epochs=1, batch_size=size)


def test_a_misspelt_keyword_is_a_type_error():
    with pytest.raises(TypeError):
        quiet(small_vae(), binary(), epoch=3)


def test_text_is_refused():
    with pytest.raises(TypeError, match="expected real numbers"):
        quiet(small_vae(), [["a"], ["b"]], epochs=1)


# --------------------------------------------------------------------------- batch normalization
def test_batch_statistics_are_those_of_the_last_weights():
    """At momentum 0.01 the running mean lags after 10 steps; recomputed, it is the data's."""
    x = 3 + torch.randn(640, 3)
    norm = nn.BatchNorm1d(3, momentum=0.01)
    q = pv.posteriors.DiagonalNormal(nn.Sequential(norm, nn.Linear(3, 4)))
    vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Gaussian(nn.Linear(2, 3)))
    pv.fit(vae, x, epochs=1, batch_size=64, progress=False, seed=0)
    torch.testing.assert_close(norm.running_mean, x.mean(0), rtol=1e-4, atol=1e-4)
    assert norm.momentum == 0.01


def test_statistics_take_no_more_of_the_programs_than_they_need():
    calls, norm, decoder = [], nn.BatchNorm1d(3), nn.Linear(2, 3)
    q = pv.posteriors.DiagonalNormal(nn.Sequential(norm, nn.Linear(3, 4)))
    vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Gaussian(decoder))
    decoder.register_forward_hook(lambda *_: calls.append(norm.training))
    x = torch.randn(640, 3)
    recompute_batchnorm(programs.Programs(vae), lambda: ((rows,) for rows in x.split(64)))
    assert calls == [True]  # for the first minibatch, of ten
    torch.testing.assert_close(norm.running_mean, x.mean(0), rtol=1e-4, atol=1e-5)
    vae.model(x)  # no hook is left that ends it
    assert len(calls) == 2
