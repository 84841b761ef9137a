"""Find out how several draws of a pair of programs can be made in one run."""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from pyrovae.programs.isolation import looking
from pyrovae.programs.layout import Layout
from pyrovae.programs.traces import Program, Site, Trace, latent, observed, record, run

__all__ = ["find_layout"]

_ROWS = 3  # of the runs that only look; no other dimension of a program is likely to have this size
_DRAWS = 2
_TOLERANCE = 1e-3  # between two ways of computing a log density in single precision


def find_layout(model: Program, guide: Program, *batch: Tensor, draws: int = 1) -> Layout:
    """Return a layout of K draws that gives what K separate runs would give.

    The programs are run a few times on three rows in eval() mode. A plate over the rows is one
    whose size follows the number of rows. The draws get a plate of their own where both
    programs then give the same log densities as separate runs, and else are repeated rows.

    Neither the programs' modules nor the random stream change.

    Args:
        model: a Pyro program of (x, *c).
        guide: its guide.
        batch: (x, *c), B rows each.
        draws: K.
    """
    with looking(model, guide, batch):
        few, p, q = _first_run(model, guide, batch)
        layout = Layout(len(batch[0]), draws, None, _plates_of_rows(model, guide, few, p, q))
        if draws > 1 and _broadcasts(model, guide, few, p, q):
            layout = layout._replace(depth=_depth(p, q))
    return layout


def _first_run(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], Trace, Trace]:
    """Return three rows and their traces; all rows for programs that take no other number."""
    few = _some_rows(batch, _ROWS)
    try:
        return few, *run(model, guide, *few)
    except Exception:  # such as a plate of a fixed size; another error comes again
        return batch, *run(model, guide, *batch)


def _some_rows(batch: tuple[Tensor, ...], n: int) -> tuple[Tensor, ...]:
    rows = torch.arange(n) % len(batch[0])
    return tuple(part[rows.to(part.device)] for part in batch)


def _sites(*traces: Trace) -> Iterable[Site]:
    for trace in traces:
        yield from latent(trace) + observed(trace)


def _plates_of_size(size: int, *traces: Trace) -> frozenset[str]:
    frames = [frame for site in _sites(*traces) for frame in site["cond_indep_stack"]]
    return frozenset(frame.name for frame in frames if frame.vectorized and frame.size == size)


def _plates_of_rows(
    model: Program, guide: Program, few: tuple[Tensor, ...], p: Trace, q: Trace
) -> frozenset[str]:
    rows = len(few[0])
    plates = _plates_of_size(rows, p, q)
    if len(plates) < 2:
        return plates
    more = run(model, guide, *_some_rows(few, rows + 1))
    return plates & _plates_of_size(rows + 1, *more)


def _depth(*traces: Trace) -> int:
    frames = [frame for site in _sites(*traces) for frame in site["cond_indep_stack"]]
    return max([0, *(-frame.dim for frame in frames if frame.vectorized)])


def _broadcasts(
    model: Program, guide: Program, few: tuple[Tensor, ...], p: Trace, q: Trace
) -> bool:
    """Return whether one run inside a plate over draws equals separate runs at the same latents."""
    try:
        with warnings.catch_warnings(action="ignore"):
            together = run(model, guide, *few, layout=Layout(len(few[0]), _DRAWS, _depth(p, q)))
            return all(
                _same(k, _run_at(k, together[1], q, model, guide, few), together)
                for k in range(_DRAWS)
            )
    except Exception:  # whatever a user's network raises at batch dimensions that it does not take
        return False


def _run_at(
    k: int, drawn: Trace, shapes: Trace, model: Program, guide: Program, few: tuple[Tensor, ...]
) -> tuple[Trace, Trace]:
    """Return both traces at the k-th of several draws."""
    given = Trace(
        {
            site["name"]: {"value": site["value"][k].reshape(shapes[site["name"]]["value"].shape)}
            for site in latent(drawn)
        }
    )
    return record(model, *few, given=given), record(guide, *few, given=given)


def _same(k: int, alone: tuple[Trace, Trace], together: tuple[Trace, Trace]) -> bool:
    for one, several in zip(alone, together, strict=True):
        for site in _sites(one):
            a = site["fn"].log_prob(site["value"])
            other = several[site["name"]]
            b = other["fn"].log_prob(other["value"])[k].reshape(a.shape)
            if not torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
                return False
    return True
