"""Where an observation lies in the latent space: the mean of q(z | x) at a latent site.

z = E_q[z | x, c]
q(z2 | x) = E_q(z1 | x)[ q(z2 | z1) ]     a site that the guide draws given others
theta = arg E_q[exp(i theta) | x, c]      of angles, the mean direction
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Sources, as_sources
from pyrovae.distributions import whole_number
from pyrovae.evaluation import checked_batches
from pyrovae.programs import Trace

__all__ = ["embed", "expectation", "points_of_latents"]

_DRAWS = 256  # for a mean without a formula
_DRAWS_AT_ONCE = 4  # so that memory stays near that of the distribution's parameters

Batch = tuple[Tensor, ...]
OfRows = Callable[..., Tensor]  # from rows of (x, *c) to one tensor each


def embed(
    graph: Any,
    x: Array,
    *c: Array,
    site: str | Sequence[str] | None = None,
    draws: int | None = None,
    seed: int | None = None,
) -> Any:
    """Return the embedding E_q[z | x, c] of each row with shape (B, D), the same at each call.

    Where the mean has no formula, as that of a flow, it is the mean of 256 draws; where the guide
    draws the site given other latents, these are averaged over 256 draws from their root. All rows
    share the noise of the draws, so equal rows have equal embeddings. (Not where the noise depends
    on the parameters, as for a Gamma: its rows have noise of their own.)

    Args:
        graph: a fitted graph.
        x: data with shape (B, *event).
        c: context, B rows each.
        site: name of the latent site; by default the only one, or "z" among several. Of several
            names, such as ("theta", "dx"), a dict by name is returned: class numbers at the most
            probable class, the other latents at their means given all classes.
        draws: return K draws z ~ q(z | x, c) of each row instead of its mean.
        seed: seed of these draws; None continues the global random stream. The mean needs none.

    Returns:
        The means; for a site of class numbers (`Categorical`) the probabilities of the K classes,
        with shape (B, K). With `draws`, draws with shape (K, B, D).

    Raises:
        ValueError: if the guide has no such site, several and none is named, or one that all rows
            share; or `draws` is below 1, or comes with several names.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> pv.embed(vae, torch.ones(3, 6)).shape
        torch.Size([3, 2])
        >>> pv.embed(vae, torch.ones(3, 6), draws=10, seed=0).shape
        torch.Size([10, 3, 2])
    """
    data = as_sources((x, *c))
    if not (site is None or isinstance(site, str | Collection)):
        raise TypeError(f"embed: site is {site!r}, expected the name of a latent site, or several")
    if site is not None and not isinstance(site, str):
        return _of_sites(graph, data, site, draws)
    if draws is not None:
        return _draws_of_rows(graph, data, site, draws, seed)
    with programs.evaluation(graph):
        pieces = [_embedding(graph, batch, site) for batch in checked_batches(graph, data)]
        return torch.cat(pieces)


def _of_sites(
    graph: Any, data: Sources, names: Sequence[str], draws: int | None
) -> dict[str, Tensor]:
    if draws is not None:
        raise ValueError("embed: draws are of one site: name one by site=, or leave draws out")
    pieces = []
    with programs.evaluation(graph):
        for batch in checked_batches(graph, data):
            points = points_of_latents(graph, batch)
            unknown = [name for name in names if name not in points]
            if unknown:
                raise ValueError(
                    f'embed: the guide has no latent site "{unknown[0]}", it has {list(points)}'
                )
            pieces.append({name: points[name] for name in names})
    return {name: torch.cat([piece[name] for piece in pieces]) for name in names}


def _draws_of_rows(
    graph: Any, data: Sources, site: str | None, draws: int, seed: int | None
) -> Tensor:
    draws = whole_number(draws, "embed: draws")
    pieces = []
    with programs.evaluation(graph, seed):
        for batch in checked_batches(graph, data):
            trace = programs.record(graph.guide, *batch)
            name = programs.latent_of_rows(trace, site, "embed")
            pieces.append(programs.draws_given_latents(graph, batch, name, draws)[:draws])
    return torch.cat(pieces, 1)


def expectation(fn: TorchDistribution) -> Tensor:
    """Return E[z], shape (*batch, *event); the probabilities of classes, (*batch, *event, K)."""
    return programs.leaf(fn).probs if programs.is_class_number(fn) else programs.mean(fn)


def points_of_latents(graph: Any, batch: Batch, site: str | None = None) -> dict[str, Tensor]:
    """Return the guide's latents: class numbers at the most probable class, the others at means.

    These are the means given the classes, so that all values belong to one another.

    Args:
        graph: a fitted graph.
        batch: (x, *c), B rows each.
        site: the only latent to return; by default all are.
    """
    trace = programs.record(graph.guide, *batch)
    programs.name_rows(graph, batch, trace)
    programs.check_all_rows(trace)
    latents = programs.latent_by_name(trace)
    if site is not None:
        return {site: _point(graph, batch, trace, site)}
    classes = {
        name: _point(graph, batch, trace, name)
        for name, each in latents.items()
        if programs.is_class_number(each["fn"]) and trace.layout.has_rows(each)
    }
    if classes:
        graph, batch = _GivenClasses(graph, trace, tuple(classes)), (*batch, *classes.values())
        trace = programs.record(graph.guide, *batch)
        programs.name_rows(graph, batch, trace)
    others = {name: _point(graph, batch, trace, name) for name in latents if name not in classes}
    return {name: (classes | others)[name] for name in latents}


class _GivenClasses:
    """A graph whose guide has the class numbers of some sites as its last arguments."""

    def __init__(self, graph: Any, trace: Trace, names: tuple[str, ...]) -> None:
        self.graph, self.trace, self.names = graph, trace, names

    def model(self, *batch: Tensor) -> Any:
        """Run the model."""
        return self.graph.model(*batch[: -len(self.names)])

    def guide(self, *batch: Tensor) -> Any:
        """Run the guide given the classes."""
        data, classes = batch[: -len(self.names)], batch[-len(self.names) :]
        given = {
            name: self.trace.layout.rows_placed(value, self.trace[name])
            for name, value in zip(self.names, classes, strict=True)
        }
        return poutine.condition(self.graph.guide, given)(*data)


def _point(graph: Any, batch: Batch, trace: Trace, name: str) -> Tensor:
    site = trace.get(name)
    if site is not None and not trace.layout.has_rows(site):  # shared by all rows
        return expectation(site["fn"])
    z = _embedding(graph, batch, name)
    return z.argmax(-1) if programs.is_class_number(trace[name]["fn"]) else z


def _embedding(graph: Any, batch: Batch, site: str | None) -> Tensor:
    """Return E_q[z | x, c] of a minibatch."""
    trace = programs.record(graph.guide, *batch)
    programs.name_rows(graph, batch, trace)
    name = programs.latent_of_rows(trace, site, "embed")
    value = _formula(trace[name]["fn"])
    if _is_root(graph, batch, trace, name, value):
        if value is not None and not value.isnan().any():
            return trace.layout.by_row(value, trace[name])[0]
        runs, of_fn = 1, _mean_of_draws if value is None else _median_of_draws
    else:
        runs, of_fn = _DRAWS, _draw if value is None else _formula
    round_ = programs.on_circle(trace[name]["fn"])
    if round_:
        of_fn = programs.moment

    def mean(*rows: Tensor) -> Tensor:
        posteriors = (programs.posterior(graph, rows, name) for _ in range(runs))
        found = programs.total(map(of_fn, posteriors)) / runs
        return programs.direction(found) if round_ else found

    return _with_common_noise(mean, batch)


def _formula(fn: Any) -> Any:
    """Return the mean by its formula, None if there is no formula."""
    try:
        return programs.leaf(fn).probs if programs.is_class_number(fn) else _mean_of(fn)
    except (NotImplementedError, AttributeError):
        return None


def _mean_of(fn: Any) -> Tensor:
    return programs.direction(programs.moment(fn)) if programs.on_circle(fn) else fn.mean


def _is_root(graph: Any, batch: Batch, trace: Trace, name: str, value: Tensor | None) -> bool:
    """Return whether q of the site does not depend on other draws of the guide."""
    if next(iter(programs.latent_by_name(trace))) == name:
        return True
    if value is None:
        return False
    again = _formula(programs.posterior(graph, batch, name))
    return again is not None and torch.allclose(again, value, rtol=0, atol=0, equal_nan=True)


def _draw(fn: Any) -> Tensor:
    return fn()


def _mean_of_draws(fn: Any) -> Tensor:
    pieces = [fn((_DRAWS_AT_ONCE,)).sum(0) for _ in range(_DRAWS // _DRAWS_AT_ONCE)]
    return torch.stack(pieces).sum(0) / _DRAWS


def _median_of_draws(fn: Any) -> Tensor:
    return fn((_DRAWS,)).median(0).values  # where there is no mean, as of a Cauchy


def _with_common_noise(f: OfRows, batch: Batch) -> Tensor:
    """Return f of a minibatch, row by row with the same random numbers for each.

    Rows get noise of their own where torch cannot map over them: through a recurrent network, or
    draws whose noise depends on the parameters.
    """

    def of_row(*row: Tensor) -> Tensor:
        z = f(*(part.unsqueeze(0) for part in row))
        if len(z) != 1:  # of a guide with parameters for each row, such as an autoguide of Pyro's
            raise ValueError("the guide does not take one row")
        return z.squeeze(0)

    try:
        with warnings.catch_warnings(action="ignore"):  # of torch: slow, or a prototype
            return torch.vmap(of_row, randomness="same")(*batch)
    except (
        Exception
    ):  # whatever a user's guide raises inside vmap; if it is not that, it comes back
        return f(*batch)
