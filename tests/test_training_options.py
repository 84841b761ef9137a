"""The options of `fit`: each against what it means, computed by hand or by plain torch."""

import copy
import csv
import functools
import math
import sys
import types
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_training import binary, equal, quiet, small_vae
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyrovae as pv
from pyrovae import programs
from pyrovae.files import checkpoint
from pyrovae.objectives import (
    SGVB_B,
    FreeBits,
    Renyi,
    RunningMean,
    ScoreFunction,
    cyclical,
    warm_up,
)
from pyrovae.training import TrainingError

SGD = functools.partial(torch.optim.SGD, lr=0.1)


class Rows(Dataset):
    """A map-style data set of the rows of a tensor."""

    def __init__(self, x, *c):
        self.members, self.read = (x, *c), []

    def __len__(self):
        return len(self.members[0])

    def __getitem__(self, i):
        self.read.append(i)
        row = tuple(member[i] for member in self.members)
        return row if len(row) > 1 else row[0]


class Stream(IterableDataset):
    """Rows without a length."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


class Line(nn.Module):
    """x ~ N(m, 1), without a latent."""

    def __init__(self):
        super().__init__()
        self.m = nn.Parameter(torch.zeros(()))

    def model(self, x):
        pyro.module("line", self)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.m, 1.0), obs=x)

    def guide(self, x):
        pass


class Recorder(pv.hooks.Hook):
    """Keeps all that it is called with."""

    def __init__(self):
        self.calls, self.steps, self.epochs, self.weights = [], [], [], []

    def on_start(self, start):
        self.calls.append("start")
        self.start = start

    def on_step(self, step):
        self.steps.append(step)
        self.weights.append(next(step.graph.parameters()).detach().clone())

    def on_epoch(self, epoch):
        self.epochs.append(len(epoch.history.loss))

    def on_end(self):
        self.calls.append("end")


# --------------------------------------------------------------------------------- kinds of data
def test_every_kind_of_data_trains_to_the_weights_of_the_same_minibatches():
    """One minibatch of all rows and no noise: the order does not matter."""
    x = binary(50)

    vae = small_vae(pv.nets.MLP(6, [8], 2))
    point = pv.posteriors.Point(vae.posterior.net)
    autoencoder = pv.VAE(pv.priors.Flat(2), point, vae.likelihood)
    kinds = {
        "tensor": x,
        "array": x.numpy(),
        "TensorDataset": TensorDataset(x),
        "Dataset": Rows(x),
        "DataLoader": DataLoader(x, batch_size=50),
        "IterableDataset": Stream(x),
        "list of arrays": [x.numpy()],
        "generator": (x for _ in range(3)),
    }
    reference = copy.deepcopy(autoencoder)
    quiet(reference, x, epochs=3, batch_size=50, seed=1, optimizer=SGD)
    for name, data in kinds.items():
        graph, steps = (
            copy.deepcopy(autoencoder),
            1 if name in ("IterableDataset", "generator") else None,
        )
        history = quiet(
            graph, data, epochs=3, batch_size=50, seed=1, optimizer=SGD, steps_per_epoch=steps
        )
        assert len(history.loss) == 3, name
        for a, b in zip(graph.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_a_map_style_data_set_is_read_row_by_row_in_the_order_of_arrays():
    x, rows = binary(20), Rows(binary(20))
    a, b = small_vae(), small_vae()
    quiet(a, x, epochs=2, batch_size=8, seed=3)
    quiet(b, rows, epochs=2, batch_size=8, seed=3)
    assert equal(a, b)
    assert sorted(rows.read[-20:]) == list(range(20))


def test_a_loader_leaves_the_random_stream_of_its_user_alone():
    before = torch.get_rng_state()
    quiet(small_vae(), DataLoader(binary(20), batch_size=8, shuffle=True), epochs=1, seed=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_resumes_bit_for_bit(tmp_path, shuffle):
    def loader():
        return DataLoader(TensorDataset(binary(50)), batch_size=8, shuffle=shuffle)

    whole, cut, resumed = small_vae(), small_vae(), small_vae(seed=9)
    held_out = DataLoader(binary(20, seed=1), batch_size=8)
    settings = {"epochs": 4, "seed": 3, "validation": held_out}
    first = quiet(whole, loader(), **settings)

    class Stop(pv.hooks.Hook):
        def on_step(self, step):
            return step.step == 17  # in mid-epoch: 7 steps an epoch

    file = tmp_path / "state"
    half = quiet(cut, loader(), checkpoint=file, hooks=Stop(), **settings)
    assert half.stopped == "the hook Stop ended it"
    assert len(half.loss) == 2
    second = quiet(resumed, loader(), resume=file, **settings)
    assert equal(whole, resumed)
    assert first.elbo == second.elbo
    assert first.validation_elbo == second.validation_elbo


class DrawnItems(Dataset):
    """Items that torch draws anew at each visit, in the process that trains."""

    def __len__(self):
        return 50

    def __getitem__(self, i):
        return (torch.rand(6) < 0.5).float()


def collated(items):
    return (torch.stack(items) + torch.rand(len(items), 6)).round().clamp(0, 1)


@pytest.mark.parametrize("collate", [None, collated])
@pytest.mark.parametrize("stop", [14, 15, 17])  # after an epoch of 7 steps, and within one
def test_a_loader_that_draws_its_items_resumes_bit_for_bit(tmp_path, stop, collate):
    def loader():
        return DataLoader(DrawnItems(), batch_size=8, shuffle=True, collate_fn=collate)

    class Stop(pv.hooks.Hook):
        def on_step(self, step):
            return step.step == stop

    whole, resumed, settings = small_vae(), small_vae(seed=9), {"epochs": 4, "seed": 3}
    file = tmp_path / "state"
    quiet(whole, loader(), **settings)
    quiet(small_vae(), loader(), checkpoint=file, hooks=Stop(), **settings)
    assert len(quiet(resumed, loader(), resume=file, **settings).loss) == 4
    assert equal(whole, resumed)


def test_a_loader_that_draws_its_items_resumes_within_a_second_pass(tmp_path):
    """An epoch of 10 steps reads a loader of 7 minibatches again from its beginning."""

    class Stop(pv.hooks.Hook):
        def on_step(self, step):
            return step.step in (stop, 20)

    plan = {"epochs": 2, "seed": 3, "steps_per_epoch": 10}
    whole = small_vae()
    quiet(whole, DataLoader(DrawnItems(), batch_size=8, shuffle=True), **plan)
    for stop in (7, 9):
        file, again = tmp_path / str(stop), small_vae(seed=9)
        loader = DataLoader(DrawnItems(), batch_size=8, shuffle=True)
        quiet(small_vae(), loader, checkpoint=file, hooks=Stop(), **plan)
        quiet(again, loader, resume=file, **plan)
        assert equal(whole, again)


def test_a_loader_that_shuffles_sees_every_row_once_an_epoch_in_another_order():
    seen = []

    def look(x):
        seen.extend(x[:, 0].tolist())
        return (x > 25).float().expand(-1, 6)

    loader = DataLoader(torch.arange(50.0)[:, None], batch_size=8, shuffle=True)
    vae = small_vae()
    quiet(vae, loader, epochs=2, transform=look, seed=0)
    first, second = seen[-100:-50], seen[-50:]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_an_iterable_without_a_length_needs_steps_and_is_read_again():
    with pytest.raises(ValueError, match="steps_per_epoch"):
        quiet(small_vae(), Stream(binary(20)))
    recorder = Recorder()
    history = quiet(
        small_vae(), Stream(binary(20)), batch_size=8, steps_per_epoch=5, epochs=2, hooks=recorder
    )
    assert [step.rows for step in recorder.steps] == [8, 8, 4, 8, 8] * 2
    assert history.stopped == "all epochs ran"


def test_a_generator_that_ends_ends_the_fit():
    batches = (binary(8, seed=i) for i in range(7))
    with pytest.warns(UserWarning, match="the data ended after 2 of 10 epochs"):
        history = quiet(small_vae(), batches, steps_per_epoch=5, epochs=10)
    assert history.stopped == "the data ended"
    assert len(history.loss) == 2  # the second epoch has the remaining two minibatches


PAIRS = TensorDataset(binary(20), torch.arange(20) % 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PAIRS, "read as the context c, and a network .* takes none .*Pass x alone; or build a"),
        (DataLoader(PAIRS, batch_size=5), "read as the context c, and a network"),
        (list(PAIRS), r"data: x is a tuple that is no array .*stack the rows of pairs"),
        (list(binary(20)), r"20 items, which is read as x and 19 contexts .*torch.stack\(items\)"),
        (binary(20).tolist(), r"read as x and 19 contexts .*numpy.array\(items\) of numbers"),
    ],
    ids=["data set", "loader", "list", "list of rows", "nested list"],
)
def test_labels_beside_x_are_named_where_no_network_takes_a_context(data, words):
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(nn.Linear(6, 4)),
        pv.likelihoods.Bernoulli(nn.Linear(2, 6)),
    )
    with pytest.raises(TypeError, match=words):
        quiet(vae, data, epochs=1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader(torch.full((20, 6), 0.5), batch_size=5), "0.5"),
        (DataLoader(torch.full((20, 6), torch.nan), batch_size=5), "minibatch 1"),
        ([{"x": torch.ones(4, 6)}], "dtype"),
        (iter([{"image": torch.ones(4, 6)}]), "keys"),
        (iter([]), "no minibatch"),
        (Rows(torch.full((20, 6), 2.0)), "2"),
    ],
    ids=["support", "NaN", "list", "dictionary", "empty", "data set"],
)
def test_minibatches_are_checked_before_a_step(data, words):
    graph, before = small_vae(), small_vae()
    steps = None if hasattr(data, "__len__") else 1
    with pytest.raises((ValueError, TypeError), match=words):
        quiet(graph, data, epochs=1, steps_per_epoch=steps)
    assert equal(graph, before)


def test_a_later_minibatch_off_the_support_is_refused_and_the_weights_stay_usable():
    x = binary(20)
    x[17, 2] = 7.0
    graph = small_vae()
    with pytest.raises(ValueError, match="got 7"):
        quiet(graph, DataLoader(x, batch_size=5), epochs=1)
    assert torch.isfinite(pv.elbo(graph, binary()).elbo).all()


def test_integer_context_reaches_a_network_as_integers_and_x_as_floats():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.net = nn.Embedding(3, 4), nn.Linear(6 + 4, 4)

        def forward(self, x, y):
            assert x.is_floating_point()
            return self.net(torch.cat([x, self.table(y)], -1))

    x, y = binary(30), torch.arange(30) % 3
    for data in ((x.int(), y), (x.numpy(), y.numpy().astype(np.int32)), TensorDataset(x, y)):
        vae = small_vae(Labelled())
        vae.likelihood = pv.likelihoods.Bernoulli(pv.nets.WithoutContext(pv.nets.MLP(2, [8], 6)))
        quiet(vae, data, epochs=1)
        assert torch.isfinite(pv.elbo(vae, x, y).elbo).all()


def test_drop_last_leaves_out_the_short_minibatch():
    for n, sizes in ((50, [8] * 6), (49, [8] * 6), (48, [8] * 6)):
        recorder = Recorder()
        quiet(small_vae(), binary(n), batch_size=8, drop_last=True, epochs=1, hooks=recorder)
        assert [step.rows for step in recorder.steps] == sizes
    with pytest.raises(ValueError, match="leave no minibatch"):
        quiet(small_vae(), binary(5), batch_size=8, drop_last=True)


def test_a_batch_transform_sees_x_and_context_together():
    x, c = torch.zeros(30, 6), torch.ones(30, 1)

    def both(x, c):
        assert x.shape[0] == c.shape[0] == 10
        return x + c, 2 * c

    seen = []
    net = nn.Linear(6 + 1, 4)
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, c):
            return self.net(torch.cat([x, c], -1))

    vae = small_vae(Joined())
    vae.likelihood = pv.likelihoods.Bernoulli(pv.nets.WithoutContext(pv.nets.MLP(2, [8], 6)))
    quiet(vae, (x, c), batch_size=10, batch_transform=both, epochs=1)
    assert all(torch.equal(batch, torch.tensor([1.0] * 6 + [2.0]).expand(10, 7)) for batch in seen)


def test_a_scheduler_that_needs_more_than_the_optimizer_is_named():
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    with pytest.raises(TypeError, match=r"fit: scheduler .*max_lr.*functools\.partial"):
        quiet(small_vae(), binary(20), epochs=1, scheduler=one_cycle)


def test_a_plateau_is_not_judged_during_warm_up():
    """At beta = 1 validation gets worse while z is learned: the rate would be spent by then."""
    judged = []

    class Recording(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            judged.append(metrics)
            super().step(metrics, epoch)

    history = quiet(
        small_vae(),
        binary(20),
        epochs=8,
        validation=binary(20),
        objective=SGVB_B(beta=pv.objectives.warm_up(0.5)),
        scheduler=functools.partial(Recording, patience=0, factor=0.1, threshold=1e9),
    )
    warm = [beta < 1 for beta in history.beta]
    assert sum(warm) == 4
    assert judged == [-bound for bound in history.validation_elbo[4:]]
    assert history.learning_rate[:5] == [1e-3] * 5
    assert history.learning_rate[-1] < 1e-4


# -------------------------------------------------------------------------------- hooks, loggers
@pytest.mark.parametrize(("kernel", "shown"), [(object(), True), (None, False)])
def test_the_progress_bar_is_shown_in_a_notebook_without_widgets(
    monkeypatch, capsys, kernel, shown
):
    shell = types.SimpleNamespace(kernel=kernel)
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    pv.fit(small_vae(), binary(20), epochs=2)
    assert ("ELBO" in capsys.readouterr().err) == shown


def test_a_hook_sees_each_step_with_its_terms_and_gradient_norm():
    graph, x, recorder = small_vae(), binary(20), Recorder()
    twin = small_vae()
    quiet(graph, x, epochs=2, batch_size=20, seed=4, hooks=recorder, optimizer=SGD)
    assert recorder.calls == ["start", "end"]
    assert (recorder.start.steps, recorder.start.done, recorder.epochs) == (2, 0, [1, 2])
    first = recorder.steps[0]
    torch.manual_seed(4)
    loss = SGVB_B().differentiable_loss(twin.model, twin.guide, x) / 20
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
    assert first.loss == pytest.approx(loss.item(), rel=1e-5)
    assert first.elbo == pytest.approx(-loss.item(), rel=1e-5)
    assert first.elbo == pytest.approx(first.reconstruction - first.kl["z"], rel=1e-6)
    assert first.gradient_norm == pytest.approx(norm.item(), rel=1e-4)
    assert (first.step, first.epoch, first.rows, first.beta) == (1, 1, 20, 1.0)
    assert first.learning_rates == [0.1]
    assert not torch.equal(recorder.weights[0], recorder.weights[1])


def test_hooks_change_nothing_in_the_fit_and_end_when_it_fails():
    a, b, recorder = small_vae(), small_vae(), Recorder()
    quiet(a, binary(), epochs=2, seed=0)
    quiet(b, binary(), epochs=2, seed=0, hooks=[recorder])
    assert equal(a, b)
    with pytest.raises(TrainingError):
        quiet(b, binary(), epochs=5, optimizer=functools.partial(SGD, lr=1e30), hooks=[recorder])
    assert recorder.calls[-1] == "end"


def test_csv_holds_every_step_once_even_after_a_resume(tmp_path):
    file, state = tmp_path / "logs" / "steps.csv", tmp_path / "state"

    class Stop(pv.hooks.Hook):
        def on_step(self, step):
            return step.step == 4

    settings = {"epochs": 3, "batch_size": 20, "seed": 0}
    quiet(small_vae(), binary(), checkpoint=state, hooks=[pv.hooks.CSV(file), Stop()], **settings)
    quiet(small_vae(), binary(), resume=state, hooks=[pv.hooks.CSV(file)], **settings)
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["step"]) for row in rows] == list(range(1, 10))
    elbo, terms = float(rows[3]["elbo"]), (float(rows[3]["reconstruction"]), float(rows[3]["kl"]))
    assert elbo == pytest.approx(terms[0] - terms[1])


def test_tensorboard_holds_steps_and_validation(tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recorder = Recorder()
    hooks = [pv.hooks.TensorBoard(tmp_path), recorder]
    history = quiet(
        small_vae(), binary(), epochs=2, batch_size=25, hooks=hooks, validation=binary(10, seed=1)
    )
    events = loading.EventAccumulator(str(tmp_path))
    events.Reload()
    elbo = [event.value for event in events.Scalars("train/elbo")]
    assert elbo == pytest.approx([step.elbo for step in recorder.steps], rel=1e-6)
    validated = [event.value for event in events.Scalars("validation/elbo")]
    assert validated == pytest.approx(history.validation_elbo, rel=1e-6)
    assert {"train/kl/z", "train/gradient_norm"} <= set(events.Tags()["scalars"])


# ------------------------------------------------------------------------------------- optimizer
def test_accumulated_minibatches_give_the_gradient_of_all_their_rows():
    """An exact KL and a likelihood without noise: the mean over 50 rows, however they are cut."""

    x = torch.randn(50)
    weights = []
    for batch_size, accumulate in ((50, 1), (8, 7), (10, 5)):
        line = Line()
        history = quiet(
            line,
            x,
            batch_size=batch_size,
            accumulate=accumulate,
            epochs=3,
            optimizer=SGD,
            objective=SGVB_B(),
        )
        weights.append([line.m.item(), *history.elbo])
    assert weights[1] == pytest.approx(weights[0], rel=1e-5)
    assert weights[2] == pytest.approx(weights[0], rel=1e-5)


def test_learning_rates_by_part():
    vae, still = small_vae(), small_vae()
    quiet(vae, binary(), epochs=1, optimizer=SGD, learning_rate={"posterior": 1e-30})
    assert equal(vae.posterior, still.posterior)
    assert not equal(vae.likelihood, still.likelihood)
    a, b = small_vae(), small_vae()
    quiet(a, binary(), epochs=1, seed=0, optimizer=torch.optim.SGD, learning_rate=0.1)
    quiet(b, binary(), epochs=1, seed=0, optimizer=SGD)
    assert equal(a, b)
    with pytest.raises(ValueError, match="begin with likelihood, posterior"):
        quiet(vae, binary(), learning_rate={"encoder": 0.1})
    with pytest.raises(ValueError, match="positive"):
        quiet(vae, binary(), learning_rate={"posterior": -1})


def test_frozen_parts_stay_and_get_their_gradients_back():
    vae, still = small_vae(), small_vae()
    quiet(vae, binary(), epochs=1, freeze=["posterior"])
    assert equal(vae.posterior, still.posterior)
    assert not equal(vae.likelihood, still.likelihood)
    assert all(parameter.requires_grad for parameter in vae.parameters())
    quiet(vae, binary(), epochs=1, freeze=None)
    assert not equal(vae.posterior, still.posterior)
    with pytest.raises(ValueError, match="no parameter to train"):
        quiet(vae, binary(), freeze=["posterior", "likelihood"])
    with pytest.raises(ValueError, match="freeze names 'prior'"):
        quiet(vae, binary(), freeze=["prior"])


def test_an_optimizer_over_other_parameters_is_refused():
    vae, other = small_vae(), small_vae()
    with pytest.raises(ValueError, match="none that this fit trains"):
        quiet(vae, binary(), optimizer=torch.optim.Adam(other.parameters()))
    with pytest.raises(ValueError, match=r"2 of the 4|4 of the 8"):
        quiet(vae, binary(), optimizer=torch.optim.Adam(vae.likelihood.parameters()))
    quiet(vae, binary(), epochs=1, optimizer=torch.optim.Adam(vae.parameters()))
    with pytest.raises(TypeError, match="LBFGS"):
        quiet(vae, binary(), optimizer=torch.optim.LBFGS)
    with pytest.raises(TypeError, match="SparseAdam takes sparse gradients only"):
        quiet(vae, binary(), optimizer=functools.partial(torch.optim.SparseAdam, lr=1e-2))


def test_a_schedule_over_steps_is_stepped_at_every_step():
    recorder = Recorder()
    cycle = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=12)
    history = quiet(
        small_vae(), binary(48), batch_size=16, epochs=4, scheduler=cycle, hooks=recorder
    )
    rates = [step.learning_rates[0] for step in recorder.steps]
    twin = torch.optim.Adam(small_vae().parameters())
    expected, schedule = [], cycle(twin)
    for _ in range(12):
        twin.step()
        if len(expected) < 11:
            schedule.step()
        expected.append(twin.param_groups[0]["lr"])
    assert rates[:11] == pytest.approx(expected[:11])
    assert history.stopped == "all epochs ran"
    decay = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    for interval, last in ((None, 0.5), ("epoch", 0.5), ("step", 0.5**5)):
        recorder = Recorder()
        quiet(
            small_vae(),
            binary(48),
            batch_size=16,
            epochs=2,
            scheduler=decay,
            hooks=recorder,
            scheduler_interval=interval,
            learning_rate=1.0,
            optimizer=torch.optim.SGD,
        )
        assert recorder.steps[4].learning_rates[0] == pytest.approx(last)
    with pytest.raises(ValueError, match="scheduler_interval"):
        quiet(small_vae(), binary(), scheduler=decay, scheduler_interval="batch")


def test_automatic_clipping_follows_the_norms_and_stops_an_outlier():
    """A row a thousand times larger moves the weights no more than four times a usual step."""

    x = torch.ones(400)
    batches = [x[:10]] * 39 + [1e6 * x[:10]]
    moved = []
    for clip_norm in ("auto", None):
        line, recorder = Line(), Recorder()
        tiny = functools.partial(torch.optim.SGD, lr=1e-6)
        settings = {"steps_per_epoch": 40, "clip_norm": clip_norm, "hooks": recorder}
        quiet(line, iter(batches), epochs=1, optimizer=tiny, **settings)
        steps = torch.stack(recorder.weights).diff()
        moved.append((steps[-1] / steps[:-1].median()).item())
    assert moved[0] == pytest.approx(4, rel=0.01)
    assert moved[1] > 1e5


def test_the_moving_average_is_what_its_formula_says(tmp_path):
    vae, recorder = small_vae(), Recorder()
    start = next(vae.parameters()).detach().clone()
    quiet(vae, binary(), epochs=3, batch_size=10, ema=0.8, hooks=recorder, seed=0)
    average = start
    for t, weights in enumerate(recorder.weights, 1):
        decay = min(0.8, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(next(vae.parameters()).detach(), average)


def test_validation_is_of_the_moving_average_and_resumes_exactly(tmp_path):
    x, held_out, file = binary(), binary(20, seed=1), tmp_path / "state"
    settings = {"epochs": 6, "batch_size": 10, "ema": 0.9, "validation": held_out, "seed": 0}
    settings |= {"clip_norm": "auto"}
    whole, cut, resumed = small_vae(), small_vae(), small_vae(seed=7)
    first = quiet(whole, x, **settings)
    objective = SGVB_B()
    with programs.evaluation(whole):
        terms = objective.bound(whole.model, whole.guide, held_out).numbers()
    assert (terms[0] - terms[1]) / 20 == pytest.approx(max(first.validation_elbo), rel=1e-6)
    quiet(cut, x, checkpoint=file, callback=lambda history: len(history.loss) == 2, **settings)
    second = quiet(resumed, x, resume=file, **settings)
    assert equal(whole, resumed)
    assert first.validation_elbo == second.validation_elbo


# ------------------------------------------------------------------------------------- precision
def test_bf16_multiplies_in_bfloat16_and_leaves_densities_alone():
    seen = {}
    vae, exact = small_vae(), small_vae()
    layer = vae.likelihood.net.layers[0]
    activation = vae.likelihood.net.layers[1]

    def inside(module, inputs):
        seen["autocast"] = torch.is_autocast_enabled("cpu")

    activation.register_forward_pre_hook(inside)
    first = quiet(vae, binary(), epochs=1, batch_size=50, seed=0, precision="bf16")
    second = quiet(exact, binary(), epochs=1, batch_size=50, seed=0)
    assert seen["autocast"] is False  # between the layers, where densities are computed too
    assert first.loss != second.loss
    assert first.loss[0] == pytest.approx(second.loss[0], rel=0.01)
    assert all(parameter.dtype == torch.float32 for parameter in vae.parameters())
    assert not layer._forward_pre_hooks  # nothing is left behind
    long = quiet(small_vae(), binary(), epochs=60, seed=0, precision="bf16")
    assert long.elbo[-1] > first.elbo[0] + 0.1
    with pytest.raises(ValueError, match="bf16"):
        quiet(vae, binary(), precision="fp8")


def settings_of_tf32():
    cuda, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    return torch.get_float32_matmul_precision(), cuda.fp32_precision, cpu.fp32_precision


@pytest.mark.parametrize("compiled", [False, True])
def test_tf32_is_on_in_steps_alone(compiled, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    before, seen, vae, x = settings_of_tf32(), {}, small_vae(), binary()
    weight = next(vae.likelihood.parameters())
    weight.register_hook(lambda _: seen.update(backward=settings_of_tf32()))

    def inside(module, inputs):
        seen["training" if module.training else "validation"] = settings_of_tf32()
        return inputs  # a hook that returned nothing would be refused by a compiled fit

    vae.likelihood.register_forward_pre_hook(inside)
    settings = {"precision": "tf32", "compile": compiled, "epochs": 2}
    quiet(vae, x, validation=x[:50], **settings)
    assert seen["training"][:2] == seen["backward"][:2] == ("high", "tf32")
    assert seen["validation"] == settings_of_tf32() == before


def test_tf32_beside_torchs_newer_setting_is_refused():
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        with pytest.raises(ValueError, match=r"fp32_precision is set to 'tf32' already"):
            quiet(small_vae(), binary(), precision="tf32")
    finally:
        matmul.fp32_precision = before
    torch.get_float32_matmul_precision()


def test_a_callers_autocast_does_not_keep_old_weights():
    """torch's cache of cast weights lives as long as the outermost autocast."""
    cached, fresh = small_vae(), small_vae()
    for vae, enabled in ((cached, True), (fresh, False)):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=enabled):
            quiet(vae, binary(), epochs=5, seed=0, learning_rate=0.01)
    assert equal(cached, fresh)
    assert not equal(cached, small_vae())


