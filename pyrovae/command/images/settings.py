"""The settings of a run on images or arrays; each field carries the option that sets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, ClassVar, Self, final

import typer

from pyrovae.command.choices import Activation, Likelihood, Network, Objective, Optimizer
from pyrovae.command.settings import BY_DATA, Settings, option

__all__ = ["ImageSettings"]

IMAGES = "Images and arrays"
POSES = ("rotation", "translation", "scale")


def _bound(given: str) -> str:
    """Read a bound on the norm of the gradient."""
    try:
        known = given in ("auto", "none") or 0 < float(given) < inf
    except ValueError:
        known = False
    if not known:
        raise typer.BadParameter(f"{given} is no bound; write a positive number, auto or none")
    return given


def _pose(given: str) -> str:
    """Read the latents of a pose."""
    parts = [part.strip() for part in given.split(",") if part.strip()]
    unknown = sorted(set(parts) - set(POSES))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is no part of a pose; write {','.join(POSES)}")
    return ",".join(pose for pose in POSES if pose in parts)


@final
@dataclass(frozen=True, kw_only=True)
class ImageSettings(Settings):
    """Settings of a run on images or arrays."""

    HOLDS: ClassVar[str] = "images or arrays"
    LIKELIHOODS: ClassVar[tuple[Likelihood, ...]] = tuple(
        one for one in Likelihood if one not in (Likelihood.ZINB, Likelihood.NB)
    )
    EVIDENCE_SAMPLES: ClassVar[int] = 1000

    binarize: Annotated[
        bool,
        option(
            f"Draw each grey value in [0, 1] as 0 or 1, again at every visit ({BY_DATA}).",
            panel=IMAGES,
        ),
    ]
    condition: Annotated[
        bool,
        option("Give the label to all parts of the model, as one-hot context c.", panel=IMAGES),
    ] = False
    denoise: Annotated[
        float,
        option(
            "Standard deviation of the noise on what the encoder sees in training, "
            "in units of the data's standard deviation.",
            min=0,
            panel=IMAGES,
        ),
    ] = 0.0
    network: Annotated[Network, option(f"Encoder and decoder ({BY_DATA}).", panel=IMAGES)]
    activation: Annotated[Activation, option(f"Non-linearity ({BY_DATA}).", panel=IMAGES)]
    sigma: Annotated[
        float | None,
        option(
            "Fixed standard deviation of the Gaussian likelihood, in units of the data's "
            "(default: learned).",
            min=1e-6,
            panel=IMAGES,
        ),
    ] = None
    objective: Annotated[Objective, option("Estimator of the bound.", panel=IMAGES)] = (
        Objective.SGVB_B
    )
    beta: Annotated[float, option("Weight of the KL term.", min=0, panel=IMAGES)] = 1.0
    draws: Annotated[
        int, option("Draws of z per row and step.", min=1, max=10_000, panel=IMAGES)
    ] = 1
    optimizer: Annotated[Optimizer, option("Optimizer.", panel=IMAGES)] = Optimizer.ADAM
    clip_norm: Annotated[
        str,
        option(
            "Largest norm of the gradient: a number, none, or auto, which is four times the "
            "geometric mean of the norms of recent steps.",
            callback=_bound,
            panel=IMAGES,
        ),
    ] = "auto"

    pose: Annotated[
        str,
        option(
            "Latents of a pose apart from the content of each image: rotation, translation, scale, "
            "or several, as rotation,translation (default: none).",
            callback=_pose,
            panel=IMAGES,
        ),
    ] = ""

    @property
    def poses(self) -> tuple[str, ...]:
        """The latents of the pose."""
        return tuple(self.pose.split(",")) if self.pose else ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make settings of values by name; runs of before `auto` hold a number or nothing."""
        if "clip_norm" in values:
            bound = values["clip_norm"]
            values = {**values, "clip_norm": "none" if bound is None else str(bound)}
        return super().of(values)
