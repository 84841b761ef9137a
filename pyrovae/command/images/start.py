"""Where training starts, so that its first steps are not spent on finding the unit of the data.

The bias of the decoder's last layer is set to the parameters that fit the mean and the standard
deviation of each value over all training rows. Where encoder and decoder have a linear part, they
start as probabilistic PCA, exactly, with the network beside at zero (Tipping & Bishop 1999; its
posterior is diagonal for principal axes W):

    z ~ N(0, I),   x | z ~ N(m + W z, s^2 I),   w_i = sqrt(l_i - s^2) v_i
    z_i | x ~ N(sqrt(l_i - s^2) / l_i  v_i (x - m),  s^2 / l_i)
"""

from collections.abc import Callable
from math import log, pi, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import likelihoods
from pyrovae.command.images import floors
from pyrovae.command.images.choosing import continuous_bernoulli_logit
from pyrovae.command.images.components import Components
from pyrovae.nets import PlusLinear

__all__ = ["Line", "start_at_components", "start_at_marginals"]

_ROWS = 10_000  # looked at, for time
_LEAST = 0.01  # standard deviation of the start, in units of the data's


def start_at_marginals(likelihood: likelihoods.Likelihood, x: Tensor) -> None:
    """Set the bias of the decoder's last layer; other networks than this command's are left alone.

    Args:
        likelihood: With its initial weights.
        x: Prepared training rows with shape (N, *event).
    """
    parameters = _PARAMETERS.get(type(likelihood))
    layers = (nn.Linear, nn.ConvTranspose2d, nn.Conv2d)
    last = [module for module in likelihood.net.modules() if isinstance(module, layers)][-1:]
    if parameters is None or not last or last[0].bias is None:
        return
    rows = x[:: -(-len(x) // _ROWS)].double()
    start = torch.stack(parameters(likelihood, rows.mean(0), rows.std(0, correction=0), len(rows)))
    bias, channels = last[0].bias, x.shape[1]
    if bias.numel() != start.numel():  # one for each channel
        start = start.reshape(len(start), channels, -1).mean(-1)
    if bias.numel() == start.numel():
        with torch.no_grad():
            bias.copy_(start.flatten())


class Line(NamedTuple):
    """A unit: (x - shift) / scale."""

    shift: float = 0.0
    scale: float = 1.0


def start_at_components(
    encoder: PlusLinear, decoder: PlusLinear, x: Tensor, seen: Line, given: Line
) -> tuple[float, Tensor]:
    """Set both networks to probabilistic PCA.

    Args:
        encoder: From x to the means and log standard deviations of D latents.
        decoder: From z to the means of x, and perhaps further parameters, which are left alone.
        x: Prepared training rows with shape (N, *event).
        seen: The unit in which the encoder sees x.
        given: The unit in which the decoder gives the means of x.

    Returns:
        The standard deviation s of the noise, one for all values; and the standard deviation that
        the components leave unexplained of each value, with shape (D,). Both in units of x.
    """
    rows = x[:: -(-len(x) // _ROWS)].flatten(1).double().numpy()
    found, d, n = Components(rows), encoder.shape_out[0] // 2, rows.shape[1]
    k = found.rank(d)
    varying = max(k + 1, int((rows.max(0) > rows.min(0)).sum()))
    least = floors.LEAST**2 * max(found.variances.sum() / varying, 1e-12)
    noise = max(found.variances[k:].sum() / (varying - k), least)
    large = np.maximum(found.variances[:k], noise)
    length, axes = np.sqrt(large - noise), found.axes[:k]
    into, centre = np.zeros((2 * d, n)), np.zeros(2 * d)
    into[:k] = (length / large)[:, None] * axes
    centre[:k] = into[:k] @ (seen.shift - found.mean)
    centre[d : d + k] = 0.5 * np.log(noise / large)
    _set(encoder, into * seen.scale, centre)
    out, mean = np.zeros((decoder.linear.out_features, d)), decoder.linear.bias.detach().numpy()
    out[:n, :k], mean[:n] = axes.T * length / given.scale, (found.mean - given.shift) / given.scale
    _set(decoder, out, mean)
    return sqrt(noise), torch.from_numpy((rows - found.project(rows, d)).std(0))


def _set(net: PlusLinear, weight: np.ndarray, bias: np.ndarray) -> None:
    """Set the linear part of a network, and the last layer beside it to zero."""
    last = [module for module in net.net.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        net.linear.weight.copy_(torch.from_numpy(weight))
        net.linear.bias.copy_(torch.from_numpy(bias))
        last.weight.zero_()
        last.bias.zero_()


Parameters = tuple[Tensor, ...]  # one of the shape of a row for each parameter of a value


def _logit(likelihood: likelihoods.Likelihood, mean: Tensor, sd: Tensor, n: int) -> Parameters:
    top = getattr(likelihood, "total_count", 1)
    return (torch.logit((mean / top * n + 0.5) / (n + 1)),)


def _continuous_logit(
    likelihood: likelihoods.Likelihood, mean: Tensor, sd: Tensor, n: int
) -> Parameters:
    inside = mean.clamp(1 / 255, 1 - 1 / 255).numpy()
    return (torch.from_numpy(np.asarray(continuous_bernoulli_logit(inside))),)


def _mean(likelihood: likelihoods.Likelihood, mean: Tensor, sd: Tensor, n: int) -> Parameters:
    return (mean,)


def _mean_and_scale(
    likelihood: likelihoods.Likelihood, mean: Tensor, sd: Tensor, n: int
) -> Parameters:
    return mean, sd.clamp_min(_LEAST).log()


def _log_rate(likelihood: likelihoods.Likelihood, mean: Tensor, sd: Tensor, n: int) -> Parameters:
    return (mean.clamp_min(0.5 / n).log(),)


def _location_and_scale(
    likelihood: likelihoods.Likelihood, mean: Tensor, sd: Tensor, n: int
) -> Parameters:
    """Levels are mapped to [-1, 1]; a logistic's standard deviation is pi s / sqrt(3)."""
    assert isinstance(likelihood, likelihoods.DiscretizedLogistic)
    level = 2 / (likelihood.levels - 1)
    return mean * level - 1, sd.clamp_min(1.0).log() + log(level * sqrt(3) / pi)


_PARAMETERS: dict[type, Callable[..., Parameters]] = {
    likelihoods.Bernoulli: _logit,
    likelihoods.Binomial: _logit,
    likelihoods.ContinuousBernoulli: _continuous_logit,
    likelihoods.Gaussian: _mean,
    likelihoods.HeteroscedasticGaussian: _mean_and_scale,
    likelihoods.Poisson: _log_rate,
    likelihoods.NegativeBinomial: _log_rate,
    likelihoods.DiscretizedLogistic: _location_and_scale,
}
