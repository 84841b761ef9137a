"""`fit` in two processes: the result of one process at the same minibatches, and no process hangs.

The job runs once, with every scenario in it; the tests compare what it left with one process.
"""

import copy
import functools
import math
import os
import shutil
import socket
from pathlib import Path

import anndata
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from filelock import FileLock
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import pyrovae as pv
from pyrovae.data import as_minibatches
from pyrovae.data.minibatches import Share
from pyrovae.programs import Programs
from pyrovae.singlecell import open_shards
from pyrovae.training import Processes
from pyrovae.training.synchronized import synchronized

PROCESSES = 2
ROWS = 37  # with 8 rows a minibatch, the last has 5: 3 and 2
TOLERANCE = 1e-9  # of weights in double precision after tens of steps; rounding is 1e-16 a sum
quiet = functools.partial(pv.fit, progress=False, seed=3)


def data(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator, dtype=torch.double)


def autoencoder(*, normalized=False, seed=0):
    """An autoencoder, whose loss draws nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(5)] if normalized else []
        encoder = nn.Sequential(nn.Linear(6, 5), *middle, nn.Tanh(), nn.Linear(5, 2))
        decoder = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 6))
        q, p = pv.posteriors.Point(encoder), pv.likelihoods.Gaussian(decoder, sigma=0.7)
        return pv.VAE(pv.priors.Flat(2), q, p).double()


class NormalOf(dist.Normal):
    """A normal whose draw is mu + sigma eps for a given eps: the same in any process."""

    def __init__(self, mu, sigma, eps):
        super().__init__(mu, sigma)
        self.eps = eps

    def expand(self, batch_shape, _instance=None):
        return NormalOf(*(t.expand(batch_shape) for t in (self.loc, self.scale, self.eps)))

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.eps

    def sample(self, sample_shape=()):
        return self.rsample().detach()


class GivenNoise(nn.Module):
    """A VAE whose context is the noise of its draws."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        self.double()

    def model(self, x, eps):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.8).to_event(1), obs=x)

    def guide(self, x, eps):
        mu, log_sigma = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", NormalOf(mu, log_sigma.exp(), eps).to_event(1))


class InStore:
    """A pair of programs that is no module: its parameters are in Pyro's store."""

    def model(self, x):
        mu = pyro.param("mu", torch.zeros(6, dtype=torch.double))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 6).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mu + z, 0.5).to_event(1), obs=x)

    def guide(self, x):
        scale = pyro.param("scale", torch.ones(6, dtype=torch.double))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(scale * x, event_dim=1))

    def state_dict(self):
        return dict(pyro.get_param_store().items())


# ------------------------------------------------- scenarios: the same calls in one process and two
def plain(folder):
    graph = autoencoder()
    return graph, quiet(graph, data(), epochs=3, batch_size=8)


def every_option(folder):
    graph, x = autoencoder(), data()
    validated = {"validation": data(11, seed=1), "patience": 3, "epochs": 6, "batch_size": 8}
    rates = {"learning_rate": {"likelihood": 1e-2, "posterior": 3e-3}}
    history = quiet(graph, x, **validated, **rates, accumulate=2, clip_norm=0.5, ema=0.7)
    return graph, history


def no_rows(folder):
    """With one row a minibatch, the second process never has one."""
    graph = autoencoder()
    return graph, quiet(graph, data(7), epochs=2, batch_size=1)


def normalized(folder):
    graph = autoencoder(normalized=True)
    held_out = {"validation": data(9, seed=1)}
    return graph, quiet(graph, data(), epochs=3, batch_size=8, **held_out)


def iterables(folder):
    """Minibatches of each process's own; the second process has one fewer."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    minibatches = list(data(28).split(4))  # 7
    if size == 1:
        pairs = [minibatches[i : i + 2] for i in range(0, 7, 2)]
        minibatches = [torch.cat(pair) for pair in pairs]
    graph = autoencoder(normalized=True)
    return graph, quiet(graph, Passes(minibatches[rank::size]), epochs=2)


class Passes:
    """An iterable of minibatches that can be read again."""

    def __init__(self, minibatches):
        self.minibatches = minibatches

    def __iter__(self):
        return iter(self.minibatches)

    def __len__(self):
        return len(self.minibatches)


def sampled(folder):
    """A data set, of which each process reads its items."""
    graph = autoencoder()
    return graph, quiet(graph, Items(list(data())), epochs=2, batch_size=8)


class Items(torch.utils.data.Dataset):
    """A map-style data set that counts how often each item is read."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def noisy(folder, objective=None):
    graph, eps = GivenNoise(), data(seed=5)[:, :2]
    objective = objective or pv.objectives.SGVB_A()
    return graph, quiet(graph, (data(), eps), objective=objective, epochs=3, batch_size=8)