# -------------------------------------------------------------------------------------- patience
def test_patience_counts_only_epochs_that_it_may_judge():
    """Cyclical annealing: epochs below the target are neither best nor a failure to improve."""
    objective = SGVB_B(beta=cyclical(4))
    x, held_out = binary(40), binary(40, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = quiet(
            small_vae(), x, validation=held_out, epochs=16, patience=2, objective=objective, seed=0
        )
    judged = [beta == 1.0 for beta in history.beta]
    best = history.best_epoch
    if history.stopped != "all epochs ran":
        assert sum(judged[best:]) == 2
    else:
        assert sum(judged[best:]) < 2
    assert len(history.loss) > 6


def test_patience_that_can_never_act_says_so():
    smooth = SGVB_B(beta=lambda t: 1 / (1 + torch.exp(torch.tensor(-10 * (t - 1)))).item())
    held_out = binary(20, seed=1)
    with pytest.warns(UserWarning, match="can never end this fit: only 1 of its 8"):
        quiet(small_vae(), binary(), validation=held_out, epochs=8, patience=2, objective=smooth)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = SGVB_B(beta=warm_up(0.25))
        quiet(small_vae(), binary(), validation=held_out, epochs=8, patience=2, objective=objective)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": float("nan")},
        {"epochs": 2.5},
        {"epochs": True},
        {"batch_size": 0},
        {"accumulate": 0},
        {"steps_per_epoch": 3},
        {"ema": 1.0},
        {"clip_norm": "automatic"},
        {"clip_norm": -1.0},
        {"precision": "half"},
        {"patience": 2},
    ],
    ids=str,
)
def test_arguments_are_refused_before_training(bad):
    vae, before = small_vae(), small_vae()
    with pytest.raises(ValueError, match=next(iter(bad))):
        quiet(vae, binary(), **bad)
    assert equal(vae, before)


