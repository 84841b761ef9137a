"""What a model makes of degraded images: restored images, their scores and their picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs, tasks
from pyrovae.command.choices import Likelihood
from pyrovae.command.images.degradations import Degradation
from pyrovae.command.images.gallery import Scale
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.rows import fingerprint, hold_out_test, read_for
from pyrovae.command.images.scoring import intervals, standings
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.report import plots
from pyrovae.command.runs import Run
from pyrovae.data import spread
from pyrovae.evaluation import scores

__all__ = [
    "TRAINING",
    "WHITE_DEVIATION",
    "Result",
    "hidden_log_prob",
    "restored",
    "score",
    "sheet",
    "training_rows",
]

SHOWN = 12  # images of the picture
TRAINING = 4000  # training rows to which baselines are fitted, for time
WHITE_DEVIATION = 0.5  # half the range: the largest standard deviation of values within it


class Result(NamedTuple):
    """Restored images, with black as 0 and white as 1.

    Attributes:
        mean: Posterior means, with shape (N, *event).
        deviation: Standard deviations of the draws.
        draws: With shape (K, N, *event).
        effective_sample_size: Of the weights behind them, with shape (N,).
    """

    mean: Tensor
    deviation: Tensor
    draws: Tensor
    effective_sample_size: Tensor


def restored(
    model: ImageModel,
    degradation: Degradation,
    given: Tensor,
    context: tuple[Tensor, ...],
    options: dict[str, Any],
) -> Result:
    """Return what the model makes of degraded images."""
    scale = Scale(model.preparation)
    found = degradation.restore(model.graph, scale, given, context, **options)
    draws = torch.stack([scale.from_model(draw) for draw in found.draws])
    mean, size = scale.from_model(found.mean), found.effective_sample_size
    if degradation.where is not None:  # what is not hidden stays as given, where modelled as 0 or 1
        draws, mean = (torch.where(degradation.where, part, given) for part in (draws, mean))
    return Result(mean, draws.std(0), draws, size)


def score(
    degradation: Degradation,
    given: Tensor,
    found: Result,
    clean: Tensor,
    train: Tensor | None,
    seed: int,
    log_p: scores.Score | None = None,
) -> list[dict[str, Any]]:
    """Return the scores of restored images and of baselines, the model's first.

    Args:
        degradation: What was done to the images.
        given: The degraded images.
        found: What the model made of them.
        clean: The true ones.
        train: Training rows, to which baselines are fitted.
        seed: Of the baselines.
        log_p: Of the model, as `hidden_log_prob` returns it.
    """
    with programs.random_stream(seed, []):
        others = degradation.simple(given, train)
    named = {"the model": found.mean, **others}
    return [
        standing.figures()
        for standing in standings(named, clean, degradation.where, intervals(found.draws), log_p)
    ]


def hidden_log_prob(
    run: Run[ImageSettings],
    model: ImageModel,
    degradation: Degradation,
    clean: Tensor,
    context: tuple[Tensor, ...],
    options: dict[str, Any],
) -> scores.Score | None:
    """Return log p(x_h | x_o, c) of each image, in nats a hidden value.

    Args:
        run: Whose model it is.
        model: The model.
        degradation: What was done to the images.
        clean: The true ones.
        context: The labels as the model takes them.
        options: How the posterior is found, as for `restored`.

    Returns:
        The score; None where nothing is hidden, or p(x | z) is no density of the values: that of an
        autoencoder is fixed, and that of grey values taken for probabilities does not add up to 1.
    """
    settings, hidden = run.settings, degradation.where
    bernoulli = settings.likelihood is Likelihood.BERNOULLI
    of_grey = bernoulli and not settings.binarize and bool((clean * (1 - clean) > 0).any())
    if hidden is None or settings.is_autoencoder or of_grey:
        return None
    x, count = Scale(model.preparation).to_model(clean, valid=True), hidden.flatten(1).sum(1)
    given = {name: value for name, value in options.items() if name != "draws"}
    found = tasks.hidden_log_prob(model.graph, x, *context, hidden=hidden, **given)
    return scores.Score(found.log_p / count)


def sheet(
    degradation: Degradation, given: Tensor, found: Result, clean: Tensor | None
) -> tuple[Any, str]:
    """Return a figure of the first images, restored, and its caption."""
    kept = spread(len(found.mean), SHOWN)
    bands = {
        degradation.GIVEN: degradation.shown(given[kept]),
        "posterior mean": found.mean[kept],
        "a draw": found.draws[0][kept],
        "another draw": found.draws[-1][kept],
        "standard deviation": found.deviation[kept] / WHITE_DEVIATION,
    }
    bands |= {} if clean is None else {"clean": clean[kept]}
    shown = {name: x.numpy() for name, x in bands.items()}
    caption = (
        "Standard deviation of the draws: black is 0, white is half the range from black to white."
    )
    return plots.bands(shown, "", len(given[kept]), (0.0, 1.0)), caption


def training_rows(
    run: Run[Any], scale: Scale, data_dir: Path | None, say: Callable[[str], None]
) -> Tensor | None:
    """Return training rows of a run, evenly spread; None if its data are no longer there."""
    settings = run.settings
    try:
        data = read_for(scale.preparation, settings.data, data_dir or settings.data_dir)
    except (OSError, ValueError, ImportError) as error:
        say(f"note: no mean image and no PCA beside it, the training data are not there: {error}")
        return None
    if fingerprint(data) != run.data["fingerprint"]:
        say(f"note: no mean image and no PCA beside it: {settings.data} has changed since the fit")
        return None
    x = hold_out_test(data, settings.test, settings.seed).x
    return scale.to_unit(x[spread(len(x), TRAINING).numpy()])
