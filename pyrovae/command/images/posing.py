"""Images with a pose of their own: the model that --pose names, and the pictures of its poses."""

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyrovae import nets, posteriors, priors
from pyrovae.command.choices import Objective, Posterior
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.report import grids, plots, poses
from pyrovae.command.report.page import Picture
from pyrovae.graphs import PoseVAE

__all__ = [
    "build_pose_graph",
    "check_pose",
    "draw_poses",
    "objective_of_turns",
    "over_places",
    "pose_columns",
]

_TURNS = 8  # copies of an image, of which one is upright
_READ_ALONE = 0.25  # of the first epochs, in which the angle is read off the image itself
_FIRST_EPOCHS = 20  # of which that is a part; a long run does not need more
_SHIFT, _LOG_SCALE = 0.1, 0.2  # standard deviations of the priors of a translation and a log scale
_SHOWN = 24


def check_pose(settings: ImageSettings, shape: tuple[int, ...]) -> None:
    """Refuse what a model of poses cannot be combined with.

    Raises:
        ValueError: Names the option and the remedy.
    """
    if len(shape) != 3:
        raise ValueError(
            f"--pose {settings.pose} needs images (C, H, W), but a row has shape {shape}; "
            "leave it out"
        )
    usual: dict[str, tuple[Any, Any]] = {
        "posterior": (settings.posterior, Posterior.DIAGONAL_NORMAL),
        "denoise": (settings.denoise, 0.0),
        "objective": (settings.objective, Objective.SGVB_B),
        "draws": (settings.draws, 1),
        "beta": (settings.beta, 1.0),
        "warm-up": (settings.warm_up, 0.0),
    }
    for name, (value, needed) in usual.items():
        if value != needed:
            raise ValueError(f"--pose {settings.pose} needs --{name} {needed}; leave it out")


def over_places(
    net: Callable[[int], nn.Module], shape: tuple[int, ...]
) -> Callable[[int], nn.Module]:
    """Return a maker of decoders whose images are read at places, for a likelihood over them."""

    def make(parameters: int) -> nn.Module:
        return nets.InterpolatedImage(net(parameters), (parameters * shape[0], *shape[1:]))

    return make


def build_pose_graph(
    settings: ImageSettings,
    data_shape: tuple[int, ...],
    encoder: Callable[[int], nn.Module],
    parts: tuple[nn.Module, nn.Module, nn.Module],
    rows: int,
) -> PoseVAE:
    """Build a graph of images with a pose.

    Args:
        settings: Of the run.
        data_shape: (C, H, W).
        encoder: Makes a network from x to a number of features.
        parts: Prior, posterior and likelihood of the content.
        rows: Of training data, by which the number of steps is known.
    """
    width = settings.hidden[0] if len(settings.hidden) else 128
    features: nn.Module = encoder(width)
    named: dict[str, Any] = {}
    if "rotation" in settings.poses:
        features = nets.TurnedCopies(features, _TURNS)
        steps = ceil(rows / settings.batch_size) * min(settings.epochs, _FIRST_EPOCHS)
        named |= {"turn": _head(width, 1), "turns_from": round(_READ_ALONE * steps)}
        named["rotation_prior"] = priors.UniformAngle(1)
        named["rotation_posterior"] = posteriors.WrappedNormal(_head(width, 2))
    if "translation" in settings.poses:
        named["translation_prior"] = priors.CentredNormal(2, _SHIFT)
        named["translation_posterior"] = posteriors.DiagonalNormal(_head(width, 4))
    if "scale" in settings.poses:
        named["scale_prior"] = priors.CentredNormal(1, _LOG_SCALE)
        named["scale_posterior"] = posteriors.DiagonalNormal(_head(width, 2))
    moved = "translation" in settings.poses
    return PoseVAE(*parts, shape=data_shape, encoder=features, align=True, centre=moved, **named)


def _head(width: int, outputs: int) -> nn.Module:
    """Return a network from the encoder's features to the parameters of one posterior.

    It starts near pose zero, with log standard deviations of -3: a decoder learns nothing from
    images at random poses.
    """
    net = nets.MLP(width, [width], outputs)
    *_, last = (module for module in net.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias[outputs // 2 :] = -3.0 if outputs > 1 else 0.0
    return net


def objective_of_turns(settings: ImageSettings) -> TraceEnum_ELBO | None:
    """Return the objective that sums the turns out, where there are any."""
    return TraceEnum_ELBO(max_plate_nesting=1) if "rotation" in settings.poses else None


def draw_poses(
    found: dict[str, np.ndarray], versions: dict[str, np.ndarray], limits: grids.Limits
) -> list[Picture]:
    """Draw images beside their contents at zero pose, and the distribution of the poses.

    Args:
        found: Poses of test rows by site: theta (N, 1), dx (N, 2), s (N, 1).
        versions: The same few rows as they are, reconstructed and at zero pose.
        limits: Values drawn black and white.
    """
    figure = plots.bands(versions, "Content apart from pose", _SHOWN // 2, limits)
    caption = (
        "The last line shows the content of each image at zero pose. Which way up that is, each "
        "kind of content settles for itself where angles have no preferred direction."
    )
    return [
        Picture("At zero pose", figure, caption),
        Picture(
            "Poses",
            poses.draw(found),
            "Poses of test rows: means of the posterior, at the most probable turn. A shift of 0.1 "
            "is a twentieth of the longer side.",
        ),
    ]


def pose_columns(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the pose of each row by the name of its column."""
    names = {"theta": ("theta",), "dx": ("dx_right", "dx_up"), "s": ("s",)}
    return {column: found[site][:, i] for site in found for i, column in enumerate(names[site])}
