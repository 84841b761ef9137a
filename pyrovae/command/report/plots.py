"""Pictures of a run as matplotlib figures, drawn without pyplot, so nothing global changes and no display is needed.

Pictures of data take arrays with shape (N, C, H, W) or (N, D), vectors being drawn as lines. Colours are
Okabe & Ito's (2008) and Petroff's (2021), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyrovae.files import History

__all__ = [
    "BLUE",
    "CLASSES",
    "GREY",
    "MARKERS",
    "ORANGE",
    "curves",
    "images",
    "interpolations",
    "kl_per_unit",
    "latent_space",
    "manifold",
    "pairs",
    "png",
]

BLUE, ORANGE, GREEN, GREY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#6b6b6b",
)  # Okabe & Ito (2008), and a grey
CLASSES = (  # Petroff (2021), 10 colours
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "os^vDPX"  # 7 and 10 have no common factor: 70 classes differ in colour or marker

Limits = tuple[float, float]


def curves(history: History) -> Figure:
    """Draw the ELBO, its two terms and the weight of the KL over the epochs; of another bound, what it leaves of the reconstruction.

    Args:
        history: What `pyrovae.fit` returns.
    """
    figure = _figure(11, 3.6)
    axes = figure.subplots(1, 3)
    rest = (
        "KL(q(z | x) || p(z))"
        if history.bound_name == "ELBO"
        else f"Reconstruction - {history.bound_name}"
    )
    terms = (
        (history.bound_name, "elbo"),
        ("Reconstruction E[log p(x | z)]", "reconstruction"),
        (rest, "kl"),
    )
    for axis, (title, name) in zip(axes, terms, strict=True):
        _curve(axis, history, name)
        _zoom(axis)
        axis.set(title=title, xlabel="epoch", ylabel="nats per datum")
    if history.best_epoch is not None:
        axes[0].axvline(history.best_epoch, color=GREY, lw=1, ls=":", label="best epoch")
    _weight(axes[2], history)
    if axes[0].get_lines():
        axes[0].legend(frameon=False)
    return figure


def images(
    x: np.ndarray, title: str = "", columns: int = 8, limits: Limits | None = None
) -> Figure:
    """Draw data in a grid, row by row.

    Args:
        x: Data with shape (N, C, H, W) or (N, D).
        title: Title of the figure.
        columns: How many stand in a row.
        limits: Values drawn black and white; by default the least and greatest in `x`.
    """
    x = np.asarray(x)
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    figure = _figure(*_size(x, rows, columns))
    _grid(figure.subplots(), x, columns, limits or _limits(x))
    figure.suptitle(title)
    return figure


def pairs(
    x: np.ndarray, x_hat: np.ndarray, columns: int = 12, limits: Limits | None = None
) -> Figure:
    """Draw originals above their reconstructions, in bands of two rows.

    Args:
        x: Originals with shape (N, C, H, W) or (N, D).
        x_hat: Reconstructions, in the same order and with the same shape.
        columns: How many pairs stand beside each other.
        limits: Values drawn black and white; by default the least and greatest original.
    """
    x, x_hat = np.asarray(x), np.asarray(x_hat)
    columns = min(columns, len(x))
    bands = [np.arange(start, start + columns) for start in range(0, len(x) - columns + 1, columns)]
    both = np.concatenate([part[band] for band in bands for part in (x, x_hat)])
    figure = _figure(*_size(x, 2 * len(bands), columns))
    axis = figure.subplots()
    _grid(axis, both, columns, limits or _limits(x))
    _name_rows(axis, ["original", "reconstruction"] * len(bands))
    figure.suptitle("Test data and their reconstructions")
    return figure


def interpolations(paths: np.ndarray, limits: Limits | None = None) -> Figure:
    """Draw walks through the latent space, one a row.

    Args:
        paths: Decoded walks with shape (P, steps, C, H, W) or (P, steps, D).
        limits: Values drawn black and white; by default the least and greatest in `paths`.
    """
    paths = np.asarray(paths)
    walks, steps = paths.shape[:2]
    x = paths.reshape(walks * steps, *paths.shape[2:])
    figure = _figure(*_size(x, walks, steps))
    _grid(figure.subplots(), x, steps, limits or _limits(x))
    figure.suptitle("Walks between the codes of two test data")
    return figure


def manifold(grid: np.ndarray, limits: Limits | None = None) -> Figure:
    """Draw what a two-dimensional latent space decodes to, at the prior's quantiles.

    Args:
        grid: Decoded grid with shape (steps, steps, *event), as `pyrovae.manifold` gives it.
        limits: Values drawn black and white; by default the least and greatest in `grid`.
    """
    figure = interpolations(grid, limits)
    figure.suptitle("Manifold: z1 rises to the right, z2 upwards, by the prior's quantiles")
    return figure


def latent_space(
    z: np.ndarray, labels: np.ndarray | None = None, label_names: Sequence[str] = ()
) -> Figure:
    """Draw posterior means in two dimensions, coloured by label; more than two are first reduced by PCA.

    Args:
        z: Codes with shape (N, D).
        labels: Class of each, an index into `label_names`, with shape (N,).
        label_names: Names of the classes.
    """
    z = np.asarray(z)
    points, names = _plane(z)
    figure = _figure(7, 5.2)
    axis = figure.subplots()
    if labels is None:
        axis.scatter(points[:, 0], points[:, 1], s=8, c=BLUE, alpha=0.6, lw=0)
    else:
        _classes(axis, points, np.asarray(labels), label_names)
    how = "" if z.shape[1] <= 2 else f" of {z.shape[1]} latents, first two principal components"
    axis.set(title=f"Latent space: posterior means{how}", xlabel=names[0], ylabel=names[1])
    return figure


def kl_per_unit(kl: np.ndarray, threshold: float = 0.01) -> Figure:
    """Draw each latent's KL to the prior, greatest first; those under the threshold have collapsed.

    Args:
        kl: KL(q(z_d | x) || p(z_d)) in nats, averaged over data, with shape (D,).
        threshold: Below it a unit carries nothing worth the name.
    """
    kl = np.asarray(kl)
    order = np.argsort(kl)[::-1]
    figure = _figure(max(5.0, min(11.0, 2 + 0.3 * len(kl))), 3.6)
    axis = figure.subplots()
    above = kl[order] > threshold
    for mask, colour, label in ((above, BLUE, "above"), (~above, ORANGE, "below")):
        if mask.any():
            axis.bar(
                np.flatnonzero(mask),
                kl[order][mask],
                color=colour,
                label=f"{mask.sum()} units {label}",
            )
    axis.axhline(threshold, color=GREY, lw=1, ls="--", label=f"{threshold:g} nats")
    if len(kl) <= 40:
        axis.set_xticks(np.arange(len(kl)), order)
    axis.set(
        title="KL per latent unit",
        xlabel="latent unit, sorted",
        ylabel="nats per datum",
        xmargin=0.02,
    )
    axis.legend(frameon=False)
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    """Make a figure that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _curve(axis: Axes, history: History, name: str) -> None:
    """Draw a term on training and validation data."""
    for prefix, label, colour in (("", "training", BLUE), ("validation_", "validation", ORANGE)):
        values = np.array(
            [np.nan if v is None else v for v in getattr(history, prefix + name)], dtype=float
        )
        if len(values) and np.isfinite(values).any():
            marker = "o" if len(values) == 1 else None
            axis.plot(
                history.epoch[: len(values)], values, color=colour, label=label, marker=marker
            )
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _zoom(axis: Axes) -> None:
    """Leave out what lies below the curves after the first tenth of the epochs: the first ones would flatten the rest."""
    curves = [np.asarray(line.get_ydata()) for line in axis.get_lines()]
    values = np.concatenate([*(curve[len(curve) // 10 :] for curve in curves), [np.nan]])
    if np.isfinite(values).any():
        low, high = np.nanmin(values), np.nanmax(values)
        margin = 0.06 * max(high - low, 1e-3)
        axis.set_ylim(low - margin, high + margin)


def _weight(axis: Axes, history: History) -> None:
    """Draw the weight of the KL on an axis of its own, where it is not simply 1."""
    if all(weight == 1 for weight in history.beta):
        return
    twin = axis.twinx()
    twin.plot(history.epoch, history.beta, color=GREY, ls="--", label="weight")
    twin.set(ylabel="weight of the KL", ylim=(0, 1.05 * max(max(history.beta), 1e-9)))
    twin.legend(frameon=False, loc="lower right")


def _limits(x: np.ndarray) -> Limits:
    """Return the least and the greatest value."""
    return float(x.min()), float(x.max())


def _size(x: np.ndarray, rows: int, columns: int) -> tuple[float, float]:
    """Return a figure's inches for a grid, at most 11 wide."""
    ratio = 0.6 if x.ndim == 2 else x.shape[-2] / _picture(x[0], (0, 1)).shape[1]
    cell = min(0.9 if x.ndim == 4 else 1.5, 9.5 / columns)
    return max(4.0, cell * columns + 1.2), max(1.2, cell * ratio * rows) + 0.6


def _grid(axis: Axes, x: np.ndarray, columns: int, limits: Limits) -> None:
    """Draw data as one mosaic, with a light gap between its cells."""
    axis.set_axis_off()
    (_lines if x.ndim == 2 else _mosaic)(axis, x, columns, limits)


def _mosaic(axis: Axes, x: np.ndarray, columns: int, limits: Limits) -> None:
    """Lay images side by side in one picture."""
    cells = [_picture(image, limits) for image in x]
    h, w = cells[0].shape[:2]
    gap = max(1, round(w / 14))
    rows = -(-len(cells) // columns)
    canvas = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3))
    for i, cell in enumerate(cells):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        canvas[top : top + h, left : left + w] = cell
    axis.imshow(canvas, interpolation="nearest", aspect="equal")


def _picture(image: np.ndarray, limits: Limits) -> np.ndarray:
    """Turn (C, H, W) into an RGB picture (H, W', 3); channels that are no colours are laid side by side."""
    low, high = limits
    image = np.clip((image.astype(float) - low) / max(high - low, 1e-12), 0, 1)
    if image.shape[0] in (3, 4):
        return image[:3].transpose(1, 2, 0)
    return np.repeat(np.concatenate(list(image), axis=1)[..., None], 3, axis=2)


def _lines(axis: Axes, x: np.ndarray, columns: int, limits: Limits) -> None:
    """Draw vectors as small line plots on one axis, each in its own cell."""
    from matplotlib.patches import Rectangle

    low, high = limits
    at = np.linspace(0.06, 0.94, x.shape[1]) if x.shape[1] > 1 else np.array([0.5])
    for i, values in enumerate(x):
        row, column = divmod(i, columns)
        height = (values - low) / max(high - low, 1e-12)
        axis.plot(
            column + at,
            row + 0.92 - 0.84 * height,
            color=BLUE,
            lw=1,
            marker="." if len(at) < 12 else None,
        )
        axis.add_patch(
            Rectangle((column + 0.03, row + 0.04), 0.94, 0.92, fill=False, ec="#cccccc", lw=0.6)
        )
    axis.set(xlim=(0, columns), ylim=(-(-len(x) // columns), 0))


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Write a name at the left of every row of a grid."""
    bottom, top = axis.get_ylim()
    for i, name in enumerate(names):
        height = (i + 0.5) / len(names) * abs(bottom - top) + min(bottom, top)
        axis.annotate(name, (0, height), xycoords=("axes fraction", "data"), xytext=(-6, 0),
                      textcoords="offset points", ha="right", va="center", fontsize=8, color=GREY)  # fmt: skip


def _plane(z: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Bring codes to two dimensions, and name the axes."""
    if z.shape[1] == 1:
        return np.stack([z[:, 0], np.arange(len(z))], 1), ("z1", "row of the data")
    if z.shape[1] == 2:
        return z, ("z1", "z2")
    u, scale, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    share = 100 * scale**2 / max((scale**2).sum(), 1e-12)
    points = np.zeros((len(z), 2))
    points[:, : len(scale[:2])] = (u * scale)[:, :2]
    names = [f"PC {i + 1} ({part:.0f} % of variance)" for i, part in enumerate([*share, 0][:2])]
    return points, (names[0], names[1])


def _classes(axis: Axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Draw each class in its own colour and marker, named in the legend and at its median."""
    for k in np.unique(labels):
        mask = labels == k
        name = names[k] if k < len(names) else str(k)
        look: Any = {
            "c": CLASSES[k % len(CLASSES)],
            "marker": MARKERS[k % len(MARKERS)],
            "label": name,
        }
        axis.scatter(points[mask, 0], points[mask, 1], s=14, alpha=0.75, lw=0, **look)
        x, y = np.median(points[mask], 0)
        axis.annotate(str(name), (x, y), ha="center", va="center", fontsize=9, weight="bold",
                      bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75})  # fmt: skip
    columns = -(-len(np.unique(labels)) // 20)
    axis.legend(
        frameon=False, markerscale=1.6, loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns
    )