def baseline(folder):
    """The moving average that the objective learns is that of all rows."""
    score = pv.objectives.ScoreFunction(baseline=pv.objectives.RunningMean(0.5))
    return noisy(folder, score)


def stored(folder):
    pyro.clear_param_store()
    graph = InStore()
    objective = pyro.infer.Trace_ELBO()
    return graph, quiet(graph, data(), objective=objective, epochs=2, batch_size=8)


SAME = [
    plain,
    every_option,
    no_rows,
    normalized,
    iterables,
    sampled,
    noisy,
    baseline,
    stored,
]


# ------------------------------------------------------------------------- what only a job has
def resumed(folder):
    """Two epochs and a resumed fit of four; noise of each process's own."""
    whole, parts = noisy_vae(), noisy_vae()
    history = quiet(whole, data(), epochs=4, batch_size=8)
    file = folder / "resumed.safetensors"
    quiet(parts, data(), epochs=2, batch_size=8, checkpoint=file)
    again = quiet(noisy_vae(), data(), epochs=4, batch_size=8, resume=file)
    parts = noisy_vae()
    quiet(parts, data(), epochs=4, batch_size=8, resume=file)
    return {
        "whole": whole.state_dict(),
        "parts": parts.state_dict(),
        "loss": [history.loss, again.loss],
    }


def noisy_vae():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        p = pv.likelihoods.Gaussian(nn.Linear(2, 6), sigma=0.8)
        return pv.VAE(pv.priors.StandardNormal(2), q, p).double()


def one_writer(folder):
    """Hooks and callback are called in the first process only, whose answer all follow."""
    rank, steps = os.environ["RANK"], []

    class Count(pv.hooks.Hook):
        def on_step(self, step):
            steps.append(step.rows)
            copy.deepcopy(step.graph).train()(data())  # of its own: the others wait for no layer

    class Called(pv.VAE):
        def forward(self, x):
            return self.posterior(x)

    graph = autoencoder(normalized=True)
    history = quiet(
        Called(graph.prior, graph.posterior, graph.likelihood),
        data(),
        epochs=9,
        batch_size=8,
        hooks=[Count(), pv.hooks.CSV(folder / f"steps{rank}.csv")],
        callback=lambda history: len(history.loss) == 2,
        checkpoint=folder / f"writer{rank}.safetensors",
    )
    return {"steps": steps, "stopped": history.stopped, "epochs": len(history.loss)}


def message_of(function):
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def diverges(folder):
    """One row, which one of the processes has, makes the loss infinite."""
    x = data()
    x[4, 0] = 1e200
    return {"error": message_of(lambda: quiet(autoencoder(), x, epochs=1, batch_size=8))}


def fails_alone(folder):
    """An error in the second process ends the first, which waits for it."""

    def transform(x):
        if os.environ["RANK"] == "1":
            raise ValueError("only here")
        return x

    fit = functools.partial(quiet, autoencoder(), data(), transform=transform, epochs=1)
    return {"error": message_of(fit)}


def refused(folder):
    graph, dataset = autoencoder(), TensorDataset(data())
    own = data(8, seed=int(os.environ["RANK"]))
    calls = {
        "loader": lambda: quiet(graph, DataLoader(dataset, batch_size=8), epochs=1),
        "generator": lambda: quiet(graph, iter(data().split(8)), epochs=1, steps_per_epoch=3),
        "other data": lambda: quiet(graph, own, epochs=1),
        "other graph": lambda: quiet(
            autoencoder(normalized=os.environ["RANK"] == "1"), data(), epochs=1
        ),
        "no checkpoint": lambda: quiet(graph, data(), epochs=1, resume=folder / "none"),
    }
    return {name: message_of(call) for name, call in calls.items()}


SGD = functools.partial(torch.optim.SGD, lr=0.1)


