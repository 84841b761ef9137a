"""What objectives refuse of a pair of traces, beside what every bound does."""

from typing import Any

from torch import Tensor

from pyrovae import programs
from pyrovae.programs import Trace

__all__ = ["check_resolved", "check_trained"]


def check_trained(q: Trace, name: str) -> None:
    """Raise a ValueError if a `Delta` of the guide depends on parameters through its value.

    Where no gradient passes a draw, nothing would train them, or only the log density.
    """
    for site in programs.latent(q):
        if programs.is_delta(site) and _depends_on_parameters(site["drawn"], q):
            raise ValueError(
                f'site "{site["name"]}": the value of a Delta depends on parameters, and {name} '
                "takes no gradient through the guide's draws, so they would not be trained. Use "
                "SGVB_A, SGVB_B or IWAE"
            )


def _depends_on_parameters(value: Tensor, q: Trace) -> bool:
    """Return whether a value has a gradient in a tensor that is no draw of the guide."""
    draws = {id(site["value"]) for site in programs.latent(q)}
    if value.is_leaf:
        return value.requires_grad and id(value) not in draws
    found, seen = [value.grad_fn], set[Any]()
    while found:
        node = found.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of a tensor in which gradients end
        if leaf is not None and id(leaf) not in draws:
            return True
        found.extend(before for before, _ in node.next_functions)
    return False


def check_resolved(p: Trace, q: Trace) -> None:
    """Raise a ValueError if densities are so large that no two runs can be compared."""
    found = programs.not_resolved(p, q)
    if found:
        raise ValueError(
            f"{found} at the first weights: they overflow. Give data of about unit size "
            "(divide grey levels by 255, or conditional.Standardized), or smaller first weights"
        )
