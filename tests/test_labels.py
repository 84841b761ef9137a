"""Labels: the bound is the sum over y by hand, and hidden labels are found and calibrated."""

import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.graphs import LabelledCountVAE
from pyrovae.singlecell import simulate

anndata = pytest.importorskip("anndata")
import pandas as pd  # noqa: E402

from pyrovae.singlecell import CellLabels, SingleCellVAE  # noqa: E402
from pyrovae.singlecell.calibration import fitted_temperature  # noqa: E402

L, D = 3, 2


def graph(alpha=50.0):
    cells = pv.graphs.count_vae(6, library=([3.0], [0.5]), hidden=8, latents=D, dropout=0.0)
    nets = [pv.nets.MLP(D + L, [8], 2 * D) for _ in range(2)]
    return LabelledCountVAE(cells, nn.Linear(D, L), *nets, labels=L, latents=D, alpha=alpha)


def by_hand(g, x, y, z, u, log_library):
    """Return the ELBO of each cell at given draws: u has a draw for each label, shape (L, B, D)."""
    q_z, q_l = g.cells.posterior(x.log1p()), g.cells.library_posterior(x.log1p())
    log_q_y = torch.log_softmax(g.classifier(z), -1)
    weights = torch.where(
        (y >= 0)[:, None], nn.functional.one_hot(y.clamp(min=0), L), log_q_y.exp()
    )
    entropy = torch.where(y >= 0, 0.0, -(log_q_y.exp() * log_q_y).sum(-1))
    bound = g.cells.likelihood(z, log_library).log_prob(x) - q_z.log_prob(z) + entropy - np.log(L)
    bound = bound + g.cells.library_prior().log_prob(log_library) - q_l.log_prob(log_library)
    for k in range(L):
        code = nn.functional.one_hot(torch.full((len(x),), k), L).float()
        normals = []
        for net, value in ((g.upper, z), (g.lower, u[k])):
            mean, log_sd = net(torch.cat([value, code], -1)).chunk(2, -1)
            normals.append(torch.distributions.Normal(mean, log_sd.exp()))
        q_u, p_z = normals
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(u[k]).sum(-1)
        term = p_z.log_prob(z).sum(-1) + prior - q_u.log_prob(u[k]).sum(-1)
        bound = bound + weights[:, k] * term
    return bound


@pytest.mark.parametrize("known", [True, False])
def test_the_enumerated_bound_is_the_sum_over_labels_by_hand(known):
    """Averages of both over many draws agree within their noise."""
    torch.manual_seed(0)
    g = graph().eval()
    copies, runs = 50, 16  # of four cells
    x = torch.poisson(torch.full((4, 6), 5.0)).repeat(copies, 1)
    y = torch.tensor([0, 1, 2, 1] if known else [-1] * 4).repeat(copies)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    with torch.no_grad():
        ours = torch.tensor([-elbo.loss(g.model, g.guide, x, y) for _ in range(runs)])
        hand = []
        for _ in range(runs):
            z = g.cells.posterior(x.log1p()).rsample()
            l = g.cells.library_posterior(x.log1p()).rsample()  # noqa: E741 (the paper's symbol)
            us = []
            for k in range(L):
                code = nn.functional.one_hot(torch.full((len(x),), k), L).float()
                mean, log_sd = g.upper(torch.cat([z, code], -1)).chunk(2, -1)
                us.append(mean + log_sd.exp() * torch.randn_like(mean))
            hand.append(by_hand(g, x, y, z, torch.stack(us), l).sum())
    hand = torch.stack(hand)
    error = (ours.var() / runs + hand.var() / runs).sqrt()
    assert abs(ours.mean() - hand.mean()) < 4 * error
    assert error / copies < 0.5  # nats of four cells


