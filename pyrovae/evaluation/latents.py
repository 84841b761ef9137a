"""The information in the latents: KL per dimension, active units, mutual information, collapse.

I_q(x; z) = E_x KL( q(z | x) || q(z) ),   q(z) = (1 / N) sum_n q(z | x_n)  (Hoffman & Johnson 2016)

q(z | x) is that of the site given x alone: where the guide draws the site given other latents y it
is the integral of q(z | y, x) q(y | x), which draws of y stand for. `site=` names the latent; by
default it is the only one that the guide has for each row, or "z" among several.
"""

from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Sources, as_source
from pyrovae.evaluation.checking import checked_batches, checked_sources
from pyrovae.evaluation.information import (
    from_densities,
    from_draws,
    from_probabilities,
    takes_passes,
)

__all__ = [
    "LatentSummary",
    "active_units",
    "kl_per_dimension",
    "latent_summary",
    "mutual_information",
]

_ROWS_FOR_INFORMATION = 2000  # a random sample, in a summary
_ROWS_OF_A_FLOW = 256  # for mutual information, where one density takes D passes
_DRAWS_OF_A_ROW = 32  # for mutual information, where the density given x alone is not known
_COLLAPSED = 0.1  # nats of mutual information, below which the latents are as good as unused


class LatentSummary(NamedTuple):
    """The information in one latent site.

    Attributes:
        kl_per_dimension: mean over the rows, in nats, with shape (D,); None where q or p does not
            factorize over dimensions.
        active: whether each unit's posterior mean varies with x, with shape (D,).
        mutual_information: I_q(x; z) in nats; at most log N.
        warning: a description of posterior collapse, or None.
    """

    kl_per_dimension: Tensor | None
    active: Tensor
    mutual_information: float
    warning: str | None


def kl_per_dimension(graph: Any, x: Array, *c: Array, site: str | None = None) -> Tensor:
    """Return KL(q(z_d | x) || p(z_d)) averaged over the rows, with shape (D,), in nats.

    These are the site's terms of `elbo`, with its mask and without its scale: where q or p depends
    on latents that are drawn before it, they are at one draw of those for each row.

    Raises:
        ValueError: if x is outside the support of the likelihood, there is no such site, or q or p
            does not factorize over the dimensions with a known KL, as where p depends on a latent
            that the guide draws later.
    """
    pieces = []
    data = checked_sources(graph, x, *c)
    site = _named(graph, data, site, "kl_per_dimension")
    with programs.evaluation(graph):
        for batch in checked_batches(graph, data):
            p, q = programs.run(graph.model, graph.guide, *batch)
            programs.name_rows(graph, batch, p, q)
            programs.check_all_rows(p, q)
            if site not in programs.latent_by_name(q) or site not in p:
                raise ValueError(
                    f'kl_per_dimension: model and guide have no latent site "{site}" in common, '
                    f"the guide has {list(programs.latent_by_name(q))}: name one by site="
                )
            try:
                kl = programs.kl_of_dimensions(q[site], p[site])
                own = programs.unscaled(q[site], q.layout)
                weights = programs.weights_of(own, kl).unsqueeze(-1)
                weighted = torch.where(weights == 0, 0.0, kl * weights)
                pieces.append(q.layout.by_row(weighted, q[site])[0].flatten(1))
            except NotImplementedError:
                raise ValueError(_without_kl(q[site], p[site])) from None
    return torch.cat(pieces).mean(0)


def _without_kl(q: programs.Site, p: programs.Site) -> str:
    if q.get("not_mean_field"):
        return (
            f'site "{q["name"]}": its prior depends on a latent that the guide draws after it, so '
            "that its KL is no sum over dimensions. elbo has the whole KL by draws"
        )
    names = " and ".join(type(programs.leaf(site["fn"])).__name__ for site in (q, p))
    return f'site "{q["name"]}": {names} do not factorize into dimensions with a known KL'


def active_units(
    graph: Any, x: Array, *c: Array, threshold: float = 0.01, site: str | None = None
) -> Tensor:
    """Return which units have Var_x( E_q[z_d | x] ) above the threshold, with shape (D,).

    Where the mean is estimated by draws, the variance is estimated without their noise: by the
    covariances over x of independent estimates. Of a categorical site the units are the
    probabilities of the classes; of angles, that of (cos z_d, sin z_d). Source: Burda et al. 2016,
    section 5.1.2.

    Raises:
        ValueError: if x is outside the support of the likelihood, or there is no such site.
    """
    data = checked_sources(graph, x, *c)
    site = _named(graph, data, site, "active_units")
    with programs.evaluation(graph):
        batches = checked_batches(graph, data)
        means = [programs.means(graph, batch, site) for batch in batches]
    return _variance(torch.cat(means, 1)) > threshold