def different_arguments(folder):
    """Each call differs between the processes in one argument, under whose name it is refused."""
    second = os.environ["RANK"] == "1"
    x, held_out, warm_up = data(), data(11, seed=1), pv.objectives.warm_up
    calls = {
        "epochs": {"epochs": 2 + second},
        "batch_size": {"batch_size": 8 * (1 + second)},
        "drop_last": {"drop_last": second},
        "accumulate": {"accumulate": 1 + second},
        "patience": {"patience": 1 + second, "validation": held_out},
        "learning_rate": {"learning_rate": 1e-3 * (1 + second)},
        "clip_norm": {"clip_norm": 1.0 + second},
        "ema": {"ema": 0.5 if second else None},
        "freeze": {"freeze": "posterior" if second else ()},
        "validation": {"validation": held_out if second else None},
        "resume": {"resume": None if second else folder / "none"},
        "scheduler": {"scheduler": None if second else lambda _: pytest.fail("it was made")},
        "optimizer": {"optimizer": SGD if second else torch.optim.Adam},
        "optimizer's learning rates": {
            "optimizer": functools.partial(torch.optim.SGD, lr=0.1 * (1 + second))
        },
        "optimizer's options": {
            "optimizer": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.5 * second)
        },
        "scheduler's options": {
            "scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 1 + second)
        },
        "objective's beta": {"objective": pv.objectives.SGVB_A(beta=warm_up(0.1 + 0.1 * second))},
        "objective's samples": {"objective": pv.objectives.SGVB_A(samples=1 + second)},
        "objective's nats": {"objective": pv.objectives.FreeBits(nats=0.1 + second)},
    }
    found = {}
    for name, call in calls.items():
        graph = noisy_vae()
        before = {key: value.clone() for key, value in graph.state_dict().items()}
        error = message_of(functools.partial(quiet, graph, x, **{"epochs": 1, **call}))
        same = all(torch.equal(before[key], value) for key, value in graph.state_dict().items())
        found[name] = error, same
    return found


def other_kinds(folder):
    """Arrays in one process, an iterable in the other."""
    x = data() if os.environ["RANK"] == "0" else Passes(list(data().split(8)))
    return {"error": message_of(lambda: quiet(autoencoder(), x, epochs=1))}


def legal_differences(folder):
    """What may differ: the seed, of which the first counts, files, progress and hooks.

    So may the order of parts, types of numbers, and what an objective of one's own keeps.
    """
    second = os.environ["RANK"] == "1"

    class Own(pv.objectives.SGVB_B):
        device = None

    graph, objective = noisy_vae(), Own()
    objective.device = f"cuda:{int(second)}"
    mine = {} if second else {"checkpoint": folder / "mine", "hooks": pv.hooks.Hook()}
    rates = {"likelihood": 1e-3, "posterior": 2e-3}
    mine["learning_rate"] = dict(reversed(rates.items())) if second else rates
    mine |= {"clip_norm": np.float64(1.0) if second else 1.0, "objective": objective}
    history = pv.fit(graph, data(), epochs=1, seed=5 if second else 3, progress=False, **mine)
    return {"seed": history.seed, "state": graph.state_dict()}


def unwritable(folder):
    """The first process alone writes, and all hear that it cannot."""
    mine = folder if os.environ["RANK"] == "0" else None
    return {"error": message_of(lambda: quiet(autoencoder(), data(), epochs=1, checkpoint=mine))}


def uneven_resumed(folder):
    """The first process has one minibatch more: 4 and 3."""
    rank, file = int(os.environ["RANK"]), folder / "uneven.safetensors"
    own = Passes(list(data(28).split(4))[rank::2])
    fewer = Passes(own.minibatches[: 4 - 2 * rank])  # 4 and 2
    whole, parts = autoencoder(), autoencoder()
    quiet(whole, own, epochs=3)
    quiet(autoencoder(), own, epochs=1, checkpoint=file)
    quiet(parts, own, epochs=3, resume=file)
    error = message_of(lambda: quiet(autoencoder(), fewer, epochs=3, resume=file))
    return {"whole": whole.state_dict(), "parts": parts.state_dict(), "error": error}


class Stop(pv.hooks.Hook):
    """Ends a fit within its first epoch."""

    def on_step(self, step):
        return step.step == 2


