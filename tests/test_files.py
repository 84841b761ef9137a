"""Save and load: compositions round-trip, nothing from a file runs, what is broken is named."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.files import History, model, write_atomically


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
    whole["sha256"] = model._sha256(model._canonical(whole["content"]))
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
    with pytest.raises(ValueError, match="names nothing that this version of the library knows"):
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
