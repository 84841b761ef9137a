"""Images and arrays: build the model that the settings name.

p(z | c), q(z | x, c), p(x | z, c): each network maps (x, c) or (z, c) to the parameters of a
distribution.
"""

import functools
from collections.abc import Callable
from math import pi
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import likelihoods, nets, programs
from pyrovae.command.build import MAP_SIZE, build_posterior, build_prior, random_rows
from pyrovae.command.choices import Activation, Likelihood, Network, Posterior
from pyrovae.command.images import floors
from pyrovae.command.images.components import Components
from pyrovae.command.images.posing import build_pose_graph, check_pose, over_places
from pyrovae.command.images.preparation import REAL_LIKELIHOODS, UNIT_LIKELIHOODS, Preparation
from pyrovae.command.images.schedule import starts_at_components
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.images.start import Line, start_at_components, start_at_marginals
from pyrovae.distributions import Standardized
from pyrovae.graphs import VAE, Denoising, GaussianNoise, PoseVAE

__all__ = ["bounds_in_words", "build_graph"]

Graph = VAE | Denoising | PoseVAE
Shape = int | tuple[int, ...]
_ROWS_FOR_SIGMA = 1000  # looked at, for time
_LEAST_START = 0.02  # standard deviation at which a learned sigma starts

_ACTIVATIONS = {
    Activation.RELU: nn.ReLU,
    Activation.TANH: nn.Tanh,
    Activation.ELU: nn.ELU,
    Activation.GELU: nn.GELU,
    Activation.SILU: nn.SiLU,
    Activation.SOFTPLUS: nn.Softplus,
}


def build_graph(settings: ImageSettings, preparation: Preparation, x: Tensor) -> Graph:
    """Build the model, with initial weights by the seed.

    Args:
        settings: Of the run.
        preparation: Of the data.
        x: Prepared training rows with shape (N, *event), by which the encoder's input is
            standardized where the preparation does not scale it.
    """
    networks = _Networks(settings, preparation)
    with programs.random_stream(settings.seed, []):
        posterior: Any = build_posterior(settings, networks.encoder)
        x, seen = x.float(), Line()
        likelihood: Any = _likelihood(settings, preparation, x, networks.decoder_of_places())
        start_at_marginals(likelihood, x)
        if preparation.total_count not in (None, 1) and not preparation.is_scaled:
            seen = Line(x.mean().item(), x.std().item() or 1.0)
        if networks.plus_linear:
            _start(posterior.net, likelihood, x, seen)
        if seen != Line():
            posterior = Standardized(posterior, *seen)
        rows = functools.partial(random_rows, x)
        prior = build_prior(settings, posterior, rows, *_bounds(settings, preparation))
        if settings.pose:
            parts = (prior, posterior, likelihood)
            shape, encoder = networks.shape, _seen_by(networks.encoder, seen)
            return build_pose_graph(settings, shape, encoder, parts, len(x))
    vae = VAE(prior, posterior, likelihood)
    if not settings.denoise:
        return vae
    return Denoising(vae, GaussianNoise(settings.denoise * x.std().item()))


def _seen_by(encoder: Callable[[int], nn.Module], seen: Line) -> Callable[[int], nn.Module]:
    """Return the maker of encoders that see x standardized, as the posterior does."""
    return encoder if seen == Line() else lambda features: Standardized(encoder(features), *seen)


def _bounds(settings: ImageSettings, preparation: Preparation) -> tuple[float | None, float | None]:
    """Return the least and the largest value that a row as modelled can hold."""
    if settings.likelihood in REAL_LIKELIHOODS:
        return None, None
    return 0.0, 1.0 if settings.likelihood in UNIT_LIKELIHOODS else preparation.total_count


