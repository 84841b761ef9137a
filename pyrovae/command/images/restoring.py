"""`pyrovae denoise`, `impute` and `super-resolve`: images in, restored images and scores out.

restored*             the posterior means, in the form of the images
standard_deviation*   of the draws; files of 8 bits show half the range from black to white as white
draws*                of the posterior
degraded*             what the model was given, if the command made it
scores.json           scores beside those of baselines, where clean images are known
report.html           figures and pictures
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrovae import programs
from pyrovae.command.choices import Method
from pyrovae.command.contexts import notes
from pyrovae.command.images.degradations import Degradation
from pyrovae.command.images.gallery import Gallery, Scale, read_gallery
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.resolve import EMBEDDED
from pyrovae.command.images.results import (
    WHITE_DEVIATION,
    Result,
    hidden_log_prob,
    restored,
    score,
    sheet,
    training_rows,
)
from pyrovae.command.images.scoring import table
from pyrovae.command.report.page import Picture, Report, render
from pyrovae.command.runs import Run
from pyrovae.command.writing import write, write_json
from pyrovae.training import hooks

__all__ = ["Order", "restore_images"]

BY_NAME = 100  # rows of a data set that is given by name, unless --rows says otherwise
AT_ONCE = 1 << 25  # probabilities of levels that one step of the refinement computes together
WRITTEN = ("restored", "standard_deviation", "draws", "degraded")
PAGES = ("scores.json", "report.html")
_OF_AUTOENCODER = (
    " The draws of an autoencoder, and the coverage of their intervals, show only the fixed sigma "
    "of its pixels: its code has no distribution."
)

Make = Callable[[Tensor, Scale], Degradation]


@dataclass(frozen=True)
class Order:
    """What the user asked for.

    Attributes:
        task: The command's name.
        model: Folder of the run.
        images: The images: a data set's name, an array file or a folder.
        output: Folder to write into.
        clean: The same images undegraded, if they are known.
        corrupt: Whether the images are clean, and degraded first.
        method: How the posterior is found; None takes the default.
        draws: Number of draws for each image.
        seed: Of the degradation and of the draws.
        rows: Largest number of images.
        data_dir: Folder with torchvision's data sets.
        overwrite: Whether the output folder may hold something.
    """

    task: str
    model: Path
    images: str
    output: Path
    clean: str | None
    corrupt: bool
    method: Method | None
    draws: int
    seed: int
    rows: int | None
    data_dir: Path | None
    overwrite: bool


def restore_images(order: Order, make: Make, say: Callable[[str], None]) -> None:
    """Restore images with the model of a run, and write what was found.

    Args:
        order: What the user asked for.
        make: Returns the degradation for images with shape (N, *event), as they were read.
        say: Called with each line to print.

    Raises:
        ImportError, OSError, ValueError: Options, images and run do not fit each other; nothing has
            been written then.
    """
    started = time.time()
    _claim(order.output, order.overwrite)
    run = Run.open_images(order.model, order.task)
    model = ImageModel.of(run)
    scale = Scale(model.preparation)
    rows = order.rows or (BY_NAME if order.images in EMBEDDED else None)
    imputes = order.task == "impute"
    with notes(say) as warned:
        gallery = read_gallery(order.images, run, scale, order.data_dir, rows, missing=imputes)
        degradation = make(gallery.x, scale)
        gallery = _without_nan(gallery, order)
        clean = _clean(order, gallery, run, scale, rows)
        with programs.random_stream(order.seed, []):
            given = degradation.degrade(gallery.x) if order.corrupt else gallery.x
        _check_shape(degradation.shown(given), scale)
        options = _options(order, run, scale)
        found = restored(model, degradation, given, gallery.context, options)
        figures = {**_facts(order, found), "scores": []}
        if clean is not None:
            train = training_rows(run, scale, order.data_dir, say)
            c = gallery.context
            log_p = hidden_log_prob(run, model, degradation, clean, c, options)
            figures["scores"] = score(degradation, given, found, clean, train, order.seed, log_p)
    figure, caption = sheet(degradation, given, found, clean)
    caption += _OF_AUTOENCODER if run.settings.is_autoencoder else ""
    rows_of_table = table(figures["scores"])
    for row in rows_of_table:
        say(row.line())
    report = Report(
        title=f"{run.data['name']}: {order.task}",
        subtitle=f"{len(found.mean)} images; {_how(figures)}",
        warnings=warned,
        rows=rows_of_table,
        pictures=[Picture("Restored images", figure, caption)],
        facts={
            "run": str(run.folder),
            "images": order.images,
            "time": f"{time.time() - started:.0f} s",
        },
    )
    with _whole_or_not(order.output):
        _write(order, gallery, scale, found, degradation.shown(given))
        write_json(figures, order.output / "scores.json")
        write(order.output / "report.html", render(report))
    say(f"{order.output}: {len(found.mean)} images, {order.task}")


def _claim(folder: Path, overwrite: bool) -> None:
    """Refuse an output folder that holds something."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another folder with --output")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"{folder} holds something; choose another folder with --output, or add --overwrite"
        )


