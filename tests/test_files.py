"""Save and load: compositions round-trip, nothing from a file runs, what is broken is named."""

import copy
import json
import os
import stat
import threading
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from safetensors import SafetensorError
from torch import nn

import pyrovae as pv
from pyrovae import files
from pyrovae.files import History, model, write_atomically
from pyrovae.files.sealed import digest_of


def vae(likelihood=None, posterior=None, prior=None):
    return pv.VAE(
        prior or pv.priors.StandardNormal(2),
        posterior or pv.posteriors.DiagonalNormal(pv.nets.MLP(6, (5,), 4, activation=nn.Tanh)),
        likelihood or pv.likelihoods.Bernoulli(pv.nets.MLP(2, (5,), 6)),
    )


def equal(a, b):
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(u, v)
        for u, v in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def built_in_graphs():
    shape = (1, 8, 8)
    yield vae()
    yield vae(prior=pv.priors.Flat(2), posterior=pv.posteriors.Point(pv.nets.MLP(6, (5,), 2)))
    yield vae(
        posterior=pv.conditional.Standardized(
            pv.posteriors.DiagonalNormal(pv.nets.MLP(6, (), 4)), 3.0, 2.0
        )
    )
    yield vae(
        posterior=pv.posteriors.DiagonalNormal(pv.nets.ConvEncoder(shape, 4)),
        likelihood=pv.likelihoods.ContinuousBernoulli(pv.nets.ConvDecoder(2, shape)),
    )
    yield pv.Denoising(vae(), pv.graphs.MaskingNoise(0.2))
    yield pv.Denoising(vae(), pv.graphs.GaussianNoise(0.2))
    yield vae().double()
    shared = pv.posteriors.DiagonalNormal(pv.nets.MLP(6, (5,), 4))
    yield vae(posterior=shared, likelihood=pv.likelihoods.Gaussian(pv.nets.MLP(2, (5,), 6)))


@pytest.mark.parametrize(
    "graph",
    list(built_in_graphs()),
    ids=lambda graph: type(getattr(graph, "likelihood", graph)).__name__,
)
def test_compositions_of_built_in_parts_round_trip(tmp_path, graph):
    pv.save(graph, tmp_path / "model")
    loaded = pv.load(tmp_path / "model")
    assert pv.load(tmp_path / "model", into=copy.deepcopy(graph))
    assert repr(loaded) == repr(graph)
    assert equal(graph, loaded)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {p.dtype for p in graph.parameters()}


def test_the_same_part_twice_is_one_part_again(tmp_path):
    net = pv.nets.MLP(2, (5,), 2)
    graph = pv.VAE(
        pv.priors.StandardNormal(1),
        pv.posteriors.DiagonalNormal(net),
        pv.likelihoods.HeteroscedasticGaussian(net),
    )
    loaded = pv.load(pv.save(graph, tmp_path / "model"))
    assert loaded.posterior.net is loaded.likelihood.net
    assert equal(graph, loaded)


class Views(nn.Module):
    """Tensors that share memory: one is a view of another, one is another."""

    def __init__(self):
        super().__init__()
        whole = torch.randn(3, 2)
        self.register_buffer("whole", whole)
        self.register_buffer("first", whole[0])
        self.register_buffer("again", whole)


def test_views_of_one_tensor_are_all_kept(tmp_path):
    graph, other = Views(), Views()
    pv.save(graph, tmp_path)
    assert equal(pv.load(tmp_path, into=other), graph)
    assert pv.inspect(tmp_path)["parameters"] == 6 + 2  # what is the same tensor is written once


def test_history_metrics_and_fingerprint_are_kept(tmp_path):
    graph = vae()
    history = pv.fit(graph, torch.rand(20, 6).round(), epochs=2, progress=False)
    pv.save(graph, tmp_path, history=history, metrics={"elbo": -3.5})
    content = pv.inspect(tmp_path)
    assert pv.History.from_dict(content["history"]) == history
    assert content["data"] == history.data
    assert content["metrics"] == {"elbo": -3.5}
    assert content["parameters"] == sum(p.numel() for p in graph.parameters())
    assert (
        content["versions"]["torch"] == torch.__version__.split("+")[0]
        or content["versions"]["torch"] == torch.__version__
    )


