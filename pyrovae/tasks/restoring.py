"""Restore x from what is known of it: draws of p(x | y, c), their mean and their intervals.

p(x | y) = E_p(z | y)[ p(x | z, y) ]
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyrovae import programs
from pyrovae.data import Array, as_sources, device_and_dtype, slices, take
from pyrovae.distributions import whole_number
from pyrovae.evaluation import check_densities, scores
from pyrovae.tasks.autoregressive import check_not_autoregressive
from pyrovae.tasks.measurements import Measurement
from pyrovae.tasks.proposals import METHODS, MOST_COMPONENTS, Effort, Weighted, resampled
from pyrovae.tasks.targets import Target
from pyrovae.training import Products, threads_for

__all__ = [
    "Options",
    "RestorationWarning",
    "Restored",
    "posteriors_of_rows",
    "restore",
    "warn_if_few",
]

OfRows = Callable[[slice], Measurement]

_LEAST_SIZE = 2.0  # effective draws of the latents: below, one of them has most of the weight
_MANY = 0.1  # fraction of the rows


class RestorationWarning(UserWarning):
    """What was restored of many rows comes from one draw of their latents each."""


@dataclass(frozen=True)
class Restored:
    """What is inferred of x from what is known of it.

    Attributes:
        mean: E[x | y], with shape (B, *event).
        draws: x ~ p(x | y), with shape (K, B, *event).
        effective_sample_size: of the weighted draws of the latents, with shape (B,). Near 1 a
            single one dominates, and neither the draws nor the mean can be trusted.
    """

    mean: Tensor
    draws: Tensor
    effective_sample_size: Tensor

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return the ends of an interval that holds each value with that probability.

        These are quantiles of the draws at which one further draw would lie inside with a
        probability of `level`: at most (K - 1) / (K + 1), 0.88 with 16 draws.

        Args:
            level: in (0, 1).

        Returns:
            (low, high), with shape (B, *event) each.

        Raises:
            ValueError: if `level` is not in (0, 1).
        """
        draws = self.draws if len(self.draws) > 1 else self.draws.expand(2, *self.mean.shape)
        return scores.interval(draws, level)


class Options(NamedTuple):
    """The arguments that all restorations share.

    Attributes:
        task: what errors call it.
        method: one of `METHODS`.
        effort: what is computed for each row.
        observed: name of the site of x.
        batch_size: rows that are inferred together.
        progress: whether to show a bar.
        seed: of the random stream; None continues the global one.
    """

    task: str
    method: str
    effort: Effort
    observed: str | None
    batch_size: int
    progress: bool
    seed: int | None

    def check(self) -> None:
        """Raise a ValueError for an unknown method, or a number out of range."""
        if self.method not in METHODS:
            raise ValueError(
                f'{self.task}: method is "{self.method}", expected one of {list(METHODS)}'
            )
        numbers = {**self.effort._asdict(), "batch_size": self.batch_size}
        for name, value in numbers.items():
            whole_number(value, f"{self.task}: {name}")
        if self.method == "refine" and self.effort.components > MOST_COMPONENTS:
            raise ValueError(
                f"{self.task}: components is {self.effort.components}, expected at most "
                f"{MOST_COMPONENTS}: take fewer, and more samples"
            )


def restore(graph: Any, measure: OfRows, n: int, c: Sequence[Array], options: Options) -> Restored:
    """Return what is inferred of n rows of x.

    Args:
        graph: any graph.
        measure: returns what is known of some rows of x.
        n: number of rows.
        c: context, n rows each.
        options: how.

    Raises:
        ValueError: for options or a graph that do not fit, before anything is inferred.

    Warns:
        RestorationWarning: if more than a tenth of the rows have an effective sample size below 2
            (one in eight with fewer than 16 samples).
    """
    options.check()
    pieces = []
    with programs.evaluation(graph, options.seed):
        for found in posteriors_of_rows(graph, measure, n, c, options):
            x = found.target.draw(resampled(found, options.effort.draws))
            mean = found.target.mean(found.z, found.weights)
            pieces.append((mean, x, found.effective_sample_size))
    means, draws, sizes = zip(*pieces, strict=True)
    restored = Restored(torch.cat(means), torch.cat(draws, 1), torch.cat(sizes))
    so = "the mean, the draws and their intervals come from one draw there"
    if options.method != "hmc":  # whose draws have equal weights
        warn_if_few(restored.effective_sample_size, options, _LEAST_SIZE, so)
    return restored


def warn_if_few(sizes: Tensor, options: Options, least: float, so: str) -> bool:
    """Warn with a `RestorationWarning` if more than a tenth of the rows have few effective draws.

    Args:
        sizes: effective sample size of each row.
        options: how they were found.
        least: effective draws that a row needs; of fewer than eight times as many, one in eight.
        so: what follows, for the message.

    Returns:
        Whether it warned.
    """
    least = min(least, options.effort.samples / 8)
    bad = int((sizes < least).sum())
    if bad <= _MANY * len(sizes):
        return False
    warnings.warn(
        f"{options.task}: in {bad} of {len(sizes)} rows fewer than {least:g} of samples="
        f"{options.effort.samples} weighted draws of the latents are effective, so {so}: take more "
        'samples or steps, or use method="refine" or "hmc"',
        RestorationWarning,
        stacklevel=programs.level_of_user(),
    )
    return True


def posteriors_of_rows(
    graph: Any, measure: OfRows, n: int, c: Sequence[Array], options: Options
) -> Iterator[Weighted]:
    """Yield weighted draws of the latents of some rows after others.

    Arguments and errors are those of `restore`.
    """
    rows = torch.zeros(n, 1)
    sources = as_sources((rows, *c), options.task)
    device, dtype = device_and_dtype(graph, (rows,))
    layout = None
    with tqdm(total=n, desc=options.task, unit="row", disable=not options.progress) as bar:
        for part in slices(n, options.batch_size):
            measurement = measure(part)
            batch = (measurement.start(), *take(sources, part, device, dtype)[1:])
            if layout is None:
                programs.check_shapes(graph, *batch)
                both = graph.model, graph.guide
                with programs.explained(batch):  # what Pyro says of the model's shapes
                    layout = programs.find_layout(*both, *batch, draws=2, scaled=False)
            with Products() as counted:
                target = Target(graph, batch, measurement, layout, options.observed, options.task)
            if part.start == 0:
                _check(target, options)
            with threads_for(counted.total):
                found = METHODS[options.method](target, options.effort)
            _check_possible(found.impossible, part.start, options.task)
            yield found
            bar.update(len(batch[0]))


def _check(target: Target, options: Options) -> None:
    """Refuse a graph that the method does not serve."""
    p, q = programs.run(target.graph.model, target.graph.guide, *target.batch)
    programs.check_sites(p, q, needs_rsample=False)
    check_not_autoregressive(target, options.task)
    if options.method == "encoder":
        return
    check_densities(p, q)
    name = target.discrete()
    if name is not None and options.method != "importance":
        raise ValueError(
            f'{options.task}: site "{name}" is discrete, so there is no gradient for '
            f'method="{options.method}". Use method="importance"'
        )


def _check_possible(impossible: Tensor, start: int, task: str) -> None:
    if impossible.any():
        row = start + int(impossible.nonzero()[0])
        raise ValueError(
            f"{task}: what is known of row {row} has probability zero under the model, at all "
            "latents that were tried. Values, noisy values and sums must be those that the "
            "likelihood can give: binarize images for binary pixels before they are pooled"
        )
