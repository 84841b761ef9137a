"""Parameters of single rows, by their place in the minibatch: shuffled rows would share them.

Pyro's autoguides are such guides, and those that write `pyro.param("loc", torch.zeros(N, D))`. The
gradients of the terms of different rows are then in different elements of a parameter, in the same
ones whatever the rows hold. A network's gradients overlap, and those of an embedding, which looks
rows up by their values, move with the rows.
"""

from typing import Any

import torch
from torch import Tensor

from pyrovae import programs

__all__ = ["parameter_of_rows"]

_ROWS = 4  # whose gradients are compared
_LEAST = 3  # rows in which an overlap is no chance

Batch = tuple[Tensor, ...]
Used = dict[str, Tensor]  # which elements of each parameter
Found = tuple[list[Used], list[Used]]


def parameter_of_rows(graph: Any, parameters: dict[str, Tensor], batch: Batch) -> str | None:
    """Return the name of the first parameter that belongs to rows by their place, None if none.

    Args:
        graph: a pair of programs.
        parameters: those that are trained, by name.
        batch: a minibatch.
    """
    rows = len(batch[0])
    if rows < _LEAST:
        return None
    some = min(rows, _ROWS)
    large = {n: p for n, p in parameters.items() if p.requires_grad and p.numel() >= rows}
    try:
        with programs.evaluation(graph, seed=0), torch.enable_grad():
            found, again = _found_twice(graph, large, batch, some)
    except Exception:  # cuDNN's recurrent networks, among others, have no gradients in eval() mode
        return None
    for name in found[0] if found else ():
        one, other = ([used[name] for used in each] for each in (found, again))
        if _are_apart(one) and all(map(torch.equal, one, other)):
            return name
    return None


def _found_twice(graph: Any, large: dict[str, Tensor], batch: Batch, some: int) -> Found:
    """Return the elements that each of some rows uses, and with these rows reversed.

    Only parameters are among them of which a row uses so few elements that each could have its own.
    The draws differ too: by the same noise, rows would look the same up in a table of z.
    """
    rows = len(batch[0])
    terms = _terms(graph, batch)
    if not (large and terms.requires_grad):
        return [], []
    first = _used(terms[0], large)
    left = {name: large[name] for name, used in first.items() if _is_of_one(used, rows)}
    if not left:
        return [], []
    found = [_used(term, left) for term in terms[:some]]
    reversed_rows = torch.cat([torch.arange(some).flip(0), torch.arange(some, rows)])
    turned = tuple(part[reversed_rows.to(part.device)] for part in batch)
    return found, [_used(term, left) for term in _terms(graph, turned)[:some]]


def _terms(graph: Any, batch: Batch) -> Tensor:
    """Return log p - log q of each row at one draw, of the sites that have rows."""
    p, q = programs.run(graph.model, graph.guide, *batch)
    programs.name_rows(graph, batch, p, q)
    densities = [
        sign * programs.log_prob_of_rows(trace, site)[0]
        for trace, sign in ((p, 1), (q, -1))
        for site in programs.latent(trace) + programs.observed(trace)
        if trace.layout.has_rows(site)
    ]
    return programs.total([torch.zeros(len(batch[0]), device=batch[0].device), *densities])


def _used(term: Tensor, parameters: dict[str, Tensor]) -> Used:
    """Return which elements of each parameter have a gradient that is not 0."""
    tensors = list(parameters.values())
    gradients = torch.autograd.grad(term, tensors, retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(tensor, dtype=torch.bool)
        if gradient is None
        else gradient.to_dense() != 0
        for (name, tensor), gradient in zip(parameters.items(), gradients, strict=True)
    }


def _is_of_one(used: Tensor, rows: int) -> bool:
    """Return whether as many rows could each have as many elements for themselves."""
    return 0 < int(used.count_nonzero()) * rows <= used.numel()


def _are_apart(used: list[Tensor]) -> bool:
    """Return whether each has elements, and no two have one in common."""
    counts = torch.stack(used).sum(0)
    return int(counts.max()) == 1 and all(bool(each.any()) for each in used)