class Mine(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(6, width)

    def forward(self, x):
        raise AssertionError("inspecting or loading must not run a network")


def test_a_part_of_the_users_loads_into_what_the_user_builds(tmp_path):
    graph = vae(posterior=pv.posteriors.DiagonalNormal(Mine(4)))
    pv.save(graph, tmp_path)
    with pytest.raises(
        ValueError, match=r"graph\.posterior\.net is a .*Mine.*load\(folder, into=graph\)"
    ):
        pv.load(tmp_path)
    other = vae(posterior=pv.posteriors.DiagonalNormal(Mine(4)))
    assert pv.load(tmp_path, into=other) is other
    assert equal(graph, other)
    with pytest.raises(pv.FileError, match=r"net\.linear\.out_features was 4 .*, and is 5 here"):
        pv.load(tmp_path, into=vae(posterior=pv.posteriors.DiagonalNormal(Mine(5))))
    assert pv.inspect(tmp_path)["graph"]["arguments"]["posterior"]["arguments"]["net"][
        "foreign"
    ].endswith("Mine")


def rewritten(folder, change):
    """Change the JSON as an attacker would, checksum and all."""
    path = folder / "model.json"
    whole = json.loads(path.read_text())
    change(whole["content"])
    whole["sha256"] = digest_of(whole["content"])
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "graphs.os",
        "nets.nn.Linear",
        "builtins.eval",
        "files.save",
        "torch.nn.Linear",
        "graphs.VAE.__init__",
        "likelihoods.suggest_likelihoods",
        "",
        None,
        3,
    ],
)
def test_a_file_cannot_name_code(tmp_path, name):
    pv.save(vae(), tmp_path)
    rewritten(
        tmp_path,
        lambda content: content["graph"]["arguments"].update(
            prior={"class": name, "arguments": {"command": "touch owned"}}
        ),
    )
    with pytest.raises(pv.FileError, match=r"names nothing that this version|class is .* text"):
        pv.load(tmp_path)


@pytest.mark.parametrize("activation", ["Linear", "__builtins__", "torch", "F"])
def test_a_file_cannot_name_an_activation_that_is_none(tmp_path, activation):
    pv.save(vae(), tmp_path)
    net = ("posterior", "net")
    rewritten(
        tmp_path,
        lambda c: c["graph"]["arguments"][net[0]]["arguments"][net[1]]["arguments"].update(
            activation={"activation": activation}
        ),
    )
    with pytest.raises(ValueError, match="names nothing"):
        pv.load(tmp_path)


def test_weights_named_outside_the_folder_are_not_read(tmp_path):
    pv.save(vae(), tmp_path / "model")
    rewritten(
        tmp_path / "model", lambda content: content["weights"].update(file="../../etc/passwd")
    )
    with pytest.raises(ValueError, match="missing, truncated or altered"):
        pv.load(tmp_path / "model")


def test_truncated_tampered_and_foreign_files_are_named(tmp_path):
    folder = pv.save(vae(), tmp_path / "model")
    weights, description = next(folder.glob("*.safetensors")), folder / "model.json"
    kept = {path: path.read_bytes() for path in (weights, description)}
    flipped = bytearray(kept[weights])
    flipped[-1] ^= 1
    broken = [
        (weights, kept[weights][:-9], "missing, truncated or altered"),
        (weights, bytes(flipped), "missing, truncated or altered"),
        (description, kept[description][:200], "truncated or not a model"),
        (description, b"[]", "truncated or not a model"),
        (description, b"\x80\x04\x95", "truncated or not a model"),
        (
            description,
            kept[description].replace(b'"d": 2', b'"d": 3'),
            "altered since it was saved",
        ),
        (
            description,
            kept[description].replace(b"pyrovae-model-1", b"pyrovae-model-9"),
            "this version reads",
        ),
    ]
    for path, content, words in broken:
        path.write_bytes(content)
        for read in (pv.load, pv.inspect):
            with pytest.raises(ValueError, match=words):
                read(folder)
        path.write_bytes(kept[path])
    assert isinstance(pv.load(folder), pv.VAE)
    with pytest.raises(FileNotFoundError, match="no model here"):
        pv.load(tmp_path)