def _variance(means: Tensor) -> Tensor:
    """Return the variance over rows of a mean, from G independent estimates, shape (G, B, *event).

    For G > 1 it is the mean over pairs of different estimates of their covariance, which their
    noise leaves unbiased.
    """
    g = len(means)
    of_mean = means.mean(0).var(0, correction=0)
    return of_mean if g == 1 else (g * of_mean - means.var(1, correction=0).mean(0)) / (g - 1)


def mutual_information(
    graph: Any, x: Array, *c: Array, site: str | None = None, seed: int | None = 0
) -> float:
    """Estimate I_q(x; z) = E log q(z | x) - log q(z) in nats, by one draw per row.

    With N rows the aggregate posterior q(z) is a mixture of N components, so the result cannot
    exceed log N. The cost grows as N^2 up to 10,000 rows; of more, the expectation is over the
    draws of a random sample of rows. Two thousand rows are enough for most latents.

    The density of an inverse autoregressive flow takes D passes for each of the N^2 pairs. It is
    therefore estimated on 256 rows, a random sample; the result cannot exceed log 256 = 5.5 nats.

    Of a categorical site it is computed without draws. Where the site depends on other
    latents, q(z | x) has no density in closed form, and the nearest neighbours of draws stand for
    it (Ross 2014); in many dimensions the result is then too low.

    Raises:
        ValueError: if x is outside the support of the likelihood, or there is no such site.
    """
    data = checked_sources(graph, x, *c)
    site = _named(graph, data, site, "mutual_information")
    with programs.evaluation(graph, seed):
        batches = checked_batches(graph, data)
        first = next(batches)
        fn = programs.posterior(graph, first, site)
        if programs.is_categorical(fn):
            every = chain([first], batches)
            means = [programs.means(graph, batch, site) for batch in every]
            return from_probabilities(torch.cat(means, 1).mean(0))
        if programs.depends_on_other_latents(graph, first, site):
            _check_continuous(fn, site)
            return _information_by_draws(graph, data, site)
        fns = [fn]
        if takes_passes(fn) and len(data[0]) > _ROWS_OF_A_FLOW:
            fns, batches = [], checked_batches(graph, _sample(data, _ROWS_OF_A_FLOW))
        fns += [programs.posterior(graph, batch, site) for batch in batches]
        try:
            return from_densities(fns)
        except KeyError as error:
            if not programs.without_inverse(error):
                raise
            raise ValueError(
                f'mutual_information: site "{site}": a transform of the posterior has no inverse, '
                "by which a draw has a density given another row. Take a flow with an inverse, as "
                "posteriors.IAF; kl_per_dimension and active_units may not need it"
            ) from error


def _information_by_draws(graph: Any, data: Sources, site: str) -> float:
    batches = checked_batches(graph, _sample(data, _ROWS_FOR_INFORMATION))
    draws = [programs.draws_given_latents(graph, batch, site, _DRAWS_OF_A_ROW) for batch in batches]
    return from_draws(torch.cat(draws, 1))


def _check_continuous(fn: Any, site: str) -> None:
    if programs.support_of(fn).is_discrete:
        raise ValueError(
            f'mutual_information: site "{site}" is discrete, not categorical, and drawn given '
            "other latents, so q(z | x) is a sum over them that is not computed. Ask for one of "
            "the latents before it, or use a categorical latent"
        )


def _named(graph: Any, data: Sources, site: str | None, task: str) -> str:
    """Return the name of the latent site that is meant; the random stream stays where it was."""
    if site is not None:
        return site
    with programs.evaluation(graph):
        batch = next(checked_batches(graph, data))
        q = programs.record(graph.guide, *batch)
        programs.name_rows(graph, batch, q)
        return programs.latent_of_rows(q, None, task)


def _sample(data: Sources, rows: int) -> Sources:
    """Return a random sample of rows, in a fixed order.

    Evenly spread ones would all be of one class where classes alternate.
    """
    n = len(data[0])
    if n <= rows:
        return data
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:rows].sort().values
    return tuple(as_source(part).select(chosen) for part in data)


def latent_summary(graph: Any, x: Array, *c: Array, site: str | None = None) -> LatentSummary:
    """Return all figures of this module, with a warning if the posterior has collapsed.

    Raises:
        ValueError: if x is outside the support of the likelihood, or there is no such site.
    """
    data = checked_sources(graph, x, *c)
    site = _named(graph, data, site, "latent_summary")
    try:
        kl = kl_per_dimension(graph, *data, site=site)
    except ValueError:
        kl = None
    active = active_units(graph, *data, site=site)
    information = mutual_information(graph, *_sample(data, _ROWS_FOR_INFORMATION), site=site)
    return LatentSummary(kl, active, information, _warning(active, information))


def _warning(active: Tensor, information: float) -> str | None:
    if active.any() and information >= _COLLAPSED:
        return None
    return (
        f"posterior collapse: {int(active.sum())} of {active.numel()} units are active, and the "
        f"mutual information of x and z is {information:.2f} nats. Warm up the KL by "
        "beta=objectives.warm_up(0.25); lower beta; or weaken the likelihood's network"
    )