class _Networks:
    """Encoder and decoder of the chosen architecture."""

    def __init__(self, settings: ImageSettings, preparation: Preparation) -> None:
        self.settings, self.shape = settings, preparation.shape
        self.activation = _ACTIVATIONS[settings.activation]
        self.context = len(preparation.classes)
        self.plus_linear = settings.network is Network.LINEAR_MLP
        self.maps = settings.posterior is Posterior.MATRIX_NORMAL
        if self.maps:
            _check_maps(settings)
        if settings.pose:
            check_pose(settings, self.shape)
        if self.plus_linear and not starts_at_components(settings):
            raise ValueError(
                "--network linear-mlp starts at probabilistic PCA, which needs --posterior "
                "diagonal-normal and a likelihood with a mean: gaussian, heteroscedastic-gaussian "
                "or discretized-logistic; choose mlp"
            )
        if settings.network is Network.CONV and len(self.shape) != 3:
            raise ValueError(
                f"--network conv needs images (C, H, W), but a row has shape {self.shape}; "
                "choose mlp or residual"
            )
        if settings.network is Network.RESIDUAL and len(set(settings.hidden)) > 1:
            raise ValueError(
                f"--hidden {settings.hidden}: the blocks of --network residual have one width; "
                "repeat it once per block, e.g. 256,256"
            )

    def encoder(self, features: int) -> nn.Module:
        """Build the network from x (and c) to a number of features."""
        hidden = self.settings.hidden
        if self.settings.network is Network.CONV:
            return nets.ConvEncoder(self.shape, features, hidden, self.activation, self.context)
        return self._dense(self.shape, hidden, features)

    def decoder(self, parameters: int) -> nn.Module:
        """Build the network from z (and c) to a number of parameters for each value of x.

        The widths of fully connected layers are the encoder's in reverse order.
        """
        hidden, latents = self.settings.hidden, self.settings.latents
        shape = (parameters * self.shape[0], *self.shape[1:])
        if self.maps:
            maps = latents // MAP_SIZE**2
            return nets.MapDecoder(maps, MAP_SIZE, shape, hidden, self.activation, self.context)
        if self.settings.network is Network.CONV:
            return nets.ConvDecoder(latents, shape, hidden, self.activation, self.context)
        return self._dense(latents, hidden[::-1], shape)

    def decoder_of_places(self) -> Callable[[int], nn.Module]:
        """Return the maker of decoders, whose images are read at places where there is a pose."""
        return over_places(self.decoder, self.shape) if self.settings.pose else self.decoder

    def _dense(self, features_in: Shape, hidden: tuple[int, ...], features_out: Shape) -> nn.Module:
        """Build a fully connected network, plain or residual."""
        activation, context = self.activation, self.context
        if self.settings.network in (Network.MLP, Network.LINEAR_MLP):
            net = nets.MLP(features_in, hidden, features_out, activation, context)
            return nets.PlusLinear(net) if self.plus_linear else net
        width, blocks = hidden[0], len(hidden)
        return nets.ResidualMLP(features_in, width, features_out, blocks, activation, context)


def _check_maps(settings: ImageSettings) -> None:
    """Refuse maps of latents that no convolution reads, or that are not whole."""
    size = MAP_SIZE**2
    if settings.network is not Network.CONV or settings.latents % size:
        raise ValueError(
            f"--posterior matrix-normal makes maps of {MAP_SIZE} x {MAP_SIZE} latents, which "
            f"--network conv reads: --latents is a multiple of {size}, but here they are "
            f"--network {settings.network.value} and --latents {settings.latents}; choose e.g. "
            f"--network conv --latents {8 * size}"
        )


def _likelihood(
    settings: ImageSettings, preparation: Preparation, x: Tensor, net: Callable[[int], nn.Module]
) -> nn.Module:
    """Build the likelihood over a network with as many outputs as it has parameters."""
    levels = (preparation.total_count or 255) + 1
    makers: dict[Likelihood, Callable[[], nn.Module]] = {
        Likelihood.BERNOULLI: lambda: likelihoods.Bernoulli(net(1)),
        Likelihood.CONTINUOUS_BERNOULLI: lambda: likelihoods.ContinuousBernoulli(net(1)),
        Likelihood.GAUSSIAN: lambda: _gaussian(settings, x, net(1)),
        Likelihood.HETEROSCEDASTIC_GAUSSIAN: lambda: likelihoods.HeteroscedasticGaussian(net(2)),
        Likelihood.BINOMIAL: lambda: likelihoods.Binomial(net(1), levels - 1),
        Likelihood.DISCRETIZED_LOGISTIC: lambda: likelihoods.DiscretizedLogistic(net(2), levels),
        Likelihood.CATEGORICAL: lambda: likelihoods.Categorical(net(levels), levels),
        Likelihood.POISSON: lambda: likelihoods.Poisson(net(1)),
        Likelihood.NEGATIVE_BINOMIAL: lambda: likelihoods.NegativeBinomial(net(1)),
    }
    return makers[settings.likelihood]()