def test_a_frozen_part_keeps_its_batch_statistics_and_drops_nothing():
    def net():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))

    vae = small_vae(net())
    vae.likelihood.net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 6))
    modes = []
    hook = vae.posterior.net[2].register_forward_hook(lambda m, *_: modes.append(m.training))
    before = copy.deepcopy(vae.posterior.state_dict())
    quiet(vae, binary(), validation=binary(20, seed=1), epochs=2, freeze=["posterior"])
    hook.remove()
    after = vae.posterior.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(modes)
    assert vae.likelihood.net[1].running_mean.abs().max() > 0


def test_a_generator_loses_no_minibatch_to_the_checks():
    """Batch normalization, whose statistics are recomputed elsewhere, reads no further one."""
    seen = []

    def look(x):
        seen.extend(x[:, 0].tolist())
        return (x > 25).float().expand(-1, 6)

    batches = (torch.full((2, 1), float(i)) for i in range(12))
    vae = small_vae(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)))
    quiet(vae, batches, steps_per_epoch=4, epochs=3, transform=look)
    assert seen[-24:] == [float(i) for i in range(12) for _ in range(2)]


@pytest.mark.parametrize(("last", "accumulate"), [(2, 1), (5, 1), (4, 2)])
def test_a_fit_that_is_resumed_skips_what_it_read_of_a_generator(tmp_path, last, accumulate):
    """Interrupted at any step: the minibatches after it are those of the whole fit."""

    def batches():
        return (binary(8, seed=i) for i in range(12))

    class Stop(pv.hooks.Hook):
        def on_step(self, step):
            return step.step == last

    how = {"steps_per_epoch": 4, "epochs": 3, "accumulate": accumulate, "seed": 3}
    whole, cut, resumed = small_vae(), small_vae(), small_vae(seed=4)
    quiet(whole, batches(), **how)
    quiet(cut, batches(), hooks=Stop(), checkpoint=tmp_path / "state", **how)
    history = quiet(resumed, batches(), resume=tmp_path / "state", **how)
    assert history.stopped == "all epochs ran"
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_validation_beside_a_generator_leaves_its_first_minibatch():
    batches = (binary(8, seed=i) for i in range(4))
    recorder = Recorder()
    history = quiet(
        small_vae(),
        batches,
        steps_per_epoch=2,
        epochs=2,
        hooks=recorder,
        validation=binary(8, seed=9),
    )
    assert [step.rows for step in recorder.steps] == [8] * 4
    assert history.stopped == "all epochs ran"


