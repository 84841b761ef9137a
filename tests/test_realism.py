"""Scores of realism against closed forms, and a classifier that is too sure by a known factor."""

import math

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae import realism


def rows(n, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------- the distance
def test_the_distance_is_scikit_learns():
    from sklearn.neighbors import NearestNeighbors

    x, train = rows(2_500, 5), rows(300, 5, seed=1)
    expected = NearestNeighbors(n_neighbors=1).fit(train.numpy()).kneighbors(x.numpy())[0][:, 0]
    found = realism.nearest(x.reshape(-1, 1, 5), train.reshape(-1, 1, 5))
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-4)
    assert found.standard_error == pytest.approx(expected.std(ddof=1) / math.sqrt(2_500), rel=1e-4)


def test_a_training_row_has_distance_zero():
    assert realism.nearest(rows(4), rows(4)).values.tolist() == [0.0] * 4


@pytest.mark.parametrize(("x", "train"), [((2, 3), (5, 4)), ((2, 3), (0, 3)), ((2, 3), (5, 3, 1))])
def test_rows_that_cannot_be_compared_are_refused(x, train):
    with pytest.raises(ValueError, match=r"at least one training row of the same shape"):
        realism.nearest(torch.zeros(x), torch.zeros(train))


# -------------------------------------------------------------------------------- the confidence
def test_confidence_is_the_largest_probability():
    p = torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.double)
    found = realism.confidence(p.log() + 5).values  # a constant of the row changes nothing
    torch.testing.assert_close(found, torch.tensor([0.7, 1 / 3], dtype=torch.double))


@pytest.mark.parametrize("t", [0.25, 1.0, 3.0])
def test_the_temperature_undoes_a_known_factor(t):
    """The labels of each row have exactly the frequencies of p, so the best T is known."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.double)
    logits = t * p.log()
    counts = (10 * p).round().long()
    repeated = torch.cat([logits[i].expand(10, 3) for i in range(2)])
    labels = torch.cat([torch.repeat_interleave(torch.arange(3), counts[i]) for i in range(2)])
    assert realism.temperature(repeated, labels) == pytest.approx(t, rel=1e-4)
    assert realism.calibration_error(repeated / t, labels) == pytest.approx(0, abs=1e-9)


def test_the_calibration_error_by_hand():
    """Four rows with confidence 0.9, two of them right; two rows with 0.6, both right."""
    sure, unsure = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.4, 0.6]).log()
    logits = torch.stack([sure] * 4 + [unsure] * 2)
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    expected = (4 * 0.4 + 2 * 0.4) / 6
    assert realism.calibration_error(logits, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 3], [0, 1, -1], []])
def test_labels_that_do_not_fit_are_refused(labels):
    for score in (realism.temperature, realism.calibration_error):
        with pytest.raises(ValueError, match=r"N whole numbers from 0 to K - 1"):
            score(torch.zeros(3, 3), torch.tensor(labels))


# -------------------------------------------------------------------------------- both at once
def scores_of(confidence, distance):
    return realism.Realism(
        pv.scores.Score(torch.tensor(confidence)), pv.scores.Score(torch.tensor(distance))
    )


def test_a_row_passes_if_neither_score_gives_it_away():
    real = scores_of([0.5, 0.6, 0.7, 0.8, 0.9], [1.0, 2.0, 3.0, 4.0, 5.0])
    found = scores_of([0.65, 0.55, 0.99, 0.55], [3.5, 0.1, 4.5, 4.5])
    # the quantile 1/4 of the confidences is 0.6, the quantile 3/4 of the distances 4
    assert realism.passing(found, real, level=0.75).values.tolist() == [1, 0, 0, 0]


def test_real_rows_pass_as_often_as_the_level_says():
    stream = torch.Generator().manual_seed(0)
    both = torch.rand(2, 20_000, generator=stream)
    real, other = (scores_of(part[0].tolist(), part[1].tolist()) for part in both.split(10_000, 1))
    share = realism.passing(other, real, level=0.9)
    # independent scores: 0.9^2; quantiles and share each have an error of about 0.004
    assert share.mean == pytest.approx(0.81, abs=4 * 0.006)


@pytest.mark.parametrize("level", [0.0, 1.0, -1])
def test_a_level_outside_of_0_and_1_is_refused(level):
    with pytest.raises(ValueError, match="expected a number between 0 and 1"):
        realism.passing(scores_of([0.5], [1.0]), scores_of([0.5], [1.0]), level)


# ------------------------------------------------------------------------------------- the judge
@pytest.fixture(scope="module")
def judge():
    """One on digits, by a logistic regression that is made three times too sure."""
    from sklearn.linear_model import LogisticRegression

    data = pv.datasets.digits()
    x, labels = torch.from_numpy(data.x) / 16, torch.from_numpy(data.labels)
    x = x.float()
    fitted = LogisticRegression(max_iter=500).fit(x[:600].flatten(1), labels[:600])

    def classifier(x):
        return 3 * torch.from_numpy(fitted.decision_function(x.flatten(1).numpy()))

    return realism.Judge(classifier, x[:600], x[600:1000], labels[600:1000]), x, labels


def test_the_judge_is_calibrated_by_rows_it_has_not_seen(judge):
    """Its log loss falls on rows that neither the classifier nor the temperature has seen."""
    judge, x, labels = judge
    logits = judge.logits(x[1000:])
    before, after = (
        torch.nn.functional.cross_entropy(logits * t, labels[1000:])
        for t in (judge.temperature, 1.0)
    )
    assert judge.temperature > 1.5
    assert after < before


def test_each_score_sees_what_the_other_does_not(judge):
    judge, x, _ = judge
    test = x[1000:]
    blurred = (test[:-1] + test[1:]) / 2  # two digits in one
    shuffled = test.flatten(1)[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    real, mean, noise = judge(test), judge(blurred), judge(shuffled.reshape(test.shape))
    assert real.confidence.mean > mean.confidence.mean + 0.1
    assert noise.distance.mean > 1.5 * real.distance.mean
    # the blur is nearer to a training image than noise, and a classifier alone may be sure of noise
    assert mean.distance.mean < noise.distance.mean


def test_the_judge_takes_a_torch_network_and_needs_no_gradient():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    x, labels = rows(1_500, 4).reshape(-1, 2, 2), torch.arange(1_500) % 3
    found = realism.Judge(net, x, x, labels)(x)
    assert not found.confidence.values.requires_grad
    assert found.distance.values.shape == (1_500,)
    assert found.distance.mean == 0


def test_scores_are_plain_numbers_on_the_cpu_whatever_the_classifier_returns():
    """As those of distances are: `passing` compares both."""
    logits = torch.zeros(2, 3, requires_grad=True)
    assert not realism.confidence(logits).values.requires_grad
