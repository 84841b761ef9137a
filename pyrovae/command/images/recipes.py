"""From the words of the command line to objects, with sensible choices by the data's kind.

| kind                 | likelihood           | encoder sees            |
|----------------------|----------------------|-------------------------|
| 0 or 1               | Bernoulli            | x                       |
| grey in [0, 1]       | ContinuousBernoulli, or Bernoulli of binarized x | x |
| counts 0..n          | Binomial             | (x - mean) / deviation  |
| counts without bound | Poisson              | (x - mean) / deviation  |
| levels 0..255        | DiscretizedLogistic  | (x - mean) / deviation  |
| real                 | Gaussian of (x - mean) / deviation, sigma learned | the same |
"""

import functools
from collections.abc import Callable
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import likelihoods, nets, programs
from pyrovae.command import parts
from pyrovae.command.kinds import SIMULATED, holds_cells
from pyrovae.command.options import Activation, Likelihood, Network, Optimizer, Settings, Settled
from pyrovae.command.preparation import REAL_LIKELIHOODS, UNIT_LIKELIHOODS, Preparation
from pyrovae.data import Dataset, Kind, datasets
from pyrovae.distributions import Standardized
from pyrovae.graphs import VAE, Denoising, GaussianNoise

__all__ = ["graph", "load", "optimizer", "settle"]

Features = int | tuple[int, ...]

EMBEDDED: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": lambda root: datasets.digits(),
    "mnist": datasets.mnist,
    "fashion-mnist": datasets.fashion_mnist,
}
BY_KIND = {
    Kind.BINARY: Likelihood.BERNOULLI,
    Kind.UNIT: Likelihood.CONTINUOUS_BERNOULLI,
    Kind.COUNTS: Likelihood.POISSON,
    Kind.LEVELS: Likelihood.DISCRETIZED_LOGISTIC,
    Kind.REAL: Likelihood.GAUSSIAN,
}
# Kingma & Welling's setting (2014, section 5) with the notes' 20 latents; the digits' was chosen on their validation rows.
NOTES = {
    "binarize": True,
    "hidden": (500,),
    "activation": Activation.TANH,
    "latents": 20,
    "batch_size": 100,
    "epochs": 20,
}
SMALL = 10_000  # values a step: the digits' 2,048 take 5.7 s on two threads and 3.5 s on one, MNIST's 78,400 gain from two
STEPS = 4000  # at least, where 500 epochs hold so many: small data need the steps, not the epochs
BY_NAME: dict[str, dict[str, Any]] = {
    "digits": {"hidden": (512,), "latents": 16, "batch_size": 32, "epochs": 60},
    "mnist": NOTES,
    "fashion-mnist": NOTES,
}


def load(data: str, data_dir: Path | None = None) -> Dataset:
    """Load what DATA names: an embedded set, an array file or a folder of images."""
    if holds_cells(data):
        raise ValueError(
            f"{data} holds cells, but the model was fitted on images or arrays; give data of that kind"
        )
    if data in EMBEDDED:
        return EMBEDDED[data](data_dir)
    path = Path(data)
    if path.is_dir():
        return datasets.image_folder(path)
    if path.suffix in (".npy", ".npz"):
        return datasets.array(path)
    raise FileNotFoundError(
        f"DATA is {data}: expected {', '.join((*EMBEDDED, SIMULATED))}, an .npy, .npz or .h5ad file, or a folder of images; "
        "there is no such folder"
    )


