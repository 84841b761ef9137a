"""Terms of a bound, read from sample sites: log densities, and KL by draw or closed form."""

import math
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent

from pyrovae.distributions import is_traced, kl_divergence, summed, widened
from pyrovae.programs.layout import Layout
from pyrovae.programs.param_store import parameters_held
from pyrovae.programs.traces import Site, Trace, latent, observed, run

__all__ = [
    "analytic_kl",
    "common_scale",
    "factor_of_rows",
    "kl_of_dimensions",
    "log_mean_exp",
    "log_prob",
    "log_prob_of_rows",
    "not_finite",
    "not_resolved",
    "sampled_kl",
    "unscaled",
    "weights_of",
]


def log_prob(site: Site) -> Tensor:
    """Return log p of a site's value, scaled and masked by its plates, shape (*batch).

    It is in single precision at least: terms in half precision are summed without rounding to it.
    """
    return scale_and_mask(_log_density(site["fn"], site["value"]), site["scale"], site["mask"])


def _log_density(fn: Any, value: Tensor) -> Tensor:
    if isinstance(fn, Independent) and type(fn).log_prob is Independent.log_prob:
        events = fn.reinterpreted_batch_ndims
        return summed(_log_density(fn.base_dist, value), tuple(range(-events, 0)))
    return widened(fn.log_prob(value))


def log_mean_exp(log_w: Tensor) -> Tensor:
    """Return log (1 / K) sum_k w_k, shape (B,), for log w with shape (K, B)."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def unscaled(site: Site, layout: Layout) -> Site:
    """Return the site as a row's own: without the scale of its rows or of a handler.

    A subsampling plate over the rows, or `poutine.scale`, multiplies a density to stand for data
    that are not in the minibatch; the evidence of a row knows no such factor. The mask stays, and
    the scale of a plate inside the row, whose values are all of the row's.
    """
    return {**site, "scale": layout.scale_inside(site)}


def log_prob_of_rows(trace: Trace, site: Site) -> Tensor:
    """Return log p of a site's value without the scale of its rows, shape (K, B)."""
    return trace.layout.per_row(log_prob(unscaled(site, trace.layout)), site)


def common_scale(p: Trace, q: Trace) -> Any:
    """Return the factor that a minibatch puts on all log densities of both programs.

    It is N / M of a plate over N rows of which M are drawn, or the number of `poutine.scale` around
    both programs; a tensor stays in the weights. A function of the weight of a row, such as a log
    mean, is multiplied by it, where the weight is not to be raised to its power.

    Raises:
        ValueError: if the plates over the rows of several sites have different factors.
    """
    sites = [(trace.layout, s) for trace in (p, q) for s in latent(trace) + observed(trace)]
    whole = [site["scale"] / layout.scale_inside(site) for layout, site in sites]
    if _are_equal(whole):
        return whole[0]
    for layout, site in sites:
        layout.check_rows(site)
    of_rows = [layout.scale_of_rows(site) for layout, site in sites]
    if _are_equal(of_rows):
        return of_rows[0]
    raise ValueError(
        "the plates over the rows scale the sites by different factors, "
        f"{dict(zip([site['name'] for _, site in sites], of_rows, strict=True))}: give the "
        "plates over the rows of model and guide the same size"
    )


def factor_of_rows(p: Trace) -> Any:
    """Return N / M of the plate over the rows in which a model observes x, 1 if it has all."""
    sites = [site for site in observed(p) if p.layout.has_rows(site)]
    return p.layout.scale_of_rows(sites[0]) if sites else 1.0


def _are_equal(numbers: list[Any]) -> bool:
    """Return whether all are numbers, not tensors, and the same."""
    first = numbers[0]
    return all(isinstance(x, int | float) and math.isclose(x, first) for x in numbers)


def weights_of(site: Site, like: Tensor) -> Tensor:
    """Return the weight that scale and mask give each element of a site's batch, shape (*batch)."""
    return scale_and_mask(like.new_ones(site["fn"].batch_shape), site["scale"], site["mask"])