def _gaussian(settings: ImageSettings, x: Tensor, net: nn.Module) -> nn.Module:
    """Build a Gaussian, with a learned sigma of its own for each value unless it is fixed."""
    if settings.sigma is not None:
        return likelihoods.Gaussian(net, settings.sigma)
    rows = x[:: -(-len(x) // _ROWS_FOR_SIGMA)].flatten(1).double().numpy()
    least = floors.of_columns(rows)
    kept = min(settings.latents, rows.shape[1] // 2, len(rows) // 4)  # more would fit them exactly
    unexplained = (rows - Components(rows).project(rows, kept)).std(0)
    floor = tuple(least.tolist()) if len(set(least.tolist())) > 1 else float(least[0])
    gaussian = likelihoods.Gaussian(net, learned=True, separate=True, floor=floor)
    _set_sigma(gaussian, torch.from_numpy(unexplained), _LEAST_START)
    return gaussian


def _set_sigma(gaussian: likelihoods.Gaussian, sigma: Tensor, lowest: float) -> None:
    """Let a learned sigma start there, since it changes slowly."""
    if gaussian.log_sigma is not None:
        wanted, least = sigma.reshape(gaussian.log_sigma.shape).square(), gaussian.least.square()
        start = torch.maximum(wanted - least, least / 100)  # sigma^2 = least + e^(2 log_sigma)
        with torch.no_grad():
            gaussian.log_sigma.copy_(start.clamp_min(lowest**2).log() / 2)


def _start(encoder: Any, likelihood: Any, x: Tensor, seen: Line) -> None:
    """Let encoder and decoder start as probabilistic PCA."""
    given = Line()
    if isinstance(likelihood, likelihoods.DiscretizedLogistic):
        given = Line((likelihood.levels - 1) / 2, (likelihood.levels - 1) / 2)
    noise, sigma = start_at_components(encoder, likelihood.net, x, seen, given)
    if isinstance(likelihood, likelihoods.Gaussian):
        _set_sigma(likelihood, torch.full_like(sigma, noise), floors.LEAST)
        return
    free = likelihood.net.linear.bias[sigma.numel() :]
    logistic = given != Line()
    least, unit = (1.0, 3**0.5 / pi / given.scale) if logistic else (_LEAST_START, 1.0)
    with torch.no_grad():
        free.copy_((sigma.clamp_min(least) * unit).log())


def bounds_in_words(graph: Graph) -> list[str]:
    """Return in a sentence how the scale of the likelihood is bounded from below, if it is."""
    likelihood = graph.graph.likelihood if isinstance(graph, Denoising) else graph.likelihood
    floor = getattr(likelihood, "floor", 0)
    if isinstance(likelihood, likelihoods.DiscretizedLogistic):
        return [f"the scale is at least {floor:.3g} levels"]
    if isinstance(likelihood, likelihoods.ContinuousBernoulli):
        return [f"the scale is at least {floor:.3g}, one level of 8 bits"]
    if not isinstance(likelihood, likelihoods.Gaussian | likelihoods.HeteroscedasticGaussian):
        return []
    if isinstance(likelihood, likelihoods.Gaussian) and not likelihood.learned:
        return []
    least = floor if isinstance(floor, tuple) else (floor,)
    most = f" to {max(least):.3g}" if len(set(least)) > 1 else ""
    return [
        f"each sigma is at least {min(least):.3g}{most} of the standard deviation: the precision "
        "of values that recur, else a thousandth; that of constant columns is one"
    ]