def stopped_in_files(folder):
    """A checkpoint within an epoch of files, from which two processes go on."""
    x, file = open_shards(folder / "shards"), folder / "within.safetensors"
    x.block = 4
    whole, again = (autoencoder().float() for _ in range(2))
    quiet(whole, x, epochs=2, batch_size=8)
    quiet(autoencoder().float(), x, epochs=2, batch_size=8, checkpoint=file, hooks=Stop())
    quiet(again, x, epochs=2, batch_size=8, resume=file)
    return {"whole": whole.state_dict(), "again": again.state_dict()}


def distributed_sampler(folder):
    """A loader with a distributed sampler is a share; it is shuffled anew in each epoch."""
    dataset = TensorDataset(data(16), torch.arange(16.0).unsqueeze(1))
    sampler = DistributedSampler(dataset)
    seen = []

    def note(x, number):
        seen.append(number.flatten().tolist())
        return x

    loader = DataLoader(dataset, batch_size=4, sampler=sampler)
    quiet(autoencoder(), loader, batch_transform=note, epochs=2)
    return {"seen": seen[-4:]}


def shards(folder):
    """Cells in files: each process notes which it reads."""
    seen = []

    def note(x):
        seen.append(x[:, 0].long().tolist())
        return x

    x, file = open_shards(folder / "shards"), folder / "shards.safetensors"
    x.block = 4
    graph, again = (autoencoder().float() for _ in range(2))
    options = {"batch_size": 8, "validation": x}
    history = quiet(graph, x, transform=note, epochs=2, **options)
    quiet(autoencoder().float(), x, epochs=1, **options, checkpoint=file)
    resumed = quiet(again, x, epochs=2, **options, resume=file)
    validation = [history.validation_elbo, resumed.validation_elbo]
    return {"seen": seen, "validation": validation}


def drawn_items(folder):
    """A data set that draws its items anew at each visit is the same in both processes."""

    class Noisy(Items):
        def __getitem__(self, i):
            return self.items[i] + 0.01 * torch.randn(6, dtype=torch.double)

    torch.manual_seed(int(os.environ["RANK"]))
    call = functools.partial(quiet, autoencoder(), Noisy(list(data())), epochs=1, batch_size=8)
    return {"error": message_of(call)}


ONLY_IN_A_JOB = [
    drawn_items,
    shards,
    resumed,
    one_writer,
    diverges,
    fails_alone,
    refused,
    different_arguments,
    other_kinds,
    legal_differences,
    unwritable,
    uneven_resumed,
    stopped_in_files,
    distributed_sampler,
]


def write_shards(folder):
    folder.mkdir()
    for i, part in enumerate(data().split(20)):
        x = part.float().numpy()
        x[:, 0] = range(20 * i, 20 * i + len(x))
        anndata.AnnData(x).write_h5ad(folder / f"{i}.h5ad")


def record(graph, history):
    tensors = {name: tensor.detach() for name, tensor in graph.state_dict().items()}
    figures = ("loss", "reconstruction", "validation_elbo", "stopped", "best_epoch")
    return {"state": tensors, **{name: getattr(history, name) for name in figures}}