def test_known_labels_train_the_classifier_only_in_training():
    g = graph(alpha=10.0)
    x, y = torch.ones(5, 6), torch.tensor([0, -1, 1, -1, 2])
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    for mode, expected in ((True, 3), (False, 0)):
        g.train(mode)
        g.cells.eval()
        torch.manual_seed(0)
        plain = elbo.loss(g.model, g.guide, x, y)
        g.alpha = 20.0
        torch.manual_seed(0)
        doubled = elbo.loss(g.model, g.guide, x, y)
        g.alpha = 10.0
        torch.manual_seed(0)
        z = g.cells.posterior(x.log1p()).rsample()
        log_q = torch.log_softmax(g.classifier(z), -1)
        known = log_q[[0, 2, 4], [0, 1, 2]].sum().item() if expected else 0.0
        assert doubled - plain == pytest.approx(-10 * known, abs=1e-2)


def oracle(adata):
    """Return the accuracy of the multinomial likelihood at the true proportions."""
    rho, types = adata.layers["rho"], adata.obs["cell_type"].to_numpy()
    batches, x, right = adata.obs["batch"].to_numpy(), adata.X.toarray(), 0
    for batch in np.unique(batches):
        rows = batches == batch
        names = np.unique(types[rows])
        means = np.stack([rho[rows & (types == name)][0] for name in names])
        right += (names[(x[rows] @ np.log(means).T).argmax(1)] == types[rows]).sum()
    return right / len(types)


@pytest.fixture(scope="module")
def labelled():
    adata = simulate(cells=900, genes=80, types=4, batches=3, seed=3).to_anndata()
    truth = adata.obs["cell_type"].to_numpy().copy()
    hidden = np.random.default_rng(0).random(len(truth)) > 0.4
    best = oracle(adata)
    adata.obs["partial"] = np.where(hidden, "Unknown", truth)
    new = (adata.obs["batch"] == "batch 2").to_numpy()
    known = adata[~new].copy()
    SingleCellVAE.setup_anndata(known, batch_key="batch")
    model = SingleCellVAE(known, n_hidden=64)
    model.train(max_epochs=30, progress=False)
    labels = CellLabels.from_model(model, "partial")
    labels.train(max_epochs=60, progress=False)
    return labels, adata[new].copy(), truth[~new], hidden[~new], truth[new], best


def test_hidden_labels_and_those_of_a_new_batch_are_found(labelled):
    labels, new, truth, hidden, truth_of_new, best = labelled
    predicted = labels.predict()
    assert best < 1
    assert (predicted == truth)[hidden].mean() > best - 0.05
    assert (labels.predict(new) == truth_of_new).mean() > best - 0.1
    soft = labels.predict(soft=True)
    assert list(soft) == labels.names
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-5)
    assert (soft.idxmax(axis=1).to_numpy() == predicted).all()
    assert labels.get_latent_representation(new).shape == (new.n_obs, 10)
    assert (labels.predict(new, indices=[3, -1]) == labels.predict(new)[[3, -1]]).all()


@pytest.mark.parametrize("indices", [[10_000], [], [0.5], ["cell"], [[0, 1]]])
def test_rows_that_are_not_there_are_refused(labelled, indices):
    labels, new, *_ = labelled
    with pytest.raises(ValueError, match="indices: expected row numbers below"):
        labels.predict(new, indices=indices)


def test_calibration_is_the_most_probable_temperature_on_the_cells_held_out(labelled):
    labels, *_ = labelled
    held_out = labels._held_out(labels.model.seed)
    assert 5 < len(held_out) < 0.2 * len(labels.known)
    data = tuple(part[held_out] for part in labels.model.cells.data)
    logits, y = labels._logits(data).double(), labels.known[held_out]
    assert labels.temperature == fitted_temperature(logits, y)
    prior = torch.distributions.Normal(0.0, np.log(2) / 2)

    def log_posterior(temperature):
        log_p = torch.distributions.Categorical(logits=logits / temperature).log_prob(y).sum()
        return (log_p + prior.log_prob(torch.tensor(temperature).log())).item()

    best = log_posterior(labels.temperature)
    assert all(
        best > log_posterior(labels.temperature * f) for f in (0.5, 0.8, 0.95, 1.05, 1.25, 2)
    )