def _clean(
    order: Order, gallery: Gallery, run: Run[Any], scale: Scale, rows: int | None
) -> Tensor | None:
    """Return the clean images, where they are known."""
    if order.clean is None:
        return gallery.x if order.corrupt else None
    if order.corrupt:
        raise ValueError("--corrupt says that the images are clean themselves; leave --clean out")
    clean = read_gallery(order.clean, run, scale, order.data_dir, rows)
    if len(clean.x) != len(gallery.x) or clean.names != gallery.names:
        raise ValueError(
            f"--clean {order.clean} holds {len(clean.x)} images, {order.images} {len(gallery.x)}; "
            "give the same images in the same order, with the same names"
        )
    _check_shape(clean.x, scale)
    return clean.x


def _check_shape(x: Tensor, scale: Scale) -> None:
    shape = scale.preparation.shape
    if x.shape[1:] != shape:
        raise ValueError(
            f"the images have shape {tuple(x.shape[1:])}, the model was fitted on {shape}; "
            "give images of that shape"
        )


def _without_nan(gallery: Gallery, order: Order) -> Gallery:
    """Return the images with black where a value is not known."""
    unknown = gallery.x.isnan()
    if order.corrupt and unknown.any():
        raise ValueError(
            f"--corrupt says that the images are clean, but {int(unknown.sum())} of the values of "
            f"{order.images} are NaN; leave --corrupt out"
        )
    return replace(gallery, x=gallery.x.masked_fill(unknown, 0.0))


def _options(order: Order, run: Run[Any], scale: Scale) -> dict[str, Any]:
    """Return what all tasks are told."""
    default = Method.ENCODER if run.settings.is_autoencoder else None
    method = order.method or default
    named = {} if method is None else {"method": str(method)}
    batch_size = AT_ONCE // (32 * (scale.levels + 1) * prod(scale.preparation.shape))
    return {
        "draws": order.draws,
        "seed": order.seed,
        "batch_size": max(1, min(64, batch_size)),
        "progress": hooks.on_terminal(),
        **named,
    }


def _facts(order: Order, found: Result) -> dict[str, Any]:
    size = found.effective_sample_size.double()
    return {
        "task": order.task,
        "method": order.method and str(order.method),
        "rows": len(found.mean),
        "draws": len(found.draws),
        "seed": order.seed,
        "effective_sample_size": {"mean": size.mean().item(), "least": size.min().item()},
    }


def _how(figures: dict[str, Any]) -> str:
    if not figures["scores"]:
        return "no clean images to compare with"
    return "peak signal-to-noise ratio (PSNR) to the clean images, and standard error over images"


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[None]:
    """Context that removes results of before, and those begun inside if they cannot be written."""
    existed = folder.is_dir()
    _remove_results(folder)
    try:
        yield
    except BaseException as error:
        _remove_results(folder)
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, OSError):
            raise OSError(f"{folder}: the results cannot be written there ({error})") from error
        raise


def _remove_results(folder: Path) -> None:
    for name in WRITTEN:
        shutil.rmtree(folder / name, ignore_errors=True)
        for suffix in (".npy", ".npz"):
            (folder / name).with_suffix(suffix).unlink(missing_ok=True)
    for name in PAGES:
        (folder / name).unlink(missing_ok=True)


def _write(order: Order, gallery: Gallery, scale: Scale, found: Result, given: Tensor) -> None:
    """Write the images."""
    folder = order.output
    gallery.write(folder / "restored", found.mean, scale.to_stored(found.mean))
    deviation = found.deviation
    stored = (deviation * scale.span).numpy()
    gallery.write(folder / "standard_deviation", deviation, stored, WHITE_DEVIATION)
    gallery.write_draws(folder / "draws", found.draws, scale.to_stored(found.draws))
    if order.corrupt:
        gallery.write(folder / "degraded", given, scale.to_stored(given))