def in_job(rank, folder, port):
    """What each process of the job runs: as `torchrun` starts it, but for the program."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(where, RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    torch.set_num_threads(1)
    found = {}
    for scenario in SAME:
        found[scenario.__name__] = record(*scenario(folder))
    for scenario in ONLY_IN_A_JOB:
        found[scenario.__name__] = scenario(folder)
    torch.save(found, folder / f"process{rank}.pt")  # read by the tests, which wrote it


def run_job(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_shards(folder / "shards")
    torch.multiprocessing.spawn(in_job, (folder, port), nprocs=PROCESSES)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What two processes found, once for all workers of pytest-xdist; each has a copy."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    shared = tmp_path_factory.getbasetemp().parent / f"job-{run}"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            begun = tmp_path_factory.mktemp("begun")
            run_job(begun)
            begun.rename(shared)
    folder = Path(shutil.copytree(shared, tmp_path_factory.mktemp("job"), dirs_exist_ok=True))
    files = [folder / f"process{rank}.pt" for rank in range(PROCESSES)]
    return folder, [torch.load(file, weights_only=False) for file in files]


@pytest.mark.parametrize("scenario", SAME, ids=lambda scenario: scenario.__name__)
def test_two_processes_give_the_result_of_one(job, scenario):
    alone = record(*scenario(job[0]))
    for found in job[1]:
        together = found[scenario.__name__]
        assert together["state"].keys() == alone["state"].keys()
        for name, tensor in alone["state"].items():
            assert torch.allclose(together["state"][name], tensor, TOLERANCE, TOLERANCE), name
        for name in ("loss", "reconstruction", "validation_elbo"):
            expected = pytest.approx(alone[name], rel=TOLERANCE, abs=TOLERANCE, nan_ok=True)
            assert together[name] == expected, name
        assert together["stopped"] == alone["stopped"]
        assert together["best_epoch"] == alone["best_epoch"]


@pytest.mark.parametrize("scenario", SAME, ids=lambda scenario: scenario.__name__)
def test_both_processes_hold_the_same_bits(job, scenario):
    first, second = (found[scenario.__name__] for found in job[1])
    for name, tensor in first["state"].items():
        assert torch.equal(second["state"][name], tensor), name
    assert first["validation_elbo"] == second["validation_elbo"]


def test_training_moved_the_weights(job):
    """Or all comparisons above would hold for fits that do nothing."""
    before, after = autoencoder().state_dict(), job[1][0]["plain"]["state"]
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_resumes_all_processes_bit_for_bit(job):
    for found in job[1]:
        whole, parts = found["resumed"]["whole"], found["resumed"]["parts"]
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        assert found["resumed"]["loss"][0] == found["resumed"]["loss"][1]


def test_a_checkpoint_of_two_processes_resumes_in_one(job):
    folder, found = job
    graph = noisy_vae()
    history = quiet(graph, data(), epochs=4, batch_size=8, resume=folder / "resumed.safetensors")
    losses = found[0]["resumed"]["loss"][0]
    assert history.loss[:2] == losses[:2]
    assert len(history.loss) == 4
    assert history.stopped == "all epochs ran"


def test_the_first_process_writes_and_all_follow_its_callback(job):
    folder, (first, second) = job
    assert first["one_writer"]["steps"] == [8, 8, 8, 8, 5] * 2  # of all processes
    assert second["one_writer"]["steps"] == []
    for found in (first, second):
        assert found["one_writer"]["stopped"] == "the callback ended it"
        assert found["one_writer"]["epochs"] == 2
    assert (folder / "steps0.csv").is_file()
    assert (folder / "writer0.safetensors").is_file()
    assert not (folder / "steps1.csv").exists()
    assert not (folder / "writer1.safetensors").exists()


def test_a_loss_that_is_not_finite_ends_both_with_the_same_error(job):
    first, second = (found["diverges"]["error"] for found in job[1])
    assert first == second
    assert first.startswith("TrainingError")
    assert "rows [4]" in first


def test_an_error_in_one_process_ends_the_other(job):
    first, second = (found["fails_alone"]["error"] for found in job[1])
    assert second == "ValueError: only here"
    assert first.startswith("ConnectionError: fit: process 0 lost")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loader", "DistributedSampler(dataset)"),
        ("generator", "begin with the same minibatch"),
        ("other data", "different data"),
        ("other graph", "Build the same graph"),
        ("no checkpoint", "no checkpoint to resume from"),
    ],
)
def test_what_cannot_work_is_refused_in_both(job, name, words):
    for found in job[1]:
        assert words in found["refused"][name]


def test_processes_with_different_arguments_all_name_the_argument(job):
    first, second = (found["different_arguments"] for found in job[1])
    assert first == second
    for name, (error, untouched) in first.items():
        assert error.startswith(f"ValueError: fit: {name} is "), (name, error)
        assert "in process 0 of the job" in error
        assert untouched, name


def test_arrays_in_one_process_and_an_iterable_in_another_are_refused(job):
    for found in job[1]:
        assert found["other_kinds"]["error"].startswith("ValueError: fit: some processes")


def test_seed_files_and_hooks_may_differ(job):
    first, second = (found["legal_differences"] for found in job[1])
    assert first["seed"] == second["seed"] == 3
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in first["state"])


def test_all_processes_hear_that_the_checkpoint_cannot_be_written(job):
    for found in job[1]:
        assert "is a folder" in found["unwritable"]["error"]


def test_iterables_of_different_lengths_are_resumed(job):
    for found in job[1]:
        whole, parts = found["uneven_resumed"]["whole"], found["uneven_resumed"]["parts"]
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        assert (
            "number of minibatches in each process ([4, 3], here [4, 2])"
            in (found["uneven_resumed"]["error"])
        )


def test_within_an_epoch_of_files_as_many_processes_must_continue(job):
    folder, found = job
    for one in found:
        whole, again = one["stopped_in_files"].values()
        assert all(torch.equal(whole[name], again[name]) for name in whole)
    x, graph = open_shards(folder / "shards"), autoencoder().float()
    x.block = 4
    resume = functools.partial(quiet, graph, x, epochs=2, batch_size=8)
    with pytest.raises(pv.FileError, match=r"within an epoch by a fit in 2 processes, .* 1 here"):
        resume(resume=folder / "within.safetensors")
    after_an_epoch = folder / "shards.safetensors"
    assert len(resume(validation=x, resume=after_an_epoch).loss) == 2


def test_cells_in_files_are_read_once_an_epoch_by_one_process(job):
    shares = [found["shards"]["seen"] for found in job[1]]
    # The first minibatch of all is the example on which the programs are checked, in each process.
    read = [[cell for part in share[1:] for cell in part] for share in shares]
    assert sorted(read[0] + read[1]) == sorted([*range(ROWS)] * 2)
    assert not set(read[0][:8]) & set(read[1][:8])
    first, second = (found["shards"]["validation"] for found in job[1])
    assert first == second
    assert first[0] == first[1]  # of a resumed fit


def test_a_data_set_may_draw_its_items(job):
    assert [found["drawn_items"]["error"] for found in job[1]] == ["", ""]


def test_a_distributed_sampler_gives_each_row_once(job):
    shares = [found["distributed_sampler"]["seen"] for found in job[1]]
    for epoch in (slice(0, 2), slice(2, 4)):
        rows = [row for share in shares for part in share[epoch] for row in part]
        assert sorted(rows) == list(range(16))
    assert shares[0][:2] != shares[0][2:]


# ---------------------------------------------------------------------------- without a process
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_the_shares_of_an_epoch_are_its_minibatches(parts):
    x = data().float()
    kinds = [x, Items(list(x))]
    for kind in kinds:
        whole = list(as_minibatches(kind, None, batch_size=8).epoch(5))
        shares = [
            list(as_minibatches(kind, None, batch_size=8, share=Share(i, parts)).epoch(5))
            for i in range(parts)
        ]
        assert all(len(share) == len(whole) for share in shares)
        for minibatch, *some in zip(whole, *shares, strict=True):
            rows = torch.cat([part.rows for part in some])
            assert sorted(rows.tolist()) == sorted(minibatch.rows.tolist())
            read = torch.cat([part.batch[0] for part in some if part.batch])
            assert torch.equal(read, x[rows])


@pytest.mark.parametrize("parts", [1, 2, 5, 50])
def test_the_shares_in_order_are_all_rows(parts):
    x = data().float()
    for kind in (x, Items(list(x))):
        shares = [
            as_minibatches(kind, None, batch_size=8, share=Share(i, parts)) for i in range(parts)
        ]
        rows = [row for share in shares for part in share.in_order() for row in part.rows.tolist()]
        assert rows == list(range(ROWS))


class Two(Processes):
    """One process that takes itself for the first of two, of which the other has no rows."""

    def __init__(self):
        super().__init__()
        self.size = 2

    def total(self, tensor):
        return tensor


def test_copies_of_a_synchronized_layer_are_called_in_their_own_mode():
    """The prior's view of the posterior ran in training mode: its inputs counted as data."""
    graph, x = autoencoder(normalized=True), data()
    q = pv.posteriors.DiagonalNormal(graph.posterior.net)
    prior = pv.priors.Vamp(q, x[:5])
    layer, expected = q.net[1], prior().log_prob(torch.ones(1).double())
    with synchronized(Programs(pv.VAE(prior, q, graph.likelihood)), Two()):
        q(x)
        assert layer.num_batches_tracked == 1
        layer.load_state_dict(nn.BatchNorm1d(5).double().state_dict())
        assert torch.equal(prior().log_prob(torch.ones(1).double()), expected)
        copy.deepcopy(layer)(torch.zeros(3, 5).double())
        assert layer.num_batches_tracked == 0


class Endless(IterableDataset):
    def __iter__(self):
        return iter(data())


def test_an_iterable_data_set_is_taken_for_a_share():
    minibatches = as_minibatches(Endless(), None, batch_size=8, steps=3, share=Share(1, 2))
    assert not minibatches.divided


def test_one_process_alone_is_untouched_by_a_job_of_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    history = quiet(autoencoder(), data(), epochs=1)
    assert math.isfinite(history.loss[0])
