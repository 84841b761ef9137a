"""Images and arrays: objective, optimizer, learning rates and gradient bound of training."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyrovae import objectives
from pyrovae.command.choices import Likelihood, Objective, Optimizer, Posterior
from pyrovae.command.images.preparation import REAL_LIKELIHOODS
from pyrovae.command.images.settings import ImageSettings
from pyrovae.training import Adam, AdamW

__all__ = [
    "build_objective",
    "build_optimizer",
    "build_scheduler",
    "clip_norm",
    "learning_rates",
    "patience_of_rate",
    "starts_at_components",
]

_OPTIMIZERS: dict[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    Optimizer.ADAM: functools.partial(Adam, fused=True),
    Optimizer.ADAMW: functools.partial(AdamW, fused=True),
    Optimizer.ADAMAX: torch.optim.Adamax,
    Optimizer.ADAGRAD: functools.partial(torch.optim.Adagrad, fused=True),
    Optimizer.RMSPROP: torch.optim.RMSprop,
    Optimizer.SGD: functools.partial(torch.optim.SGD, fused=True),
}
_OBJECTIVES: dict[
    Objective, type[objectives.SGVB_A | objectives.SGVB_B | objectives.IWAE | objectives.DReG]
] = {
    Objective.SGVB_A: objectives.SGVB_A,
    Objective.SGVB_B: objectives.SGVB_B,
    Objective.IWAE: objectives.IWAE,
    Objective.DREG: objectives.DReG,
}
_INPUTS = 1000  # of a layer, above which its learning rate is lower
_INPUTS_OF_LINE = 100  # of a linear part, whose start is good already


def build_objective(settings: ImageSettings) -> objectives.Objective:
    """Build the estimator of the bound."""
    warm_up, beta = settings.warm_up, settings.beta
    schedule = objectives.warm_up(warm_up, beta) if warm_up else beta
    return _OBJECTIVES[settings.objective](samples=settings.draws, beta=schedule)


def build_optimizer(settings: ImageSettings) -> Callable[..., torch.optim.Optimizer]:
    """Return the function from parameters to their optimizer, fused where torch has it."""
    return functools.partial(_OPTIMIZERS[settings.optimizer], lr=settings.learning_rate)


def build_scheduler(
    settings: ImageSettings,
) -> Callable[[torch.optim.Optimizer], ReduceLROnPlateau] | None:
    """Return what lowers the learning rate while the validation ELBO does not rise."""
    if settings.patience is None:
        return None
    epochs = patience_of_rate(settings.patience)
    return functools.partial(ReduceLROnPlateau, factor=1 / 3, patience=epochs, threshold=0.0)


def patience_of_rate(patience: int) -> int:
    """Return the epochs without a better validation ELBO after which the learning rate falls."""
    return max(1, patience // 4)


def learning_rates(settings: ImageSettings, graph: nn.Module) -> dict[str, float] | None:
    """Return smaller learning rates for layers of very many inputs; None if there are none.

    A step of Adam changes each weight by about the learning rate, and so an output by as much for
    every input. The rate of a layer with more inputs than usual is lower in proportion, so that a
    step changes its outputs as it does elsewhere.
    """
    rates = {}
    for name, module in graph.named_modules():
        inputs = getattr(module, "in_features", 0)
        usual = _INPUTS_OF_LINE if name.endswith(".linear") else _INPUTS
        if isinstance(module, nn.Linear) and inputs > usual:
            rates[f"{name}.weight"] = settings.learning_rate * usual / inputs
    return rates or None


def clip_norm(settings: ImageSettings) -> Any:
    """Return the bound on the norm of the gradient, as `pyrovae.fit` takes it."""
    words = {"auto": "auto", "none": None}
    return words[settings.clip_norm] if settings.clip_norm in words else float(settings.clip_norm)


def starts_at_components(settings: ImageSettings) -> bool:
    """Return whether a linear part of encoder and decoder can start at probabilistic PCA."""
    means = (*REAL_LIKELIHOODS, Likelihood.DISCRETIZED_LOGISTIC)
    return settings.posterior is Posterior.DIAGONAL_NORMAL and settings.likelihood in means