def settle(settings: Settings, data: Dataset) -> Settled:
    """Fill in what was left to the data's kind."""
    recipe = BY_NAME.get(settings.data, {})
    bernoulli = settings.likelihood in (None, Likelihood.BERNOULLI)
    binarize = (
        recipe.get("binarize", False) and bernoulli
        if settings.binarize is None
        else settings.binarize
    )
    batch_size = (
        settings.batch_size or recipe.get("batch_size") or (128 if len(data.x) >= 10_000 else 32)
    )
    conv = Network.CONV if len(data.shape) == 3 and prod(data.shape[1:]) > 32 * 32 else Network.MLP
    chosen: dict[str, Any] = {
        "likelihood": _fitting(data, binarize),
        "network": conv,
        "activation": Activation.RELU,
        "latents": max(2, min(16, prod(data.shape) // 2)),
        "batch_size": batch_size,
        "threads": 1 if batch_size * prod(data.shape) <= SMALL else None,
        "epochs": max(20, min(500, STEPS * batch_size // len(data.x))),
        "hidden": (400,),
        "validation": min(0.1, 5000 / len(data.x)),
    }
    chosen |= recipe | {"binarize": binarize}
    if (settings.network or chosen["network"]) is Network.CONV:
        chosen["hidden"] = (32, 64, 64)
    if settings.patience and settings.validation == 0:
        raise ValueError(
            "--patience needs validation rows to judge by, but --validation is 0; leave one of them out"
        )
    return Settled(
        **chosen | {key: value for key, value in asdict(settings).items() if value is not None}
    )


def _fitting(data: Dataset, binarize: bool) -> Likelihood:
    """Return the likelihood for the kind of data."""
    if binarize:
        return Likelihood.BERNOULLI
    return BY_KIND[data.kind] if data.total_count is None else Likelihood.BINOMIAL


# ---------------------------------------------------------------------------------------------------- building the parts
def graph(settings: Settled, preparation: Preparation, x: Tensor) -> VAE | Denoising:
    """Build the graph of the chosen parts, with initial weights by the seed.

    Args:
        settings: Settled settings.
        preparation: Of the data.
        x: Prepared training rows with shape (N, *event), whose mean and deviation scale the encoder's input.
    """
    context = len(preparation.classes)
    with programs.random_stream(settings.seed, []):
        posterior = parts.posterior(
            settings, lambda codes: _encoder(settings, preparation.shape, codes, context)
        )
        likelihood = _likelihood(
            settings,
            preparation,
            x,
            functools.partial(_decoder, settings, preparation.shape, context),
        )
        x = x.float()
        if preparation.total_count not in (None, 1) and set(preparation.scale) == {1.0}:
            posterior = Standardized(posterior, x.mean().item(), x.std().item() or 1.0)
        prior = parts.prior(
            settings, posterior, functools.partial(parts.some, x), *_bounds(settings, preparation)
        )
    vae = VAE(prior, posterior, likelihood)
    if not settings.denoise:
        return vae
    return Denoising(vae, GaussianNoise(settings.denoise * x.std().item()))


def _bounds(settings: Settled, preparation: Preparation) -> tuple[float | None, float | None]:
    """Return the least and the largest value that a row as modelled can hold."""
    if settings.likelihood in REAL_LIKELIHOODS:
        return None, None
    return 0.0, 1.0 if settings.likelihood in UNIT_LIKELIHOODS else preparation.total_count


def optimizer(settings: Settled) -> Callable[..., torch.optim.Optimizer]:
    """Return what makes the optimizer of the parameters, fused where torch has it."""
    return functools.partial(_OPTIMIZERS[settings.optimizer], lr=settings.learning_rate)


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


def _encoder(settings: Settled, shape: tuple[int, ...], features: int, context: int) -> nn.Module:
    """Build the network from x (and c) to so many features."""
    activation = _ACTIVATIONS[settings.activation]
    if settings.network is Network.CONV:
        return nets.ConvEncoder(_image(shape), features, settings.hidden, activation, context)
    return _dense(settings, shape, features, activation, context)


def _decoder(settings: Settled, shape: tuple[int, ...], context: int, parameters: int) -> nn.Module:
    """Build the network from z (and c) to so many parameters a value of x."""
    activation, out = _ACTIVATIONS[settings.activation], (parameters * shape[0], *shape[1:])
    if settings.network is Network.CONV:
        return nets.ConvDecoder(settings.latents, _image(out), settings.hidden, activation, context)
    return _dense(settings, settings.latents, out, activation, context, backwards=True)


def _dense(
    settings: Settled,
    features_in: Features,
    features_out: Features,
    activation: type[nn.Module],
    context: int,
    backwards: bool = False,
) -> nn.Module:
    """Build a fully connected network, plain or residual; the decoder's widths are the encoder's walked backwards."""
    hidden = tuple(settings.hidden)[::-1] if backwards else tuple(settings.hidden)
    if settings.network is Network.MLP:
        return nets.MLP(features_in, hidden, features_out, activation, context)
    if len(set(hidden)) > 1:
        raise ValueError(
            f"--hidden {hidden}: the blocks of --network residual have one width; repeat it once a block, e.g. 256,256"
        )
    return nets.ResidualMLP(features_in, hidden[0], features_out, len(hidden), activation, context)


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse vectors where a convolution is asked for."""
    if len(shape) != 3:
        raise ValueError(
            f"--network conv needs images (C, H, W), but a row has shape {shape}; choose mlp or residual"
        )
    return shape


def _residual(x: Tensor, d: int) -> float:
    """Return the deviation that d principal components leave in x: where a learned sigma begins, for it moves slowly."""
    rows = x[:: max(1, len(x) // 1000)].float().flatten(1)
    kept = min(d, rows.shape[1] // 2, len(rows) // 4)  # more would fit these rows and leave nothing
    variances = torch.linalg.svdvals(rows - rows.mean(0)).square()
    return max(0.05, (variances[kept:].sum() / rows.numel()).sqrt().item())


def _likelihood(
    settings: Settled, preparation: Preparation, x: Tensor, net: Callable[[int], nn.Module]
) -> nn.Module:
    """Build the likelihood over a network with as many outputs as it has parameters."""
    levels = (preparation.total_count or 255) + 1
    makers: dict[Likelihood, Callable[[], nn.Module]] = {
        Likelihood.BERNOULLI: lambda: likelihoods.Bernoulli(net(1)),
        Likelihood.CONTINUOUS_BERNOULLI: lambda: likelihoods.ContinuousBernoulli(net(1)),
        Likelihood.GAUSSIAN: lambda: likelihoods.Gaussian(
            net(1), settings.sigma or _residual(x, settings.latents), learned=settings.sigma is None
        ),
        Likelihood.HETEROSCEDASTIC_GAUSSIAN: lambda: likelihoods.HeteroscedasticGaussian(net(2)),
        Likelihood.BINOMIAL: lambda: likelihoods.Binomial(net(1), levels - 1),
        Likelihood.DISCRETIZED_LOGISTIC: lambda: likelihoods.DiscretizedLogistic(net(2), levels),
        Likelihood.CATEGORICAL: lambda: likelihoods.Categorical(net(levels), levels),
        Likelihood.POISSON: lambda: likelihoods.Poisson(net(1)),
    }
    return makers[settings.likelihood]()
