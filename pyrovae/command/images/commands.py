"""The commands that restore images: denoise, impute, super-resolve.

What is heavy is imported once a command runs.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyrovae.command.choices import Method, NoiseKind
from pyrovae.command.settings import DataDir

if TYPE_CHECKING:
    from pyrovae.command.images.degradations import Corruption, Degradation
    from pyrovae.command.images.restoring import Make

__all__ = ["denoise", "impute", "super_resolve"]

Model = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run, as `pyrovae fit` leaves it.")
]
Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="A folder of images, an .npy, .npz or .tif file, or a data set's name, for its test "
        "rows.",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the restored images and their scores.")
]
Corrupt = Annotated[
    bool,
    typer.Option(
        "--corrupt", help="IMAGES are clean: degrade them first, and score what is restored."
    ),
]
Clean = Annotated[
    str | None, typer.Option(help="The same images undegraded, to score what is restored.")
]
How = Annotated[
    Method | None,
    typer.Option(help="How the posterior is found (default: refine, for an autoencoder encoder)."),
]
Draws = Annotated[int, typer.Option(min=2, max=10_000, help="Draws for each image.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the degradation and of the draws.")]
AtMost = Annotated[
    int | None,
    typer.Option(
        min=1, help="Restore so many images at most (default: all, of a data set by name 100)."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write into the output folder whatever it holds.")
]


def denoise(
    model: Model,
    images: Images,
    output: Output,
    noise: Annotated[
        str | None,
        typer.Option(
            help="gaussian:S with standard deviation S, salt-and-pepper:S or masking:S for a "
            "fraction S of the pixels; values from black 0 to white 1. Without it the encoder "
            "alone decides.",
        ),
    ] = None,
    corrupt: Corrupt = False,
    clean: Clean = None,
    method: How = None,
    draws: Draws = 19,
    seed: Seed = 0,
    rows: AtMost = None,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
) -> None:
    """Remove noise from images: their clean values given the noisy ones, with their uncertainty."""
    corruption = None if noise is None else _corruption(noise)
    if corruption is None and corrupt:
        raise ValueError("--corrupt needs the noise to add; give e.g. --noise gaussian:0.3")
    if corruption is None and method not in (None, Method.ENCODER):
        raise ValueError(f"--method {method} needs the noise; give e.g. --noise gaussian:0.3")

    def make(x: Any, scale: Any) -> "Degradation":
        from pyrovae.command.images.degradations import Noise

        if corruption is not None:
            corruption.on_model(scale)
        return Noise(corruption)

    _run("denoise", make, locals())


def impute(
    model: Model,
    images: Images,
    output: Output,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Which pixels are hidden: lower-half, upper-half, left-half or right-half, an "
            ".npy file (true or 1 is hidden), or an image file (white is hidden). NaN in an array "
            "of images is hidden too.",
        ),
    ] = None,
    hidden: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Fraction of the pixels that is hidden at random."),
    ] = None,
    corrupt: Corrupt = False,
    clean: Clean = None,
    method: How = None,
    draws: Draws = 19,
    seed: Seed = 0,
    rows: AtMost = None,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
) -> None:
    """Fill in hidden pixels of images, given the others, with their uncertainty."""
    if mask is not None and hidden is not None:
        raise ValueError("give either --mask or --hidden, to say which pixels are hidden")

    def make(x: Any, scale: Any) -> "Degradation":
        from pyrovae.command.images import masks
        from pyrovae.command.images.degradations import HiddenPixels

        return HiddenPixels(masks.hidden(x, mask, hidden, seed))

    _run("impute", make, locals())


def super_resolve(
    model: Model,
    images: Images,
    output: Output,
    factor: Annotated[
        int, typer.Option(min=2, help="How many pixels a side of a given pixel becomes.")
    ] = 2,
    corrupt: Corrupt = False,
    clean: Clean = None,
    method: How = None,
    draws: Draws = 19,
    seed: Seed = 0,
    rows: AtMost = None,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
) -> None:
    """Enlarge images to the size of the model's, with their uncertainty."""

    def make(x: Any, scale: Any) -> "Degradation":
        from pyrovae.command.images.degradations import Pooling

        shape = scale.preparation.shape
        if len(shape) != 3:
            raise ValueError(f"the model was fitted on vectors of {shape[0]} values, not on images")
        if any(side % factor for side in shape[1:]):
            raise ValueError(
                f"--factor {factor} does not divide the sides of the model's images, "
                f"{shape[1]} x {shape[2]}"
            )
        expected = shape if corrupt else (shape[0], shape[1] // factor, shape[2] // factor)
        if tuple(x.shape[1:]) != tuple(expected):
            raise ValueError(
                f"the images have shape {tuple(x.shape[1:])}, expected {tuple(expected)}; "
                "give images of that shape, or another --factor"
            )
        return Pooling(factor)

    _run("super-resolve", make, locals())


def _run(task: str, make: "Make", given: dict[str, Any]) -> None:
    """Restore the images as the options say."""
    from dataclasses import fields

    from pyrovae.command.images.restoring import Order, restore_images

    named = {field.name: given[field.name] for field in fields(Order) if field.name != "task"}
    restore_images(Order(task, **named), make, say=typer.echo)


def _corruption(text: str) -> "Corruption":
    """Read the words of `--noise`."""
    from pyrovae.command.images.degradations import Corruption

    kind, _, amount = text.partition(":")
    try:
        found = Corruption(NoiseKind(kind), float(amount))
    except ValueError:
        raise ValueError(
            f"--noise {text}: expected gaussian:S, salt-and-pepper:S or masking:S, S a number"
        ) from None
    most = math.inf if found.kind is NoiseKind.GAUSSIAN else 1.0
    if not 0 < found.amount < most:
        bound = "a positive number" if math.isinf(most) else "between 0 and 1"
        raise ValueError(f"--noise {text}: {amount} is out of range, expected {bound}")
    return found