@pytest.mark.parametrize("at", range(2))
def test_a_crash_half_way_leaves_the_old_model_whole(tmp_path, monkeypatch, at):
    old, new = vae(), vae()
    folder = pv.save(old, tmp_path / "model")
    calls, really = [], os.replace

    def crash(source, target):
        calls.append(target)
        if len(calls) == at + 1:
            raise OSError("disk full")
        really(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        pv.save(new, folder)
    monkeypatch.undo()
    assert equal(pv.load(folder), old)
    assert len(list(folder.iterdir())) == 2


def test_saving_again_replaces_the_model_and_leaves_no_litter(tmp_path):
    folder, new = pv.save(vae(), tmp_path), vae()
    pv.save(new, folder)
    assert equal(pv.load(folder), new)
    assert len(list(folder.iterdir())) == 2


def test_only_the_weights_of_the_replaced_model_are_removed(tmp_path):
    folder = pv.save(vae(), tmp_path)
    mine = [tmp_path / name for name in ("weights-mine.safetensors", "weights-0.safetensors")]
    for path in mine:
        path.write_text("of the user")
    rewritten(folder, lambda content: content["weights"].update(file="../weights-mine.txt"))
    (tmp_path.parent / "weights-mine.txt").write_text("of the user")
    old = [path for path in folder.glob("weights-*") if path not in mine]
    for _ in range(2):
        new = vae()
        pv.save(new, folder)
        assert equal(pv.load(folder), new)
    pv.save(new, folder)  # the same weights again
    assert equal(pv.load(folder), new)
    assert all(path.read_text() == "of the user" for path in mine)
    assert (tmp_path.parent / "weights-mine.txt").exists()
    assert len(list(folder.iterdir())) == 2 + len(mine) + len(old)


def aged(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_old_weights_that_no_model_names_are_removed_when_it_is_saved(tmp_path):
    """Two processes that saved at a time left the weights of one of them for ever."""
    folder = pv.save(vae(), tmp_path / "model")
    left, young, mine = (
        folder / f"weights-{name}.safetensors" for name in ("0" * 16, "1" * 16, "of-the-user")
    )
    for path in (left, young, mine):
        path.write_text("weights")
    for path in (left, mine):
        aged(path, 7200)
    new = vae()
    aged(next(path for path in folder.glob("weights-*") if path.stat().st_size > 7), 7200)
    pv.save(new, folder)
    assert equal(pv.load(folder), new)
    assert (left.exists(), young.exists(), mine.exists()) == (False, True, True)
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("removed", ["before it is opened", "never"])
def test_a_model_is_read_again_if_another_process_saves_meanwhile(tmp_path, monkeypatch, removed):
    old, new = vae(), vae()
    folder = pv.save(old, tmp_path)
    read_bytes, done = Path.read_bytes, []

    def racing(path):
        if not done:
            done.append(path)
            if removed == "never":
                path.unlink()
            else:
                pv.save(new, folder)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", racing)
    if removed == "never":  # nobody saved: the model is damaged
        with pytest.raises(pv.FileError, match="missing, truncated or altered"):
            pv.load(folder)
    else:
        assert equal(pv.load(folder), new)


def test_a_model_is_read_once_and_its_description_without_the_weights(tmp_path, monkeypatch):
    folder, reads, hashes = pv.save(vae(), tmp_path), [], []
    read_bytes, sha256 = Path.read_bytes, model._sha256
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read_bytes(path))
    monkeypatch.setattr(model, "_sha256", lambda data: hashes.append(len(data)) or sha256(data))
    size = next(folder.glob("weights-*")).stat().st_size
    assert model.description(folder)["weights"]["file"] == next(folder.glob("weights-*")).name
    assert (len(reads), hashes.count(size)) == (0, 0)
    for i, read in enumerate((pv.load, pv.inspect), 1):
        read(folder)
        assert (len(reads), hashes.count(size)) == (i, i)
    hashes.clear()
    pv.save(vae(), folder)
    assert (len(reads), hashes.count(size)) == (2, 1)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_permissions_that_the_process_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "folder" / "file", lambda path: path.write_text("whole"))
    finally:
        assert os.umask(before) == mask
    assert stat.S_IMODE((tmp_path / "folder" / "file").stat().st_mode) == 0o666 & ~mask