def test_what_a_batch_transform_makes_is_checked_at_every_minibatch():
    x = torch.zeros(40, 6)
    x[31, 2] = 1.0

    def tripled(x):
        return 3 * x

    graph = small_vae()
    with pytest.raises(ValueError, match="got 3"):
        quiet(graph, x, batch_size=10, epochs=1, batch_transform=tripled, seed=0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        quiet(graph, binary(), scheduler=plateau, scheduler_interval="step")


def test_what_does_not_fit_is_named_with_its_remedy():
    vae = small_vae()

    class OfOne:
        def model(self, x):
            return vae.model(x)

        def guide(self, x):
            return vae.guide(x)

    with pytest.raises(TypeError, match=r"OfOne\.model does not take x and 1 contexts"):
        quiet(OfOne(), (binary(), torch.ones(50)))
    with pytest.raises(TypeError, match=r"pyrovae\.hooks\.Hook"):
        quiet(vae, binary(), hooks=[lambda step: None])
    with pytest.raises(ValueError, match="an iterable with a length"):
        quiet(vae, binary(), validation=iter([binary()]))


def test_one_part_to_freeze_is_a_string_and_nothing_warns():
    vae, still = small_vae(), small_vae()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet(vae, binary(), epochs=1, freeze="posterior")
    assert equal(vae.posterior, still.posterior)


# -------------------------------------------- what may differ in a fit that continues, and what not
LR = torch.optim.lr_scheduler
STEPS = {"scheduler": functools.partial(LR.StepLR, step_size=2)}
ONE_CYCLE = {"scheduler": functools.partial(LR.OneCycleLR, max_lr=0.1, total_steps=40)}
BASELINE = {"objective": ScoreFunction(2, RunningMean())}
PYROS = {"objective": pyro.infer.Trace_ELBO()}


class Own(nn.Module):
    """A graph of the user's, with numbers that its constructor takes."""

    def __init__(self, use_cuda=False, temperature=1.0):
        super().__init__()
        self.use_cuda, self.temperature, self.inner = use_cuda, temperature, small_vae()

    def model(self, x):
        return self.inner.model(x)

    def guide(self, x):
        return self.inner.guide(x)


def encoder(activation):
    return small_vae(nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 4)))


