"""`pyrovae denoise`, `impute` and `super-resolve`: images in, restored images and scores out.

restored*             the posterior means, in the form of the images
standard_deviation*   of the draws; image files show half the range from black to white as white
draws*                of the posterior
degraded*             what the model was given, if the command made it
scores.json           scores beside those of baselines, where clean images are known
report.html           figures and pictures
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.command.choices import Method
from pyrovae.command.contexts import notes
from pyrovae.command.images.degradations import Degradation
from pyrovae.command.images.gallery import Gallery, Scale, read_gallery
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.resolve import read_data
from pyrovae.command.images.rows import fingerprint, hold_out_test
from pyrovae.command.images.scoring import LEVEL, standings, table
from pyrovae.command.report import plots
from pyrovae.command.report.page import Picture, Report, render
from pyrovae.command.runs import Run
from pyrovae.command.writing import write, write_json
from pyrovae.data import spread
from pyrovae.evaluation import scores

__all__ = ["Order", "Result", "restore_images", "restored", "sheet"]

SHOWN = 12  # images of the picture
BY_NAME = 100  # rows of a data set that is given by name, unless --rows says otherwise
TRAINING = 4000  # training rows to which baselines are fitted, for time
WHITE_DEVIATION = 0.5  # half the range: the largest standard deviation of values within it
WRITTEN = ("restored", "standard_deviation", "draws", "degraded")
PAGES = ("scores.json", "report.html")

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
    rows = order.rows if order.rows or Path(order.images).exists() else BY_NAME
    gallery = read_gallery(order.images, run, scale, order.data_dir, rows)
    degradation = make(gallery.x, scale)
    clean = _clean(order, gallery, run, scale, rows)
    with programs.random_stream(order.seed, []):
        given = degradation.degrade(gallery.x) if order.corrupt else gallery.x
    _check_shape(degradation.shown(given), scale)
    with notes(say) as warned:
        found = restored(model, degradation, given, gallery.context, _options(order, run))
        figures = {**_facts(order, found), "scores": []}
        if clean is not None:
            train = training_rows(run, scale, order.data_dir, say)
            figures["scores"] = score(degradation, given, found, clean, train, order.seed)
    _write(order, gallery, scale, found, degradation.shown(given))
    write_json(figures, order.output / "scores.json")
    rows_of_table = table(figures["scores"])
    for row in rows_of_table:
        say(row.line())
    report = Report(
        title=f"{run.data['name']}: {order.task}",
        subtitle=f"{len(found.mean)} images; {_how(figures)}",
        warnings=warned,
        rows=rows_of_table,
        pictures=[Picture("Restored images", *sheet(degradation, given, found, clean))],
        facts={
            "run": str(run.folder),
            "images": order.images,
            "time": f"{time.time() - started:.0f} s",
        },
    )
    write(order.output / "report.html", render(report))
    say(f"{order.output}: {len(found.mean)} images, {order.task}")


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
    return Result(mean, draws.std(0), draws, size)


def score(
    degradation: Degradation,
    given: Tensor,
    found: Result,
    clean: Tensor,
    train: Tensor | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the scores of restored images and of baselines, the model's first."""
    with programs.random_stream(seed, []):
        others = degradation.simple(given, train)
    named = {"the model": found.mean, **others}
    interval = scores.interval(found.draws, LEVEL) if len(found.draws) > 1 else None
    return [standing.figures() for standing in standings(named, clean, degradation.where, interval)]


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
    caption = (
        "Standard deviation of the draws: black is 0, white is half the range from black to white."
    )
    return plots.restorations({name: x.numpy() for name, x in bands.items()}), caption


def training_rows(
    run: Run[Any], scale: Scale, data_dir: Path | None, say: Callable[[str], None]
) -> Tensor | None:
    """Return training rows of a run, evenly spread; None if its data are no longer there."""
    settings = run.settings
    try:
        data = read_data(settings.data, data_dir or settings.data_dir)
    except (OSError, ValueError, ImportError) as error:
        say(f"note: no mean image and no PCA beside it, the training data are not there: {error}")
        return None
    if fingerprint(data) != run.data["fingerprint"]:
        say(f"note: no mean image and no PCA beside it: {settings.data} has changed since the fit")
        return None
    x = hold_out_test(data, settings.test, settings.seed).x
    return scale.to_unit(x[spread(len(x), TRAINING).numpy()])


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


def _options(order: Order, run: Run[Any]) -> dict[str, Any]:
    """Return what all tasks are told."""
    default = Method.ENCODER if run.settings.is_autoencoder else None
    method = order.method or default
    named = {} if method is None else {"method": str(method)}
    return {"draws": order.draws, "seed": order.seed, **named}


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


def _write(order: Order, gallery: Gallery, scale: Scale, found: Result, given: Tensor) -> None:
    """Write the images, after removing those of an earlier command."""
    folder = order.output
    for name in WRITTEN:
        shutil.rmtree(folder / name, ignore_errors=True)
        for suffix in (".npy", ".npz"):
            (folder / name).with_suffix(suffix).unlink(missing_ok=True)
    for name in PAGES:
        (folder / name).unlink(missing_ok=True)
    gallery.write(folder / "restored", found.mean, scale.to_stored(found.mean))
    deviation = found.deviation
    stored = (deviation * scale.span).numpy()
    gallery.write(folder / "standard_deviation", deviation, stored, WHITE_DEVIATION)
    gallery.write_draws(folder / "draws", found.draws, scale.to_stored(found.draws))
    if order.corrupt:
        gallery.write(folder / "degraded", given, scale.to_stored(given))