def test_writing_leaves_the_mask_of_other_threads_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask of the process was set"))
    threads = [
        threading.Thread(
            target=write_atomically, args=(tmp_path / "file", lambda path: path.write_text("x"))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(part):
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("File too large")])
def test_a_full_disk_is_named_with_the_path(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(part):
        raise error

    with pytest.raises(OSError, match=r"file cannot be written \(.*\)\. Free space") as found:
        write_atomically(path, fail)
    assert str(tmp_path) in str(found.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("name", ["file/below", "x" * 300])
def test_a_file_that_cannot_even_be_begun_is_named(tmp_path, name):
    (tmp_path / "file").write_text("old")
    for write in (files.check_writable, lambda path: write_atomically(path, Path.touch)):
        with pytest.raises(OSError, match=r"cannot be written \(.*\)\. Write to a folder"):
            write(tmp_path / name)
    with pytest.raises(OSError, match="is a folder, expected the name of a file"):
        files.check_writable(tmp_path)
    files.check_writable(tmp_path / "file")
    files.check_writable(tmp_path / "new" / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert list((tmp_path / "new").iterdir()) == []


def test_a_history_of_an_earlier_or_later_version_is_read():
    old = {"elbo": [-1.0], "loss": [1.0], "weight": [0.5], "bound": "L_5", "later": 3}
    history = History.from_dict(old)
    assert (history.beta, history.bound_name, history.epoch) == ([0.5], "L_5", [1])
    assert History.from_dict(history.to_dict()) == history


def test_metrics_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError):
        pv.save(vae(), tmp_path / "model", metrics={"x": torch.zeros(2)})
    assert not (tmp_path / "model").exists()
    with pytest.raises(TypeError, match="an nn"):
        pv.save(object(), tmp_path / "model")


# ------------------------------------------------------------------------ load(into=) compares
CONSTANTS = {
    "sigma": (
        vae(pv.likelihoods.Gaussian(pv.nets.MLP(2, (5,), 6), sigma=0.5)),
        vae(pv.likelihoods.Gaussian(pv.nets.MLP(2, (5,), 6), sigma=2.0)),
    ),
    "total_count": (
        vae(pv.likelihoods.Binomial(pv.nets.MLP(2, (5,), 6), 16)),
        vae(pv.likelihoods.Binomial(pv.nets.MLP(2, (5,), 6), 20)),
    ),
    "activation": (
        vae(),
        vae(pv.likelihoods.Bernoulli(pv.nets.MLP(2, (5,), 6, activation=nn.ELU))),
    ),
    "prior": (vae(), vae(prior=pv.priors.Flat(2))),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_graph_built_with_other_arguments_is_refused_and_left_alone(tmp_path, name):
    saved, other = CONSTANTS[name]
    pv.save(saved, tmp_path)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(pv.FileError, match=rf"graph\..*{name} was .* when saved, and is .* here"):
        pv.load(tmp_path, into=other)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


OLD = ("image_vae", "poisson_counts", "flow_prior", "run_cells/model", "run_digits/model")


@pytest.mark.parametrize("name", OLD)
def test_a_file_of_version_0_1_fits_the_graph_that_it_describes(name):
    """Arguments and names of today are compared with those of the time."""
    folder = Path(__file__).parent / "fixtures" / "format-1" / name
    graph = pv.load(folder)
    again = pv.load(folder, into=copy.deepcopy(graph))
    assert equal(graph, again)


class Wrapped(nn.Module):
    """A graph of the user's around a part of the library."""

    def __init__(self, sigma, slope=0.1, width=5):
        super().__init__()
        self.slope, self.calls = slope, 0
        net = nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(slope), nn.Linear(width, 6))
        self.likelihood = pv.likelihoods.Gaussian(net, sigma=sigma)


@pytest.mark.parametrize(
    ("built", "place"),
    [
        ({"sigma": 2.0}, r"graph\.likelihood\.sigma was 0\.5"),
        ({"slope": 0.2}, r"graph\.slope was 0\.1"),
        ({"width": 4}, r"graph\.likelihood\.net\.0\.out_features was 5"),
    ],
)
def test_constants_within_a_graph_of_the_users_are_compared(tmp_path, built, place):
    pv.save(Wrapped(0.5), tmp_path)
    with pytest.raises(pv.FileError, match=place):
        pv.load(tmp_path, into=Wrapped(**{"sigma": 0.5} | built))
    other = Wrapped(0.5)
    other.calls = 3  # no argument of the constructor: it may have counted
    assert pv.load(tmp_path, into=other) is other


def test_each_tensor_is_built_in_the_type_in_which_it_was_saved(tmp_path):
    graph = vae(prior=pv.priors.Mixture(2, 3))
    graph.prior.double()
    with torch.no_grad():
        next(graph.prior.parameters()).fill_(1 / 3)
    loaded = pv.load(pv.save(graph, tmp_path))
    kept = {name: value.dtype for name, value in loaded.state_dict().items()}
    assert set(kept.values()) == {torch.float64, torch.float32}
    assert kept == {name: value.dtype for name, value in graph.state_dict().items()}
    assert equal(graph, loaded)


@pytest.mark.parametrize("now", [torch.float32, torch.bfloat16])
def test_loading_into_a_type_that_rounds_the_weights_is_said(tmp_path, now):
    pv.save(vae().double(), tmp_path)
    with pytest.warns(UserWarning, match=rf"rounded: \S+ from torch\.float64 to {now}\. Build"):
        graph = pv.load(tmp_path, into=vae().to(now))
    assert {value.dtype for value in graph.parameters()} == {now}


def test_loading_into_a_wider_type_changes_no_number(tmp_path):
    saved = vae()
    pv.save(saved, tmp_path)
    graph = pv.load(tmp_path, into=vae().double())
    assert equal(graph.float(), saved)


class Automatic(nn.Module):
    """A graph whose guide makes its parameters at the first call."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(6))
        self.auto = AutoNormal(self.model)

    def model(self, x):
        w = pyro.sample("w", dist.Normal(torch.zeros(6), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=w + self.bias).to_event(1), obs=x)

    def guide(self, x):
        return self.auto(x)


def test_an_automatic_guide_must_be_called_before_it_is_filled(tmp_path):
    graph, other, x = Automatic(), Automatic(), torch.rand(5, 6).round()
    graph.guide(x)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.add_(0.5)
    pv.save(graph, tmp_path)
    with pytest.raises(pv.FileError, match=r"graph\.auto makes .* call graph\.guide\(x\) once"):
        pv.load(tmp_path, into=other)
    other.guide(x)
    assert equal(pv.load(tmp_path, into=other), graph)


def test_a_refused_graph_keeps_its_weights(tmp_path):
    """`load_state_dict` alone has copied the tensors that fit when it raises."""
    graph, other = Views(), Views()
    pv.save(graph, tmp_path)
    other.register_buffer("further", torch.zeros(2))
    before = other.state_dict()["whole"].clone()
    with pytest.raises(pv.FileError, match="the weights do not fit the graph"):
        pv.load(tmp_path, into=other)
    assert torch.equal(other.state_dict()["whole"], before)


def test_a_compiled_network_is_saved_as_the_network(tmp_path):
    net = pv.nets.MLP(2, (5,), 6)
    graph = vae(pv.likelihoods.Bernoulli(torch.compile(net)))
    loaded = pv.load(pv.save(graph, tmp_path))
    assert type(loaded.likelihood.net) is pv.nets.MLP
    assert torch.equal(loaded.likelihood.net.layers[0].weight, net.layers[0].weight)
    again = vae(pv.likelihoods.Bernoulli(torch.compile(pv.nets.MLP(2, (5,), 6))))
    pv.load(tmp_path, into=again)
    assert equal(graph, again)


# ------------------------------------------------------------------------------------- pyro.param
class WithParam(nn.Module):
    """A graph whose guide has parameters in Pyro's store."""

    def __init__(self):
        super().__init__()
        self.inner = vae()

    def model(self, x):
        self.inner.model(x)

    def guide(self, x):
        scale = pyro.param("scale", torch.ones(2), constraint=constraints.greater_than(0.1))
        shift = pyro.param("shift", torch.zeros(2))
        pyro.module("inner", self.inner)
        with pyro.plate("rows", len(x)):
            mean = self.inner.posterior.net(x)[:, :2] + shift
            pyro.sample("z", dist.Normal(mean, scale).to_event(1))


@pytest.mark.filterwarnings("ignore:Found plate statements in guide")
@pytest.mark.parametrize("trained_by", ["fit", "SVI"])
def test_parameters_in_pyros_store_are_saved_and_restored(tmp_path, trained_by):
    graph, x = WithParam(), torch.rand(40, 6).round()
    if trained_by == "fit":
        pyro.param("of another model", torch.zeros(1))
        pv.fit(graph, x, epochs=2, progress=False)
    else:
        svi = SVI(graph.model, graph.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(5):
            svi.step(x)
    scale, before = pyro.param("scale").detach().clone(), pv.elbo(graph, x).elbo
    assert not torch.equal(scale, torch.ones(2))
    pv.save(graph, tmp_path)
    pyro.clear_param_store()
    other = pv.load(tmp_path, into=WithParam())
    assert torch.equal(pyro.param("scale"), scale)
    assert torch.equal(pv.elbo(other, x).elbo, before)
    assert "of another model" not in pyro.get_param_store()
    pyro.clear_param_store()
    pyro.param("scale", torch.full((3,), 2.0))  # of another shape and constraint
    pv.load(tmp_path, into=other)
    assert torch.equal(pv.elbo(other, x).elbo, before)


@pytest.mark.filterwarnings("ignore:Found plate statements in guide")
def test_a_network_that_only_pyros_store_knows_cannot_be_saved(tmp_path):
    hidden = [nn.Linear(6, 4)]

    class Hidden(WithParam):
        def guide(self, x):
            pyro.module("hidden", hidden[0])
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(hidden[0](x)[:, :2], 1.0).to_event(1))

    graph = Hidden()
    pv.fit(graph, torch.rand(20, 6).round(), epochs=1, progress=False)
    with pytest.raises(TypeError, match="'hidden' and that is no part of the graph"):
        pv.save(graph, tmp_path)


# ----------------------------------------------------------------------------- hostile descriptions
def deep(depth):
    return '{"format": "pyrovae-model-1", "x": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize("depth", [150, 980, 100_000])
def test_deeply_nested_json_is_refused(tmp_path, depth):
    (tmp_path / "model.json").write_text(deep(depth))
    for read in (pv.load, pv.inspect):
        with pytest.raises(pv.FileError, match=r"model\.json.*nested"):
            read(tmp_path)


def edited(change):
    return lambda content: change(content["graph"]["arguments"]["posterior"]["arguments"])


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part["net"]["arguments"].update(features_in=10**12),
        lambda part: part["net"]["arguments"].update(hidden=[10**6] * 50),
        lambda part: part["net"]["arguments"].update(hidden=[1] * 200_000),
        lambda part: part["net"]["arguments"].update(hidden="5"),
        lambda part: part["net"]["arguments"].update(context=None),
        lambda part: part.update(floor="x"),
        lambda part: part.update(net={"same as": "graph.prior.nothing"}),
        lambda part: part.update(net={"tensor": [10**9, 10**9], "type": "float32"}),
        lambda part: part.update(net={"tensor": ["a"], "type": "float32"}),
        lambda part: part.update(net={"class": "nets.MLP"}),
        lambda part: part.update(net=3),
        lambda part: part.clear(),
    ],
)
def test_an_edited_description_is_refused_by_name(tmp_path, change):
    pv.save(vae(), tmp_path)
    rewritten(tmp_path, edited(change))
    with pytest.raises(pv.FileError, match=r"model\.json"):
        pv.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(weights=3),
        lambda content: content.pop("weights"),
        lambda content: content.update(graph=None),
        lambda content: content.update(history={"loss": "x"}),
        lambda content: content.update(history={"loss": [1.0, 2.0], "elbo": [1.0]}),
        lambda content: content.update(history={"best_epoch": 3}),
        lambda content: content.update(history={"seed": 1.5}),
        lambda content: content.update(metrics=[]),
        lambda content: content.update(constraints={"scale": {"constraint": "os"}}),
    ],
)
def test_an_edited_model_json_is_refused_by_name(tmp_path, change):
    pv.save(vae(), tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(pv.FileError, match=r"model\.json"):
        pv.load(tmp_path)


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    for name in (".model.json-0123abcd", ".checkpoint.safetensors-deadbeef"):
        (tmp_path / name).write_text("half")
    kept = [tmp_path / name for name in (".gitignore", "model.json", ".notes-of-mine")]
    for path in kept:
        path.write_text("of the user")
    files.remove_temporary(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_history_is_shown_in_one_line():
    empty = History()
    assert repr(empty) == "History(0 epochs, not started)"
    full = History(stopped="all epochs ran")
    for i in range(400):
        full.append(
            loss=float(i), elbo=-1.0, reconstruction=0.0, kl=1.0, beta=1.0, learning_rate=0.1,
            seconds=0.1, validation_elbo=-2.0 - i, validation_reconstruction=0.0, validation_kl=2.0,
        )  # fmt: skip
    full.best_epoch = 1
    assert len(repr(full)) < 120
    assert "best -2.00 at epoch 1" in repr(full)


def test_two_stored_tensors_do_not_fit_one_tied_parameter(tmp_path):
    def make(tied):
        first, last = nn.Linear(6, 6), nn.Linear(6, 6)
        if tied:
            last.weight = first.weight
        q = pv.posteriors.DiagonalNormal(nn.Sequential(first, nn.Linear(6, 4)))
        p = pv.likelihoods.Gaussian(nn.Sequential(nn.Linear(2, 6), last))
        return pv.VAE(pv.priors.StandardNormal(2), q, p)

    pv.save(make(tied=False), tmp_path / "two")
    graph = make(tied=True)
    before = graph.posterior.net[0].weight.clone()
    with pytest.raises(pv.FileError, match=r"are one tensor there, and two in the file"):
        pv.load(tmp_path / "two", into=graph)
    assert torch.equal(graph.posterior.net[0].weight, before)
    pv.save(graph, tmp_path / "one")
    assert torch.equal(
        pv.load(tmp_path / "one", into=make(tied=True)).likelihood.net[1].weight, before
    )


def test_the_file_inside_is_answered_by_its_folder(tmp_path):
    pv.save(pv.priors.StandardNormal(2), tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"Give the folder, .*m$"):
        pv.load(tmp_path / "m" / "model.json")