@pytest.mark.parametrize("cells", [1, 12, 60, 240])
def test_cells_that_are_all_right_do_not_make_a_classifier_certain(cells):
    """A classifier says 99 % and is right for 99 %: the expected log loss after calibration.

    The expectation over the number of wrong cells among those held out is exact.
    """
    right, loss = 0.99, 0.0
    logits = torch.tensor([[np.log(right / (1 - right)), 0.0]]).repeat(cells, 1)
    for wrong in range(min(cells, 15) + 1):
        t = fitted_temperature(logits, (torch.arange(cells) < wrong).long())
        if wrong == 0:
            assert 2**-0.5 < t < 1  # within a standard deviation of the prior
        of_right, of_wrong = np.logaddexp(0, np.array([-1, 1]) * logits[0, 0].item() / t)
        chance = scipy.stats.binom.pmf(wrong, cells, 1 - right)
        loss += chance * (right * of_right + (1 - right) * of_wrong)
    entropy = -(right * np.log(right) + (1 - right) * np.log(1 - right))  # the least
    assert loss < 1.05 * entropy


@pytest.mark.parametrize(("true", "cells"), [(0.7, 60), (1.0, 12), (1.0, 60), (3.0, 12), (3.0, 60)])
def test_calibration_is_never_much_worse_and_better_for_the_overconfident(true, cells):
    """Mean log loss of other cells, over 30 draws of the cells held out."""
    generator = torch.Generator().manual_seed(0)
    gained, plain = [], []
    for _ in range(30):
        logits = 8 * torch.randn(cells + 2000, 5, generator=generator)
        probabilities = torch.softmax(logits / true, 1)
        y = torch.multinomial(probabilities, 1, generator=generator).flatten()
        t = fitted_temperature(logits[:cells], y[:cells])
        raw, scaled = (
            nn.functional.cross_entropy(logits[cells:] / s, y[cells:]).item() for s in (1.0, t)
        )
        plain.append(raw)
        gained.append(raw - scaled)
    gain = np.mean(gained) / np.mean(plain)
    assert gain > {0.7: 0.0, 1.0: -0.02, 3.0: 0.15}[true]


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_many_cells_overrule_the_prior_of_the_temperature(true):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20_000, 5, generator=generator)
    y = torch.multinomial(torch.softmax(logits / true, 1), 1, generator=generator).flatten()
    assert fitted_temperature(logits, y) == pytest.approx(true, rel=0.05)


def test_labels_that_cannot_be_learned_are_refused(labelled):
    model = labelled[0].model
    with pytest.raises(ValueError, match="is not in adata"):
        CellLabels.from_model(model, "nothing")
    model.adata.obs["one"] = "B cell"
    with pytest.raises(ValueError, match="at least two"):
        CellLabels.from_model(model, "one")
    with pytest.raises(RuntimeError, match="not trained"):
        CellLabels.from_model(SingleCellVAE(model.adata), "partial")


@pytest.mark.parametrize("none", ["unlabeled", "Unassigned", "nan", "", "NA "])
def test_a_label_that_reads_like_none_is_warned_of(labelled, none):
    """It was learned as a cell type, and predicted for most cells."""
    model = labelled[0].model
    adata = model.adata
    adata.obs["other"] = adata.obs["partial"].replace("Unknown", none)
    with pytest.warns(UserWarning, match=rf"'{none}' in .*pass unlabeled_category='{none}'"):
        assert none in CellLabels.from_model(model, "other").names
    right = CellLabels.from_model(model, "other", unlabeled_category=none)  # warnings are errors
    assert right.names == labelled[0].names
    assert torch.equal(right.known, labelled[0].known)