def sampled_kl(q: Site, p: Site | None) -> Tensor:
    """Return log q(z) - log p(z) at the drawn z, an estimate of KL(q || p) (AEVB, eq. 6).

    For a site that only the guide has (an auxiliary variable) it is log q(z).
    """
    return log_prob(q) if p is None else log_prob(q) - log_prob(p)


def analytic_kl(q: Site, p: Site | None) -> Tensor:
    """Return KL(q || p) in closed form where one is known and holds, else by the draw.

    It does not hold where scale or mask of the two programs differ: one of the densities counts
    more than the other, as where the model alone masks a latent.

    Source: AEVB, eq. 7 and appendix B.
    """
    if p is None or q.get("not_mean_field"):
        return sampled_kl(q, p)
    try:
        kl = widened(kl_divergence(q["fn"], p["fn"]))
    except NotImplementedError:
        return sampled_kl(q, p)
    alike = _counted_alike(q, p)
    if alike is False:
        return sampled_kl(q, p)
    kl = scale_and_mask(kl, q["scale"], q["mask"])
    if alike is True or _all_are(alike):
        return kl
    return torch.where(alike, kl, sampled_kl(q, p))


def _counted_alike(q: Site, p: Site) -> bool | Tensor:
    """Return whether both sites have one scale and one mask; of tensors, where they have."""
    scale, mask = _same(q["scale"], p["scale"]), _same(*(_kept(each["mask"]) for each in (q, p)))
    return mask if scale is True else scale if mask is True else mask & scale


def _all_are(alike: Tensor) -> bool:
    """Return whether all elements are seen to be true, which is to wait on a GPU: there, False."""
    return alike.device.type == "cpu" and not is_traced(alike) and bool(alike.all())


def _kept(mask: bool | Tensor | None) -> bool | Tensor:
    return True if mask is None else mask


def _same(a: Any, b: Any) -> bool | Tensor:
    """Return whether two numbers, or the elements of tensors, are equal."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.as_tensor(a == b)
    return math.isclose(a, b)


def kl_of_dimensions(q: Site, p: Site | None) -> Tensor:
    """Return KL(q_d || p_d), shape (*batch, D), of distributions that factorize over dimensions.

    Scale and mask are left out. Of a site of single numbers D is 1.

    Raises:
        NotImplementedError: if they do not factorize over one event dimension, no closed form is
            known, or the prior depends on a latent that the guide draws later.
    """
    if p is None or q.get("not_mean_field") or len(q["fn"].event_shape) > 1:
        raise NotImplementedError
    if not q["fn"].event_shape and not p["fn"].event_shape:
        return kl_divergence(q["fn"], p["fn"]).expand(q["fn"].batch_shape).unsqueeze(-1)
    try:
        a, b = q["fn"].base_dist, p["fn"].base_dist
    except AttributeError:
        raise NotImplementedError from None
    if q["fn"].event_shape != p["fn"].event_shape or a.batch_shape != _whole_shape(q["fn"]):
        raise NotImplementedError
    return widened(kl_divergence(a, b))


def _whole_shape(fn: Any) -> torch.Size:
    return fn.batch_shape + fn.event_shape


def not_finite(graph: Any, *batch: Tensor) -> tuple[str, Tensor] | None:
    """Run both programs and find the first site, the guide's first, whose density is not finite.

    Returns:
        The site in words and the numbers of its rows; None if all densities are finite.
    """
    with torch.no_grad(), parameters_held(graph):
        p, q = run(graph.model, graph.guide, *batch)
    for trace, program in ((q, "guide"), (p, "model")):
        for site in latent(trace) + observed(trace):
            bad = (~torch.isfinite(log_prob(site))).nonzero()[:, -1:].unique().cpu()
            if len(bad):
                return f'site "{site["name"]}" of the {program}', bad
    return None


def not_resolved(p: Trace, q: Trace) -> str | None:
    """Return in words the first site whose log density single precision does not resolve to a nat.

    Such are those that are not finite, or at least 1 / eps in size.
    """
    for trace, program in ((q, "guide"), (p, "model")):
        for site in latent(trace) + observed(trace):
            largest = log_prob(site).abs().max()
            if not largest < 1 / torch.finfo(torch.float32).eps:
                return f'site "{site["name"]}" of the {program} has log densities of {largest:.1g}'
    return None
