"""Scores and simple baselines against formulas written anew, and against other libraries."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

import pyrovae as pv
from pyrovae.evaluation import baselines, scores


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------ scores
def test_psnr_is_the_formula_row_by_row():
    y, x = random(5, 1, 6, 4), random(5, 1, 6, 4, seed=1)
    score = scores.psnr(16 * y, 16 * x, value_range=16.0)
    error = ((y.double() - x.double()) ** 2).numpy().reshape(5, -1).mean(1)
    np.testing.assert_allclose(score.values, -10 * np.log10(error), rtol=1e-6)
    assert score.mean == pytest.approx((-10 * np.log10(error)).mean(), rel=1e-6)
    assert score.standard_error == pytest.approx(stats.sem(-10 * np.log10(error)), rel=1e-6)


def test_psnr_counts_the_values_that_it_is_told_to():
    x = torch.zeros(2, 4)
    y = torch.tensor([[0.1, 0.1, 9.0, 9.0], [9.0, 0.01, 9.0, 9.0]])
    where = torch.tensor([[True, True, False, False], [False, True, False, False]])
    np.testing.assert_allclose(scores.psnr(y, x, where=where).values, [20.0, 40.0], rtol=1e-6)
    of_all = scores.psnr(y, x, where=torch.tensor([True, True, False, False])).values
    assert of_all[1] < 0 < of_all[0]


def test_psnr_of_an_exact_row_is_infinite():
    assert scores.psnr(torch.ones(1, 3), torch.ones(1, 3)).values.item() == math.inf


def ssim_by_hand(y, x, side, value_range):
    """Mean over windows of the formula of Wang et al., by plain loops."""
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    found = []
    for i in range(x.shape[0] - side + 1):
        for j in range(x.shape[1] - side + 1):
            a, b = (part[i : i + side, j : j + side].ravel() for part in (y, x))
            covariance = np.cov(a, b)
            luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
            structure = (2 * covariance[0, 1] + c2) / (covariance[0, 0] + covariance[1, 1] + c2)
            found.append(luminance * structure)
    return np.mean(found)


@pytest.mark.parametrize(("size", "side"), [(8, 7), (12, 7), (6, 5), (5, 5)])
def test_ssim_is_the_formula_over_windows(size, side):
    y, x = random(3, size, size), random(3, size, size, seed=1)
    score = scores.ssim(2 * y, 2 * x, value_range=2.0)
    pairs = zip(2 * y.double().numpy(), 2 * x.double().numpy(), strict=True)
    expected = [ssim_by_hand(a, b, side, 2.0) for a, b in pairs]
    np.testing.assert_allclose(score.values, expected, rtol=1e-10)


def test_ssim_of_colours_is_the_mean_over_channels():
    y, x = random(2, 3, 9, 9), random(2, 3, 9, 9, seed=1)
    channels = [scores.ssim(y[:, i], x[:, i]).values for i in range(3)]
    torch.testing.assert_close(scores.ssim(y, x).values, torch.stack(channels).mean(0))
    torch.testing.assert_close(scores.ssim(x, x).values, torch.ones(2).double())


def test_interval_holds_a_further_draw_with_its_probability():
    generator = torch.Generator().manual_seed(0)
    for k, level, expected in ((19, 0.9, 0.9), (199, 0.9, 0.9), (39, 0.8, 0.8), (9, 0.9, 0.8)):
        n = 200_000 // k
        draws = torch.randn(k + 1, n, generator=generator)
        low, high = scores.interval(draws[1:], level)
        within = ((low <= draws[0]) & (draws[0] <= high)).double().mean().item()
        assert abs(within - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_interval_interpolates_as_numpy_does():
    draws = random(16, 3)
    low, high = scores.interval(draws, 0.75)
    expected = np.quantile(draws.numpy(), [0.125, 0.875], axis=0, method="weibull")
    np.testing.assert_allclose(torch.stack([low, high]), expected, rtol=1e-5)


def test_coverage_is_the_fraction_within():
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 5.0, 5.0]])
    low, high = torch.full((2, 4), 1.0), torch.full((2, 4), 4.0)
    score = scores.coverage(x, low, high)
    assert score.values.tolist() == [0.75, 0.0]
    last = torch.tensor([False, True, False, False])
    assert scores.coverage(x, low, high, where=last).values.tolist() == [1.0, 0.0]
    assert scores.coverage(x[:, 0], low[:, 0], high[:, 0]).values.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("turned", [0.0, 2.5, -1.0])
def test_circular_correlation_is_that_of_all_pairs(turned):
    a = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.double) * 6.2
    b = a + 0.4 * torch.randn(60, generator=torch.Generator().manual_seed(1)) + turned
    one, other = ((t[:, None] - t).sin() for t in (a, b))
    pairs = (one * other).sum() / (one.square().sum() * other.square().sum()).sqrt()
    found = scores.circular_correlation(b[:, None], a[:, None])
    assert found == pytest.approx(pairs.item(), abs=1e-12)
    assert found > 0.5
    assert scores.circular_correlation(-b, a) == pytest.approx(-found)


def test_knn_accuracy_is_a_majority_of_the_nearest():
    codes, labels = random(60, 2), torch.arange(60) % 3
    test, expected = random(80, 2, seed=1), torch.arange(80) % 3
    near = torch.cdist(test, codes).topk(5, largest=False).indices
    votes = torch.nn.functional.one_hot(labels[near], 3).sum(1)
    clear = votes.sort(1).values[:, 2] > votes.sort(1).values[:, 1]  # no tie
    right = votes.argmax(1) == expected
    score = scores.knn_accuracy(codes, labels, test, expected)
    assert clear.sum() > 20
    assert (score.values[clear] == right[clear].double()).all()
    names, known = (
        pd.Series([f"type {k}" for k in part.tolist()], index=range(9, 9 + len(part)))
        for part in (labels, expected)
    )
    assert scores.knn_accuracy(codes.numpy(), names, test.numpy(), known).mean == score.mean


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scores.psnr(torch.ones(2, 3), torch.ones(2, 4)), "the shapes are"),
        (lambda: scores.psnr(torch.ones(2, 3) * math.nan, torch.ones(2, 3)), "NaN"),
        (lambda: scores.psnr(torch.ones(2, 3), torch.ones(2, 3), 0.0), "value_range is 0.0"),
        (
            lambda: scores.psnr(torch.ones(2, 3), torch.ones(2, 3), where=torch.ones(2, 3)),
            "boolean",
        ),
        (lambda: scores.ssim(torch.ones(2, 64), torch.ones(2, 64)), "reshape"),
        (lambda: scores.ssim(torch.ones(2, 2, 2), torch.ones(2, 2, 2)), "3 x 3"),
        (lambda: scores.interval(torch.ones(1, 4)), "two draws"),
        (lambda: scores.interval(torch.ones(3, 4), 90), "level is 90"),
        (lambda: scores.coverage(torch.ones(2, 3), torch.ones(3), torch.ones(3)), "shapes"),
        (lambda: scores.knn_accuracy(torch.ones(3, 1), [0, 1, 1], torch.ones(1, 1), [1]), "5"),
        (lambda: scores.knn_accuracy(torch.ones(5, 1), [1] * 5, torch.ones(2, 1), [1]), "labels"),
    ],
)
def test_errors_of_scores_name_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --------------------------------------------------------------------------------------- baselines
def linear_rows(n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, 2, generator=generator)
    z, noise = torch.randn(n, 2, generator=generator), torch.randn(n, 6, generator=generator)
    return (z @ weights.T + 0.3 * noise + 1).reshape(n, 1, 2, 3)


def test_mean_image_is_the_mean():
    x = (255 * random(10, 1, 4, 4)).to(torch.uint8)
    expected = x.numpy().mean(0)
    np.testing.assert_allclose(baselines.mean_image(x, 3), np.stack([expected] * 3), rtol=1e-6)


def test_median_filter_is_a_median():
    y = random(2, 1, 6, 6)
    inner = [
        [y[:, 0, i : i + 3, j : j + 3].flatten(1).median(1).values for j in range(4)]
        for i in range(4)
    ]
    expected = torch.stack([torch.stack(row, -1) for row in inner], -2)
    torch.testing.assert_close(baselines.median_filter(y)[:, 0, 1:-1, 1:-1], expected)


def test_bilinear_filter_is_a_tent():
    spike = torch.zeros(1, 5, 5)
    spike[0, 2, 2] = 1
    side = torch.tensor([0.0, 0.25, 0.5, 0.25, 0.0])
    torch.testing.assert_close(baselines.bilinear_filter(spike)[0], torch.outer(side, side))
    flat = torch.full((2, 1, 4, 4), 0.3)
    torch.testing.assert_close(baselines.bilinear_filter(flat), flat)


@pytest.mark.parametrize("factor", [2, 4])
def test_bilinear_upsampling_keeps_planes(factor):
    side = torch.arange(6.0)
    plane = (2 * side[:, None] + side).expand(2, 1, 6, 6)
    large = baselines.bilinear_upsampling(plane, factor)
    assert large.shape == (2, 1, 6 * factor, 6 * factor)
    at = (torch.arange(6.0 * factor) + 0.5) / factor - 0.5
    inner = slice(factor, -factor)
    expected = (2 * at[:, None] + at)[inner, inner]
    torch.testing.assert_close(large[1, 0][inner, inner], expected)


def test_pca_projects_as_the_singular_vectors_do():
    x = linear_rows()
    flat = x.flatten(1).double()
    axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:2]
    y = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    expected = flat.mean(0) + (y.flatten(1).double() - flat.mean(0)) @ axes.T @ axes
    found = baselines.PCA(x, 2).denoise(y)
    torch.testing.assert_close(found.flatten(1), expected.float(), rtol=1e-4, atol=1e-5)


def test_components_of_many_rows_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 6, generator=generator) * torch.tensor([3.0, 2, 1, 0.5, 0.2, 0.1]) + 4
    fitted, found = PCA(3, svd_solver="full").fit(x.double().numpy()), baselines.PCA(x, 3)
    assert np.abs(found.axes.numpy() - fitted.components_).max() < 1e-7
    assert np.allclose(found.mean, fitted.mean_)
    assert np.isclose(found.variance, fitted.noise_variance_, rtol=1e-9)


def test_truncated_pca_is_that_of_fewer_components():
    x = torch.randn(40, 6) @ torch.randn(6, 6)
    one, other = baselines.PCA(x, 5).truncated(2), baselines.PCA(x, 2)
    assert one.variance == other.variance
    assert torch.equal(one.denoise(x), other.denoise(x))
    assert torch.equal(one.weights, other.weights)
    with pytest.raises(ValueError, match="components is 6"):
        one.truncated(6)


def test_pca_imputes_by_the_conditional_normal_distribution():
    x, rows = linear_rows(), linear_rows(20, seed=1)
    pca = baselines.PCA(x, 2)
    joint = LowRankMultivariateNormal(
        pca.mean, pca.weights, torch.full((6,), pca.variance).double()
    )
    covariance = joint.covariance_matrix
    hidden = random(20, 1, 2, 3, seed=2) < 0.5
    result = pca.impute(rows, hidden)
    for i, mask in enumerate(hidden.flatten(1)):
        h, o = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
        value = rows[i].flatten().double()
        gain = covariance[h][:, o] @ torch.linalg.inv(covariance[o][:, o])
        mean = pca.mean[h] + gain @ (value[o] - pca.mean[o])
        spread = covariance[h][:, h] - gain @ covariance[o][:, h]
        torch.testing.assert_close(result.mean[i].flatten()[h].double(), mean, rtol=1e-4, atol=1e-5)
        deviation = result.standard_deviation[i].flatten()[h].double()
        torch.testing.assert_close(deviation, spread.diagonal().sqrt(), rtol=1e-4, atol=1e-6)
        expected = MultivariateNormal(mean, spread).log_prob(value[h]) if len(h) else 0.0
        assert result.log_prob[i].item() == pytest.approx(float(expected), abs=1e-6)
    assert torch.equal(result.mean[~hidden], rows[~hidden])
    assert not result.standard_deviation[~hidden].any()


def test_pca_without_observed_values_gives_its_mean_and_variances():
    pca, rows = baselines.PCA(linear_rows(), 2), torch.full((1, 1, 2, 3), math.nan)
    result = pca.impute(rows, torch.ones(1, 2, 3, dtype=torch.bool))
    torch.testing.assert_close(result.mean.flatten().double(), pca.mean, rtol=1e-6, atol=1e-6)
    variance = pca.weights.square().sum(1) + pca.variance
    torch.testing.assert_close(
        result.standard_deviation.flatten().double(), variance.sqrt(), rtol=1e-6, atol=1e-6
    )
    assert result.log_prob.isnan().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: baselines.PCA(torch.ones(5, 4), 4), "components is 4"),
        (lambda: baselines.PCA(linear_rows(), 2).denoise(torch.ones(2, 6)), "the rows have shape"),
        (lambda: baselines.PCA(linear_rows(), 2).impute(linear_rows(3), torch.ones(3)), "boolean"),
        (
            lambda: baselines.PCA(linear_rows(), 2).impute(
                linear_rows(3) * math.nan, torch.zeros(1, 2, 3, dtype=torch.bool)
            ),
            "observed value is NaN",
        ),
        (lambda: baselines.median_filter(torch.ones(2, 64)), "expected images"),
    ],
)
def test_errors_of_baselines_name_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_scores_and_baselines_are_public():
    assert pv.scores is scores
    assert pv.baselines is baselines