def test_whole_numbers_are_labels_as_text_however_they_are_stored(labelled, tmp_path):
    model = labelled[0].model
    adata, numbers = model.adata, np.arange(model.adata.n_obs) % 3
    known = torch.from_numpy(numbers)
    for form in (numbers, numbers.astype(float), pd.Categorical(numbers)):
        adata.obs["number"] = form
        labels = CellLabels.from_model(model, "number")
        assert labels.names == ["0", "1", "2"]
        assert torch.equal(labels.known, known)
    labels.train(max_epochs=1, progress=False)
    predicted = CellLabels.load(labels.save(tmp_path / "labels"), adata).predict()
    assert set(predicted) <= set(adata.obs["number"].astype(str))
    adata.obs["number"] = np.where(numbers == 0, np.nan, numbers)
    labels = CellLabels.from_model(model, "number")
    assert labels.names == ["1", "2"]
    assert torch.equal(labels.known, known - 1)
    adata.obs["number"] = numbers
    assert CellLabels.from_model(model, "number", unlabeled_category=2).names == ["0", "1"]


def test_a_classifier_is_saved_and_loaded(labelled, tmp_path):
    labels, new, *_ = labelled
    folder = labels.save(tmp_path / "labels")
    again = CellLabels.load(folder, labels.model.adata)
    assert again.predict(soft=True).equals(labels.predict(soft=True))
    assert (CellLabels.load(folder).predict(new) == labels.predict(new)).all()
    text = (folder / "labels.json").read_text()
    (folder / "labels.json").write_text(text.replace("type 0", "type 9"))
    with pytest.raises(pv.FileError, match=r"labels\.json"):
        CellLabels.load(folder)
    with pytest.raises(FileNotFoundError):
        CellLabels.load(tmp_path)


def test_a_classifier_saved_within_another_save_keeps_the_model_of_its_cells(
    labelled, tmp_path, monkeypatch
):
    new, really = labelled[0], os.replace
    folder = new.save(tmp_path / "labels")
    other = CellLabels.load(folder)
    other.temperature = 2.0

    def replaced(source, target):
        really(source, target)
        if Path(target) == folder / "model.json":
            monkeypatch.setattr(os, "replace", really)
            other.save(folder, overwrite=True)

    monkeypatch.setattr(os, "replace", replaced)
    new.save(folder, overwrite=True)
    assert CellLabels.load(folder).temperature == 2.0


def test_killed_at_any_moment_saving_leaves_the_old_classifier_or_the_new(
    labelled, tmp_path, monkeypatch
):
    """The model of its cells was replaced first, and belonged then to another classifier."""
    new = labelled[0]
    folder = new.save(tmp_path / "labels")
    old = CellLabels.load(folder)
    old.temperature, old.model.seed, states = 2.0, 77, []
    with torch.no_grad():
        next(old.graph.parameters()).mul_(0.5)
    old.save(folder, overwrite=True)
    with pytest.raises(FileExistsError, match="overwrite"):
        new.save(folder)

    def noted(function):
        def wrapper(*args, **kwargs):
            states.append(shutil.copytree(folder, tmp_path / f"{len(states)}"))
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(os, "replace", noted(os.replace))
    monkeypatch.setattr(Path, "unlink", noted(Path.unlink))
    new.save(folder, overwrite=True)
    monkeypatch.undo()
    expected = {2.0: (old, 77), new.temperature: (new, new.model.seed)}
    found = []
    for state in [*states, folder]:
        again = CellLabels.load(state)
        which, seed = expected[again.temperature]
        assert again.model.seed == seed
        assert torch.equal(next(again.graph.parameters()), next(which.graph.parameters()))
        found.append(which)
    changes = sum(a is not b for a, b in pairwise(found))
    assert (found[0], found[-1], changes) == (old, new, 1)
    assert len(list(folder.iterdir())) == 4  # model.json, weights, labels.json, the model of cells


@pytest.mark.parametrize(
    "y", [torch.full((8,), 5), torch.full((8,), -7), torch.full((8,), 1.5), torch.eye(8)[:, :L]]
)
def test_what_is_no_label_is_refused_before_training(y):
    x = torch.poisson(torch.full((8, 6), 4.0))
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    for call in (
        lambda: pv.fit(graph(), (x, y), epochs=1, objective=objective, progress=False),
        lambda: pv.elbo(graph(), x, y),
    ):
        with pytest.raises(ValueError, match=r"LabelledCountVAE: y has .* 0 to 2, or -1"):
            call()
