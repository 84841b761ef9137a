"""Files of version 0.1.0 (commit 853ea95) still load, and their models compute what they did."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pyrovae as pv
from pyrovae.files.names import _CLASSES, class_named, name_of

SAVED = Path(__file__).parent / "fixtures" / "format-1"


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_an_image_model_computes_what_it_did():
    graph, expected = (
        pv.load(SAVED / "image_vae"),
        load_file(SAVED / "image_vae" / "outputs.safetensors"),
    )
    x = expected["x"]
    close(pv.embed(graph, x), expected["embedding"])
    close(pv.reconstruct(graph, x), expected["reconstruction"])
    close(graph.graph.prior().log_prob(expected["embedding"]), expected["prior_log_prob"])
    close(pv.log_evidence(graph, x, samples=16, seed=0).log_p, expected["log_p"])


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_a_count_model_computes_what_it_did():
    folder = SAVED / "poisson_counts"
    graph, expected = pv.load(folder), load_file(folder / "outputs.safetensors")
    x, c = expected["x"], expected["c"]
    assert type(graph.likelihood) is pv.expression.Poisson
    z, l = pv.embed(graph, x, c), pv.embed(graph, x, c, site="l")  # noqa: E741
    close(z, expected["embedding"])
    close(l, expected["library"])
    close(graph.likelihood.proportions(z, c), expected["proportions"])
    close(graph.likelihood(z, l, c).log_prob(x), expected["log_prob"])
    close(pv.log_evidence(graph, x, c, samples=16, seed=0).log_p, expected["log_p"])


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_a_flow_of_pyros_networks_computes_what_it_did(tmp_path):
    """Version 0.1.0 held one of Pyro's networks for each step of `priors.Flow`."""
    graph = pv.load(SAVED / "flow_prior")
    expected = load_file(SAVED / "flow_prior" / "outputs.safetensors")
    x, z1, z2 = expected["x"], expected["z1"], expected["z2"]
    for again in (graph, pv.load(pv.save(graph, tmp_path))):
        close(again.top_prior().log_prob(z2), expected["top_prior"])
        close(again.prior(z2).log_prob(z1), expected["prior"])
        close(again.posterior(x).log_prob(z1[:8]), expected["posterior"])
        # Two means of 256 draws each, of other noise: equal within 4.5 standard errors.
        error = again.posterior(x).sample((4096,)).std(0) * (2 / 256) ** 0.5
        z = (pv.embed(again, x, site="z1") - expected["embedding"]) / error
        assert z.abs().max() < 4.5
        close(pv.log_evidence(again, x, samples=16, seed=0).log_p, expected["log_p"])


def test_weights_of_a_flow_of_another_shape_are_refused():
    tensors = load_file(next((SAVED / "flow_prior").glob("weights-*.safetensors")))
    name = "top_prior."
    old = {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}
    for steps, hidden in ((2, (6, 5)), (4, (6, 5)), (3, (6, 4)), (3, (6,)), (3, (6, 5, 5))):
        flow = pv.priors.Flow(3, steps, hidden)
        with pytest.raises(RuntimeError, match="networks"):
            flow.load_state_dict(old)


@pytest.mark.parametrize("folder", ["image_vae", "poisson_counts"])
def test_the_history_of_a_fit_is_read(folder):
    kept = pv.inspect(SAVED / folder)["history"]
    history = pv.History.from_dict(kept)
    assert history.beta == kept["weight"]
    assert len(history.beta) == len(history.elbo) > 0
    assert history.bound_name == kept["bound"] == "ELBO"


@pytest.mark.parametrize("folder", ["image_vae", "poisson_counts"])
def test_what_was_saved_is_saved_under_the_same_names(folder, tmp_path):
    pv.save(pv.load(SAVED / folder), tmp_path)
    assert pv.inspect(tmp_path)["graph"] == pv.inspect(SAVED / folder)["graph"]


def test_every_class_that_a_file_names_is_public():
    for name, (home, cls) in _CLASSES.items():
        module = __import__(f"pyrovae.{home}", fromlist=[cls])
        assert cls in module.__all__
        assert class_named(name) is getattr(module, cls)
        assert class_named(name_of(class_named(name))) is class_named(name)
    assert class_named("os.system") is None
    assert name_of(torch.nn.Linear) is None