def gaussian(sigma):
    vae = small_vae()
    return pv.VAE(vae.prior, vae.posterior, pv.likelihoods.Gaussian(vae.likelihood.net, sigma))


def loader(**options):
    return {"data": DataLoader(TensorDataset(binary(40)), **options)}


def annealed(fraction):
    return {"objective": SGVB_B(beta=warm_up(fraction))}


def in_groups(**options):
    return {"optimizer": lambda some: torch.optim.Adam([{"params": list(some), **options}])}


def begun_and_resumed(file, first, second, graphs=(small_vae, small_vae), change=None):
    """Stop a fit after two of four epochs, and resume it with other options."""

    def stop(history):
        if change is not None:
            change()
        return len(history.loss) == 2

    plan = {"data": binary(41), "epochs": 4, "batch_size": 10, "seed": 3}
    plan["validation"] = binary(20, seed=1)
    quiet(graphs[0](), **plan | first, callback=stop, checkpoint=file)
    return quiet(graphs[1](), **plan | second, resume=file)


ALLOWED = {
    "more epochs": ({}, {"epochs": 6}),
    "the same warm-up in steps": (annealed(0.25), annealed(0.125) | {"epochs": 8}),
    "the default by name": (STEPS, STEPS | {"scheduler_interval": "epoch"}),
    "the default rate": ({}, {"learning_rate": 1e-3}),
    "patience": ({"patience": 3}, {"patience": 4}),
    "a rate that a scheduler sets": (ONE_CYCLE, ONE_CYCLE),
    "workers": (loader(batch_size=10), loader(batch_size=10, num_workers=1)),
    "Pyro's": (PYROS, PYROS),
    "a baseline": (BASELINE, BASELINE),
}


