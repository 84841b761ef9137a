"""Find out how several draws of a pair of programs can be made in one run."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution

from pyrovae.programs.isolation import looking
from pyrovae.programs.layout import Layout
from pyrovae.programs.terms import log_prob, unscaled
from pyrovae.programs.traces import Program, Site, Trace, latent, observed, record, run

__all__ = ["find_layout", "name_rows"]

_ROWS = 3, 5  # of the runs that only look; no other dimension of a program follows both
_DRAWS = 2
_TOLERANCE = 1e-3  # between two ways of computing a log density in single precision
Batch = tuple[Tensor, ...]
Both = tuple[Trace, Trace]  # the traces of the model and the guide
Values = dict[str, Tensor]


class _Noise(Messenger):
    """Context in which flows are drawn from given noise, or from noise that is kept.

    The density of a flow's own draw needs no inverse, which may lose all digits: two runs that are
    compared are therefore made from the same noise, not at the same values.

    Args:
        given: noise z_0 by site.

    Attributes:
        found: noise by site, of the sites that are flows.
    """

    def __init__(self, given: Values | None = None) -> None:
        super().__init__()
        self.given, self.found = given or {}, Values()

    def _pyro_sample(self, msg: Any) -> None:
        flow = _flow_of(msg["fn"])
        if flow is None or msg["is_observed"] or msg["done"]:
            return
        noise = self.given.get(msg["name"])
        noise = flow.base_dist.sample() if noise is None else noise
        self.found[msg["name"]], value = noise, noise
        for transform in flow.transforms:
            value = transform(value)
        msg["value"], msg["done"] = value, True


def _flow_of(fn: Any) -> TransformedDistribution | None:
    """Return the flow inside a distribution, if its draws are nothing but transformed noise."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    flow = isinstance(fn, TransformedDistribution)
    return fn if flow and type(fn).rsample is TransformedDistribution.rsample else None


def find_layout(
    model: Program, guide: Program, *batch: Tensor, draws: int = 1, scaled: bool = True
) -> Layout:
    """Return a layout of K draws that gives what K separate runs would give.

    The programs are run a few times on some rows in eval() mode. A plate over the rows is one whose
    size follows the number of rows. The draws get a plate of their own where both programs then
    give the same log densities as separate runs. Else they are repeated rows, if those give the
    same log densities; they do not where a program depends on the number of rows, as by a scale of
    N / len(x). What remains is separate runs.

    Neither the programs' modules nor the random stream change.

    Args:
        model: a Pyro program of (x, *c).
        guide: its guide.
        batch: (x, *c), B rows each.
        draws: K.
        scaled: whether the scales of plates and handlers count, as in a loss.
    """
    with looking(model, guide, batch):
        run(model, guide, *batch)  # parameters made at the first run are made from all rows
        few = [_some_rows(batch, n) for n in _ROWS]
        if not all(_takes(model, guide, rows) for rows in few):
            few = [batch]  # programs of one number of rows, such as a plate of a fixed size
        p, q = run(model, guide, *few[0])
        layout = Layout(len(batch[0]), draws, plates=_plates_of_rows(model, guide, few, p, q))
        if draws == 1:
            return layout
        depth = _depth(p, q)
        if all(_broadcasts(model, guide, rows, depth) for rows in few):
            return layout._replace(depth=depth)
        return layout._replace(separate=not _repeats(model, guide, few[0], layout.plates, scaled))


def name_rows(graph: Any, batch: Batch, *traces: Trace) -> None:
    """Name the plates over the rows in the layouts of traces where their sizes do not tell.

    A plate inside a row may be as large as the batch.

    Args:
        graph: anything with `model` and `guide`, whose traces they are.
        batch: (x, *c), B rows each.
        traces: of runs on the batch.
    """
    sites = [(trace, site) for trace in traces for site in _sites(trace)]
    if any(trace.layout.ambiguous(site) for trace, site in sites):
        plates = find_layout(graph.model, graph.guide, *batch).plates
        for trace in traces:
            trace.layout = trace.layout._replace(plates=plates)


def _some_rows(batch: Batch, n: int) -> Batch:
    total = len(batch[0])
    return tuple(part[torch.arange(n, device=part.device) % total] for part in batch)


def _takes(model: Program, guide: Program, rows: Batch) -> bool:
    """Return whether the programs run on these rows, with plates that follow their number."""
    try:
        both = run(model, guide, *rows)
        for site in _sites(*both):
            log_prob(site)
    except Exception:  # whatever a user's program raises
        return False
    return bool(_plates_of_size(len(rows[0]), *both))


def _sites(*traces: Trace) -> Iterable[Site]:
    for trace in traces:
        yield from latent(trace) + observed(trace)


