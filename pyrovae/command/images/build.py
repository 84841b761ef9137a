"""Images and arrays: build the model and the optimizer that the settings name.

p(z | c), q(z | x, c), p(x | z, c): each network maps (x, c) or (z, c) to the parameters of a
distribution.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyrovae import likelihoods, nets, programs
from pyrovae.command.build import build_posterior, build_prior, random_rows
from pyrovae.command.choices import Activation, Likelihood, Network, Optimizer
from pyrovae.command.images.preparation import REAL_LIKELIHOODS, UNIT_LIKELIHOODS, Preparation
from pyrovae.command.images.settings import ImageSettings
from pyrovae.distributions import Standardized
from pyrovae.graphs import VAE, Denoising, GaussianNoise

__all__ = ["build_graph", "build_optimizer"]

Shape = int | tuple[int, ...]

_OPTIMIZERS: dict[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    Optimizer.ADAM: functools.partial(torch.optim.Adam, fused=True),
    Optimizer.ADAMW: functools.partial(torch.optim.AdamW, fused=True),
    Optimizer.ADAMAX: torch.optim.Adamax,
    Optimizer.ADAGRAD: functools.partial(torch.optim.Adagrad, fused=True),
    Optimizer.RMSPROP: torch.optim.RMSprop,
    Optimizer.SGD: functools.partial(torch.optim.SGD, fused=True),
}
_ACTIVATIONS = {
    Activation.RELU: nn.ReLU,
    Activation.TANH: nn.Tanh,
    Activation.ELU: nn.ELU,
    Activation.GELU: nn.GELU,
    Activation.SILU: nn.SiLU,
    Activation.SOFTPLUS: nn.Softplus,
}


def build_optimizer(settings: ImageSettings) -> Callable[..., torch.optim.Optimizer]:
    """Return the function from parameters to their optimizer, fused where torch has it."""
    return functools.partial(_OPTIMIZERS[settings.optimizer], lr=settings.learning_rate)


def build_graph(settings: ImageSettings, preparation: Preparation, x: Tensor) -> VAE | Denoising:
    """Build the model, with initial weights by the seed.

    Args:
        settings: Of the run.
        preparation: Of the data.
        x: Prepared training rows with shape (N, *event), by which the encoder's input is
            standardized where the preparation does not scale it.
    """
    networks = _Networks(settings, preparation)
    with programs.random_stream(settings.seed, []):
        posterior = build_posterior(settings, networks.encoder)
        likelihood = _likelihood(settings, preparation, x, networks.decoder)
        x = x.float()
        if preparation.total_count not in (None, 1) and not preparation.is_scaled:
            posterior = Standardized(posterior, x.mean().item(), x.std().item() or 1.0)
        rows = functools.partial(random_rows, x)
        prior = build_prior(settings, posterior, rows, *_bounds(settings, preparation))
    vae = VAE(prior, posterior, likelihood)
    if not settings.denoise:
        return vae
    return Denoising(vae, GaussianNoise(settings.denoise * x.std().item()))


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
        if self.settings.network is Network.CONV:
            return nets.ConvDecoder(latents, shape, hidden, self.activation, self.context)
        return self._dense(latents, hidden[::-1], shape)

    def _dense(self, features_in: Shape, hidden: tuple[int, ...], features_out: Shape) -> nn.Module:
        """Build a fully connected network, plain or residual."""
        activation, context = self.activation, self.context
        if self.settings.network is Network.MLP:
            return nets.MLP(features_in, hidden, features_out, activation, context)
        width, blocks = hidden[0], len(hidden)
        return nets.ResidualMLP(features_in, width, features_out, blocks, activation, context)


def _likelihood(
    settings: ImageSettings, preparation: Preparation, x: Tensor, net: Callable[[int], nn.Module]
) -> nn.Module:
    """Build the likelihood over a network with as many outputs as it has parameters."""
    levels = (preparation.total_count or 255) + 1
    makers: dict[Likelihood, Callable[[], nn.Module]] = {
        Likelihood.BERNOULLI: lambda: likelihoods.Bernoulli(net(1)),
        Likelihood.CONTINUOUS_BERNOULLI: lambda: likelihoods.ContinuousBernoulli(net(1)),
        Likelihood.GAUSSIAN: lambda: likelihoods.Gaussian(
            net(1),
            settings.sigma or _residual_scale(x, settings.latents),
            learned=settings.sigma is None,
        ),
        Likelihood.HETEROSCEDASTIC_GAUSSIAN: lambda: likelihoods.HeteroscedasticGaussian(net(2)),
        Likelihood.BINOMIAL: lambda: likelihoods.Binomial(net(1), levels - 1),
        Likelihood.DISCRETIZED_LOGISTIC: lambda: likelihoods.DiscretizedLogistic(net(2), levels),
        Likelihood.CATEGORICAL: lambda: likelihoods.Categorical(net(levels), levels),
        Likelihood.POISSON: lambda: likelihoods.Poisson(net(1)),
    }
    return makers[settings.likelihood]()


def _residual_scale(x: Tensor, d: int) -> float:
    """Return the standard deviation that d principal components leave unexplained in x.

    A learned sigma starts there, since it changes slowly.
    """
    rows = x[:: max(1, len(x) // 1000)].float().flatten(1)
    kept = min(d, rows.shape[1] // 2, len(rows) // 4)  # more would fit these rows exactly
    variances = torch.linalg.svdvals(rows - rows.mean(0)).square()
    return max(0.05, (variances[kept:].sum() / rows.numel()).sqrt().item())