@pytest.mark.parametrize("options", ALLOWED.values(), ids=ALLOWED)
def test_what_changes_no_step_may_differ_in_a_resumed_fit(tmp_path, options):
    assert len(begun_and_resumed(tmp_path / "state", *options).loss) > 2


REFUSED = {
    "schedule of beta": (annealed(0.9), annealed(0.1)),
    "precision": ({}, {"precision": "bf16"}),
    "scheduler_interval": (STEPS, STEPS | {"scheduler_interval": "step"}),
    "learning_rate": ({}, {"learning_rate": 0.1}),
    "parameters of the optimizer's groups": (
        {"learning_rate": {"likelihood": 0.1}},
        {"learning_rate": {"posterior": 0.1}},
    ),
    "optimizer's groups": (in_groups(betas=(0.9, 0.9)), in_groups(betas=(0.5, 0.9))),
    "objective's alpha": ({"objective": Renyi(0.5, 3)}, {"objective": Renyi(0.1, 3)}),
    "objective's nats": ({"objective": FreeBits(0.5)}, {"objective": FreeBits(3.0)}),
    "objective's baseline": (BASELINE, {"objective": ScoreFunction(2, RunningMean(0.1))}),
    "drop_last": ({}, {"drop_last": True}),
    "transform": ({}, {"transform": pv.batches.binarize}),
    "batch_transform": ({"batch_transform": lambda x: x}, {}),
    "frozen": ({}, {"freeze": ["likelihood"]}),
    "validation data": ({}, {"validation": 1 - binary(20, seed=1)}),
    "number of validation rows": ({}, {"validation": None}),
    "DataLoader in each process": (loader(batch_size=10), loader(batch_size=10, shuffle=True)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_changes_a_step_is_refused_in_a_resumed_fit(tmp_path, what):
    with pytest.raises(
        pv.FileError, match=f"resume: the checkpoint is of a fit with another {what}"
    ):
        begun_and_resumed(tmp_path / "state", *REFUSED[what])


def test_an_earlier_checkpoint_that_tells_less_of_its_fit_resumes(tmp_path):
    file = tmp_path / "state"
    begun = begun_and_resumed(file, {}, {"epochs": 2})
    state = checkpoint.read(file)
    for part in ("graph", "validation", "loaders", "schedule"):
        del state[part]
    for name in ("learning_rate", "precision", "scheduler_interval", "drop_last"):
        del state["settings"][name]
    checkpoint.write(file, state)
    plan = {"epochs": 4, "batch_size": 10, "seed": 3, "validation": binary(20, seed=1)}
    assert quiet(small_vae(), binary(41), resume=file, **plan).loss[:2] == begun.loss


@pytest.mark.parametrize(
    "graphs",
    [
        (lambda: gaussian(1.0), lambda: gaussian(0.1)),
        (lambda: gaussian(1.0), small_vae),
        (lambda: encoder(nn.ReLU()), lambda: encoder(nn.Tanh())),
        (
            lambda: pv.Denoising(small_vae(), pv.graphs.GaussianNoise(0.1)),
            lambda: pv.Denoising(small_vae(), pv.graphs.GaussianNoise(3.0)),
        ),
        (Own, lambda: Own(temperature=2.0)),
    ],
)
def test_a_graph_with_other_arguments_or_parts_is_not_resumed(tmp_path, graphs):
    with pytest.raises(pv.FileError, match=r"another graph: graph\.\S+ was .*Build the same"):
        begun_and_resumed(tmp_path / "state", {}, {}, graphs)


def test_a_graph_of_the_users_resumes_elsewhere_and_where_a_callback_changes_it(tmp_path):
    begun_and_resumed(tmp_path / "state", {}, {}, (lambda: Own(True), Own))
    graph = Own()
    cool = functools.partial(setattr, graph, "temperature", 0.5)
    assert len(begun_and_resumed(tmp_path / "state", {}, {}, (lambda: graph, Own), cool).loss) == 4


class Shared(nn.Module):
    """w ~ N(0, 1), x_n ~ N(w, 1): the posterior of all N rows has the deviation (N + 1)^(-1/2)."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.mean, self.log_sd = nn.Parameter(torch.zeros(())), nn.Parameter(torch.tensor(-2.0))

    def model(self, x):
        with poutine.scale(scale=len(x) / 200 if self.scale else 1.0):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(self, x):
        with poutine.scale(scale=len(x) / 200 if self.scale else 1.0):
            pyro.sample("w", dist.Normal(self.mean, self.log_sd.exp()))


def test_a_latent_of_all_rows_beside_minibatches_is_warned_of():
    x, plan = torch.randn(200), {"epochs": 30, "learning_rate": 0.05, "seed": 0}
    graph = Shared(scale=False)
    with pytest.warns(UserWarning, match='all rows share the latent "w", and each minibatch of 20'):
        quiet(graph, x, batch_size=20, **plan)
    assert graph.log_sd.exp() > 2 * 201**-0.5
    quiet(Shared(scale=False), x, batch_size=200, epochs=1)
    graph = Shared(scale=True)
    quiet(graph, x, batch_size=20, **plan)
    assert 0.7 < graph.log_sd.exp() * 201**0.5 < 1.4


def test_mutual_information_of_a_number_drawn_given_another():
    class Two(nn.Module):
        def model(self, x):
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(x.new_zeros(len(x)), 1.0))
                b = pyro.sample("b", dist.Normal(a, 1.0))
                return pyro.sample("x", dist.Normal(b, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Normal(0.7 * x, 0.6))
                pyro.sample("a", dist.Normal(0.5 * b, 0.7))

    torch.manual_seed(0)
    x = 3**0.5 * torch.randn(400)
    # I(x; a) of normals: a | x ~ N(0.35 x, 0.49 + 0.09)
    exact = 0.5 * math.log(1 + 3 * 0.35**2 / (0.7**2 + 0.3**2))
    assert pv.latent_summary(Two(), x, site="a").mutual_information == pytest.approx(exact, abs=0.1)