def _plates_of_size(size: int, *traces: Trace) -> frozenset[str]:
    frames = [frame for site in _sites(*traces) for frame in site["cond_indep_stack"]]
    return frozenset(frame.name for frame in frames if frame.vectorized and frame.size == size)


def _plates_of_rows(
    model: Program, guide: Program, few: list[Batch], p: Trace, q: Trace
) -> frozenset[str]:
    plates = _plates_of_size(len(few[0][0]), p, q)
    if len(plates) > 1 and len(few) > 1:
        plates &= _plates_of_size(len(few[1][0]), *run(model, guide, *few[1]))
    return plates


def _depth(*traces: Trace) -> int:
    frames = [frame for site in _sites(*traces) for frame in site["cond_indep_stack"]]
    return max([0, *(-frame.dim for frame in frames if frame.vectorized)])


def _broadcasts(model: Program, guide: Program, rows: Batch, depth: int) -> bool:
    """Return whether one run inside a plate over draws equals separate runs at the same latents."""
    try:
        with warnings.catch_warnings(action="ignore"):
            with _Noise() as of_one:
                _, shapes = run(model, guide, *rows)
            layout = Layout(len(rows[0]), _DRAWS, depth)
            with _Noise() as of_all:
                together = run(model, guide, *rows, layout=layout)
            terms = _terms(together)
            for k in range(_DRAWS):
                values = {
                    site["name"]: site["value"][k].reshape(shapes[site["name"]]["value"].shape)
                    for site in latent(together[1])
                }
                noise = {
                    name: of_all.found[name][k].reshape(one.shape)
                    for name, one in of_one.found.items()
                }
                alone = _run_at(values, noise, model, guide, rows)
                if not _same_as_draw(k, alone, together, terms):
                    return False
    except Exception:  # whatever a user's network raises at dimensions that it does not take
        return False
    return True


def _run_at(values: Values, noise: Values, model: Program, guide: Program, rows: Batch) -> Both:
    """Return both traces with the latents at given values, those of flows at given noise."""
    given = {name: {"value": value} for name, value in values.items() if name not in noise}
    with _Noise(noise):
        q = record(guide, *rows, given=Trace(given))
    return record(model, *rows, given=q), q


def _terms(both: Both) -> tuple[Values, Values]:
    """Return the log densities of both traces by name.

    They are taken before the programs run again: a flow without an inverse, such as Pyro's planar
    one, has the density of its last draw alone.
    """
    p, q = ({site["name"]: log_prob(site) for site in _sites(trace)} for trace in both)
    return p, q


def _same_as_draw(k: int, alone: Both, together: Both, terms: tuple[Values, Values]) -> bool:
    for one, several, found in zip(alone, together, terms, strict=True):
        for site in _sites(one):
            other, term = several[site["name"]], log_prob(site)
            if not _close(term, found[site["name"]][k].reshape(term.shape)):
                return False
            value, drawn = site["value"], not site["is_observed"]
            if drawn and not _close(value, other["value"][k].reshape(value.shape)):
                return False
    return True


def _repeats(
    model: Program, guide: Program, rows: Batch, plates: frozenset[str], scaled: bool
) -> bool:
    """Return whether a run on repeated rows equals separate runs at the same latents."""
    once = Layout(len(rows[0]), plates=plates)
    twice = Layout(len(rows[0]), _DRAWS, plates=plates)
    try:
        alone, kept = [], []
        for _ in range(_DRAWS):
            with _Noise() as noise:
                alone.append(run(model, guide, *rows))
            kept.append(noise.found)
        values, noises = Values(), Values()
        for site in latent(alone[0][1]):
            name = site["name"]
            values[name] = _repeated([q[name]["value"] for _, q in alone], once, site)
            if name in kept[0] and kept[0][name].shape == site["value"].shape:
                noises[name] = _repeated([found[name] for found in kept], once, site)
        _, repeated = twice.applied(model, rows)
        together = _run_at(values, noises, model, guide, repeated)
        return all(
            _same_by_row(both, k, once, together, twice, scaled) for k, both in enumerate(alone)
        )
    except Exception:  # a latent that all rows share, or a program of one number of rows
        return False


def _repeated(draws: list[Tensor], once: Layout, site: Site) -> Tensor:
    """Return draws of some rows as one of as many times the rows."""
    return once.as_site(torch.cat([once.by_row(v, site) for v in draws]).flatten(0, 1)[None], site)


def _same_by_row(
    alone: Both, k: int, once: Layout, together: Both, twice: Layout, scaled: bool
) -> bool:
    def term(site: Site, layout: Layout) -> Tensor:
        return layout.per_row(log_prob(site if scaled else unscaled(site, layout)), site)

    return all(
        _close(term(site, once)[0], term(several[site["name"]], twice)[k])
        for one, several in zip(alone, together, strict=True)
        for site in _sites(one)
    )


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
