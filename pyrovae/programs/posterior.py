"""The guide's distribution at a latent site, and the mean of a distribution.

E_q[z | x]            where the site depends on x alone
E_q[ E_q[z | y, x] ]  where its distribution depends on other latents y, drawn from q(y | x)

Angles have the means of `pyrovae.programs.angles`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical

from pyrovae.programs.angles import direction, moment, on_circle
from pyrovae.programs.checks import OTHER_ROWS, check_all_rows
from pyrovae.programs.draws import find_layout, name_rows
from pyrovae.programs.isolation import cuda_devices, looking, random_stream
from pyrovae.programs.terms import log_prob, unscaled
from pyrovae.programs.traces import Site, Trace, latent, latent_by_name, leaf, record

__all__ = [
    "depends_on_other_latents",
    "draws_given_latents",
    "is_categorical",
    "is_class_number",
    "latent_of_rows",
    "mean",
    "means",
    "posterior",
]

_DRAWS = 256  # for a mean without a formula
_DRAWS_AT_ONCE = 4  # so that memory stays near that of the distribution's parameters
_GROUPS = 16  # independent estimates of a mean, by which its Monte Carlo noise is known
_FEW = 16  # rows on which the dependence of a site is looked at
_TOLERANCE = 1e-4  # between the log densities of one value, in single precision
Batch = tuple[Tensor, ...]


def mean(fn: TorchDistribution, draws: int = _DRAWS) -> Tensor:
    """Return the mean of a distribution, shape (*batch, *event).

    Where no formula is known (a flow's) it is the mean of draws; where the mean does not exist (a
    Cauchy's) it is that of medians of 16 draws.
    """
    found = _means_of(fn, draws).mean(0)
    return direction(found) if on_circle(fn) else found


def posterior(graph: Any, batch: Batch, site: str) -> TorchDistribution:
    """Return the distribution q(z | x, c) of a latent site, from one run of the guide.

    Where the site depends on other latents it is q(z | y, x, c) at one draw of them. Its batch
    shape is (B,) where it lies in a plate over the rows: plates inside a row belong to the event.

    Raises:
        ValueError: if the guide has no such latent site, or a plate inside a row lies left of that
            over the rows, or holds labels of classes; or the guide draws some of the rows.
    """
    trace = record(graph.guide, *batch)
    name_rows(graph, batch, trace)
    check_all_rows(trace)
    found = _site(trace, site)
    fn, inner = found["fn"], len(found["fn"].batch_shape) - 1
    if inner < 1 or not trace.layout.has_rows(found):
        return fn
    if trace.layout.row_dimension(found) != -1 - inner or is_categorical(fn):
        raise ValueError(
            f'site "{site}" lies in a plate inside the rows. Declare that as its event by '
            ".to_event(1) instead, or give the plate over the rows a dim left of it and the site "
            "values that have a mean"
        )
    return fn.to_event(inner)


def latent_of_rows(trace: Trace, site: str | None, task: str) -> str:
    """Return the latent site of the guide that is meant, one with a value per row.

    Args:
        trace: of the guide.
        site: its name; None is the only one, or "z" among several.
        task: that asks, for errors.

    Raises:
        ValueError: if it is not known, or shared by all rows.
    """
    check_all_rows(trace)
    latents = latent_by_name(trace)
    per_row = [name for name, each in latents.items() if trace.layout.has_rows(each)]
    if site is None and len(per_row) == 1:
        return per_row[0]
    site = "z" if site is None and "z" in per_row else site
    if site in per_row:
        return site
    if site in latents:
        raise ValueError(
            f'site "{site}" is shared by all rows, so no row has a posterior of its own '
            f"there. Name one of {per_row} by site="
        )
    if not latents:
        raise ValueError(
            f"{task}: the guide draws no latent, so there is no q(z | x). Those that "
            "TraceEnum_ELBO sums out of a model have their probabilities by its "
            "compute_marginals(graph.model, graph.guide, x); or sample them in the guide too"
        )
    if not per_row:
        raise ValueError(
            f"{task}: no latent of the guide, of {list(latents)}, is in a plate over the "
            f'{trace.layout.rows} rows. Sample it inside `with pyro.plate("data", len(x)):`. '
            f"{OTHER_ROWS}"
        )
    words = "none is named" if site is None else f'has no latent site "{site}"'
    raise ValueError(f"{task}: the guide has the latents {per_row}, {words}; name one by site=")


def means(graph: Any, batch: Batch, site: str) -> Tensor:
    """Return estimates of E_q[z | x, c], independent given the batch, with shape (G, B, *event).

    G is 1 where the mean has a formula, and else 16: then the average over G has the least noise,
    and the spread over G tells how much. A categorical site has the probabilities of its classes
    for a mean. Noise is that of a stream of its own, and common to all rows where the
    distribution's draws allow it. Of angles it is the complex E_q[exp(i theta) | x, c].

    Raises:
        ValueError: if the guide has no such latent site.
    """
    conditional = depends_on_other_latents(graph, batch, site)
    fn = None if conditional else posterior(graph, batch, site)
    with random_stream(0, cuda_devices(graph)):  # the same noise in every batch
        if fn is not None:
            return _means_of(fn, _DRAWS)
        pieces = [
            trace.layout.by_row(_exact_mean(found["fn"]), found)
            for trace, found in _runs(graph, batch, site, _DRAWS)
        ]
    return torch.stack([part.mean(0) for part in torch.cat(pieces).chunk(_GROUPS)])


def draws_given_latents(graph: Any, batch: Batch, site: str, draws: int) -> Tensor:
    """Return draws of a site, each with draws of the latents before it: shape (K, B, *event)."""
    runs = _runs(graph, batch, site, draws)
    return torch.cat([trace.layout.by_row(found["value"], found) for trace, found in runs])


def depends_on_other_latents(graph: Any, batch: Batch, site: str) -> bool:
    """Return whether a latent's distribution depends on latents that the guide draws before it.

    Two runs of the guide draw those before it with other noise: where nothing depends on them, the
    site's densities of one value are equal.

    Raises:
        ValueError: if the guide has no such latent site.
    """
    batch = _few_rows(graph, batch) if len(batch[0]) > _FEW else batch
    trace = record(graph.guide, *batch)
    value = _site(trace, site)
    if latent(trace)[0]["name"] == site:
        return False
    given = Trace({site: {"value": value["value"]}})
    again = record(graph.guide, *batch, given=given)[site]
    a, b = (log_prob(unscaled(each, trace.layout)) for each in (value, again))
    return not torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def is_categorical(fn: Any) -> bool:
    """Return whether the values are labels of classes, numbers (which have no mean) or one-hot."""
    kind = leaf(fn)
    one_hot = isinstance(kind, torch.distributions.OneHotCategorical) and len(fn.event_shape) == 1
    return one_hot or (is_class_number(fn) and not fn.event_shape)


def is_class_number(fn: Any) -> bool:
    """Return whether the values are numbers of classes, which have no mean; levels have one."""
    kind = leaf(fn)
    return isinstance(kind, Categorical) and type(kind).mean is Categorical.mean


def _few_rows(graph: Any, batch: Batch) -> Batch:
    few = tuple(part[:_FEW] for part in batch)
    try:
        record(graph.guide, *few)
    except Exception:  # of a guide of one number of rows
        return batch
    return few


def _site(trace: Trace, site: str) -> Site:
    names = [each["name"] for each in latent(trace)]
    if site not in names:
        raise ValueError(f'the guide has no latent site "{site}", it has {names}')
    return trace[site]


def _runs(graph: Any, batch: Batch, site: str, draws: int) -> Iterator[tuple[Trace, Site]]:
    """Yield runs of the guide that together make K draws for each row."""
    with looking(graph.model, graph.guide, batch):
        few = _few_rows(graph, batch) if len(batch[0]) > _FEW else batch
    layout = find_layout(graph.model, graph.guide, *few, draws=_GROUPS, scaled=False)
    at_once = 1 if layout.separate else _GROUPS
    layout = layout._replace(draws=at_once, rows=len(batch[0]))
    for _ in range(-(-draws // at_once)):
        trace = record(graph.guide, *batch, layout=layout)
        yield trace, _site(trace, site)


def _exact_mean(fn: Any) -> Tensor:
    """Return the mean by its formula, or one draw."""
    if is_categorical(fn):
        return leaf(fn).probs.expand(*fn.batch_shape, -1)
    value = _formula(fn)
    return fn(torch.Size()) if value is None or value.isnan().any() else value


def _formula(fn: Any) -> Tensor | None:
    try:
        return moment(fn) if on_circle(fn) else fn.mean
    except (NotImplementedError, AttributeError):
        return None


def _means_of(fn: Any, draws: int) -> Tensor:
    """Return independent estimates of a distribution's mean, shape (G, *batch, *event)."""
    if is_categorical(fn):
        return leaf(fn).probs.expand(*fn.batch_shape, -1).unsqueeze(0)
    value = _formula(fn)
    if value is not None and not value.isnan().any():
        return value.unsqueeze(0)
    size = -(-draws // _GROUPS)
    return torch.stack([_centre(fn, size, median=value is not None) for _ in range(_GROUPS)])


def _centre(fn: Any, draws: int, median: bool) -> Tensor:
    if median:
        return _common_draws(fn, draws).median(0).values
    parts = [min(_DRAWS_AT_ONCE, draws - start) for start in range(0, draws, _DRAWS_AT_ONCE)]
    return torch.stack([_common_draws(fn, n).sum(0) for n in parts]).sum(0) / draws


def _common_draws(fn: Any, n: int) -> Tensor:
    """Return n draws z = T(F^-1(u)) with the same uniform u for all rows, where F^-1 is known."""
    base, transforms = fn, list[Any]()
    while hasattr(base, "base_dist"):
        transforms = [*getattr(base, "transforms", ()), *transforms]
        base = base.base_dist
    shape, rows = torch.Size(base.batch_shape) + base.event_shape, len(fn.batch_shape)
    if shape[:rows] != fn.batch_shape:
        return fn(torch.Size([n]))
    like = base(torch.Size()) if callable(base) else base.sample()  # of Pyro, or of torch
    if not like.is_floating_point():
        raise ValueError(
            f"{type(base).__name__} has no mean by formula, and its draws are integers, which may "
            "be numbers of classes, without a mean. Take draws, as by generate(..., mean=False)"
        )
    u = torch.rand(n, *[1] * rows, *shape[rows:], device=like.device, dtype=like.dtype)
    try:
        z = base.icdf(u.clamp(min=torch.finfo(u.dtype).tiny).expand(n, *shape))
    except (NotImplementedError, AttributeError):
        return fn(torch.Size([n]))
    for transform in transforms:
        z = transform(z)
    return z
