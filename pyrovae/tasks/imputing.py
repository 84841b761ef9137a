"""Impute: the hidden values of x given the others, and how probable the true ones are.

p(x_h | x_o) = E_p(z | x_o)[ p(x_h | z) ],    p(x | z) = prod_j p(x_j | z)

(Mattei & Frellsen 2019, "MIWAE", section 2.3.) It is right where values are missing at random:
whether one is missing may depend on observed values, not on itself.
"""

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, as_source, device_and_dtype, slices
from pyrovae.evaluation import Evidence
from pyrovae.tasks.measurements import Hidden
from pyrovae.tasks.proposals import Effort
from pyrovae.tasks.restoring import (
    Options,
    Restored,
    posteriors_of_rows,
    restore,
    warn_if_few,
)

__all__ = ["hidden_log_prob", "impute"]

_BY_NAME = ". What follows x is context; a mask is given by name, hidden=mask"
_ROWS = 4096  # that are checked at once
_LEAST_SIZE = 10  # effective draws, below which an error estimated from them means little
_LEAST_TERMS = 2  # effective terms of a mean over draws, below which one of them is most of it


def impute(
    graph: Any,
    x: Array,
    *c: Array,
    hidden: Array | None = None,
    method: str = "refine",
    draws: int = 16,
    samples: int = 256,
    steps: int = 100,
    components: int = 4,
    fill: float = 0.0,
    batch_size: int = 64,
    progress: bool = False,
    seed: int | None = None,
    observed: str | None = None,
) -> Restored:
    """Return the hidden values of x given the others: their mean, draws and intervals.

    The latents are inferred from the values that are not hidden alone. Filling the hidden ones with
    zeros and encoding once, `method="encoder"`, infers them from the zeros too.

    What the programs read from x where it is hidden is its expected value, found by repetition. So
    the library size that a `CountVAE` without a library prior reads, the sum of the counts, counts
    hidden genes in; but it is taken as known, and intervals are then too narrow: with a library
    prior they are not.

    Args:
        graph: any graph whose likelihood is independent over the values of x.
        x: data with shape (B, *event). What stands where it is hidden is not read.
        c: context, B rows each.
        hidden: True where a value is hidden, with the shape of x or of one observation; None takes
            the values that are NaN.
        method: how the latents are inferred: "refine" fits normals to each row and weighs their
            draws; "importance" weighs draws of the guide, and alone takes discrete latents; "hmc"
            runs a chain for each draw, and is the slowest; "encoder" draws from the guide of the
            filled x.
        draws: K.
        samples: weighted draws of the latents of each row, of which the K are taken.
        steps: of the refinement, or transitions of each chain.
        components: normals that are fitted to each row, for posteriors of several modes.
        fill: what the guide sees first instead of a hidden value.
        batch_size: rows that are inferred together.
        progress: show a bar.
        seed: of the random draws; None continues the global random stream.
        observed: name of the observed site of x; by default the only one.

    Returns:
        Restored, whose mean and draws hold the values that are not hidden as given.

    Raises:
        ValueError: if the mask has another shape or hides nothing, x is NaN where it is not hidden,
            the likelihood is not independent over the values of x, or the method does not serve the
            graph's latents.

    Warns:
        RestorationWarning: if in more than a tenth of the rows a single one of the weighted draws
            dominates: an effective sample size below 2.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> lower_half = torch.tensor([False, False, False, True, True, True])
        >>> pv.impute(vae, torch.ones(5, 6), hidden=lower_half, draws=3).draws.shape
        torch.Size([3, 5, 6])
    """
    data = _Holes("impute", graph, x, hidden, fill)
    data.check(c)
    effort = Effort(draws, samples, steps, components)
    options = Options("impute", method, effort, observed, batch_size, progress, seed)
    return restore(graph, data.measurement, len(data), c, options)


def hidden_log_prob(
    graph: Any,
    x: Array,
    *c: Array,
    hidden: Array,
    method: str = "refine",
    samples: int = 1000,
    steps: int = 100,
    components: int = 4,
    fill: float = 0.0,
    batch_size: int = 64,
    progress: bool = False,
    seed: int | None = 0,
    observed: str | None = None,
) -> Evidence:
    """Estimate log p(x_h | x_o, c) of each row: the score of an imputation, in nats.

    log p(x_h | x_o) ~ log sum_k w_k p(x_h | z_k), with the weighted draws of which `impute` takes
    its own. It is the log density of a distribution over x_h, so no method can gain by an error:
    its expectation is at most the true one's. Where x_h says much more of the latents than x_o does
    it needs many samples; `log_evidence` of x less that of `Missing(graph)` needs fewer, but may be
    too high.

    Args:
        graph: as for `impute`.
        x: data with shape (B, *event), whole.
        c: context, B rows each.
        hidden: as for `impute`.
        method: as for `impute`.
        samples: weighted draws of the latents of each row.
        steps: as for `impute`.
        components: as for `impute`.
        fill: as for `impute`.
        batch_size: as for `impute`.
        progress: as for `impute`.
        seed: of the random stream used, so that two calls agree; None uses the global stream.
        observed: as for `impute`.

    Returns:
        Evidence(log_p, standard_error, effective_sample_size), each with shape (B,). The effective
        sample size is that of the weights w.

    Raises:
        ValueError: as `impute`, and if x is NaN anywhere.

    Warns:
        RestorationWarning: if more than a tenth of the rows have an effective sample size of the
            weights below 10 (one in eight with fewer than 80 samples), or one of the terms
            w_k p(x_h | z_k) below 2.
    """
    data = _Holes("hidden_log_prob", graph, x, hidden, fill)
    data.check(c, whole=True)
    draws = samples if method == "hmc" else 1
    effort = Effort(draws, samples, steps, components)
    options = Options("hidden_log_prob", method, effort, observed, batch_size, progress, seed)
    options.check()
    pieces = []
    with programs.evaluation(graph, seed):
        found = posteriors_of_rows(graph, data.measurement, len(data), c, options)
        for part, posterior in zip(slices(len(data), batch_size), found, strict=True):
            log_p = posterior.target.log_measured(posterior.z, data.measurement(part, others=True))
            pieces.append((*_mean(log_p, posterior.weights), posterior.effective_sample_size))
    log_p, error, terms, weights = (torch.cat(part) for part in zip(*pieces, strict=True))
    so = "log_p is likely too low there, and its standard_error too small"
    if not warn_if_few(weights, options, _LEAST_SIZE, so):
        warn_if_few(terms, options, _LEAST_TERMS, so)
    return Evidence(log_p, error, weights)


def _mean(log_p: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log sum_k w_k p_k, its standard error, and the terms' effective sample size.

    The error is by the delta method for a ratio.
    """
    log_p, w = log_p.double(), w.double()
    value = (log_p + w.log()).logsumexp(0)
    error = (w.square() * ((log_p - value).exp() - 1).square()).sum(0).sqrt()
    size = 1 / (log_p + w.log()).softmax(0).square().sum(0)
    size = size.nan_to_num(nan=1.0)  # of terms that are all 0
    return value, torch.where(torch.isfinite(error), error, math.inf), size


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


class _Holes:
    """Rows of x with their hidden values."""

    def __init__(self, task: str, graph: Any, x: Array, hidden: Array | None, fill: float) -> None:
        if not _is_finite(fill):
            raise ValueError(f"{task}: fill is {fill!r}, expected a finite number")
        self.task, self.graph, self.fill, self.inside = task, graph, fill, fill
        self.x = as_source(x, f"{task}: x")
        self.like = device_and_dtype(graph, (self.x,))
        self.hidden = None if hidden is None else self._mask(hidden)
        self.of_one = False
        if self.hidden is not None:
            self.of_one = self.hidden.dim() == len(self.x.shape) - 1

    def __len__(self) -> int:
        return len(self.x)

    def measurement(self, rows: slice, others: bool = False) -> Hidden:
        """Return the values of some rows that are not hidden, or the others."""
        x, hidden = self._rows(rows)
        if others:
            return Hidden(x, ~hidden)
        return Hidden(x.masked_fill(hidden, self.inside), hidden, self.fill)

    def check(self, c: tuple[Array, ...], whole: bool = False) -> None:
        """Raise a ValueError if nothing is hidden, or x is not what the model observes."""
        some, first = False, list[float]()
        for rows in slices(len(self.x), _ROWS):
            x, hidden = self._rows(rows)
            some = some or bool(hidden.any())
            bad = ~torch.isfinite(x) & (True if whole else ~hidden)
            if bad.any():
                row, *_ = bad.nonzero()[0].tolist()
                raise ValueError(
                    f"{self.task}: x has a value in row {rows.start + row} that is not finite and "
                    "not hidden. Set hidden=None to hide every NaN, or hide it in the mask"
                )
            first = first or x[~hidden][:1].tolist()
        if not some:
            raise ValueError(
                f"{self.task}: no value is hidden, expected a True in hidden, or with hidden=None "
                f"a NaN in x{_BY_NAME if c else ''}"
            )
        self.inside = first[0] if first else self.fill
        self._check_support(c)

    def _check_support(self, c: tuple[Array, ...]) -> None:
        """Let the graph check the values that are not hidden."""
        parts = [self._rows(rows) for rows in slices(len(self.x), _ROWS)]
        x = torch.cat([x.masked_fill(hidden, self.inside) for x, hidden in parts])
        programs.check_data(self.graph, x, *c)

    def _rows(self, rows: slice) -> tuple[Tensor, Tensor]:
        x = self.x[rows].to(*self.like)
        if self.hidden is None:
            return x, x.isnan()
        hidden = self.hidden.expand(x.shape) if self.of_one else self.hidden[rows]
        return x, hidden.to(x.device)

    def _mask(self, given: Array) -> Tensor:
        array = isinstance(given, Tensor | np.ndarray)
        hidden = torch.as_tensor(given if array else as_source(given, f"{self.task}: hidden")[:])
        shape = tuple(self.x.shape)
        if hidden.dtype != torch.bool:
            raise ValueError(
                f"{self.task}: hidden has type {hidden.dtype}, expected bool, True where a value "
                "is hidden"
            )
        if tuple(hidden.shape) not in (shape, shape[1:]):
            raise ValueError(
                f"{self.task}: hidden has shape {tuple(hidden.shape)}, x has {shape}: expected the "
                f"same, or {shape[1:]} for all rows"
            )
        return hidden
