"""What objectives refuse of a pair of traces, beside what every bound does."""

from typing import Any

from torch import Tensor

from pyrovae import programs
from pyrovae.programs import Trace

__all__ = ["check_resolved", "check_trained"]


def check_trained(q: Trace, name: str, follows_draws: bool) -> None:
    """Refuse terms of the guide that have parameters and are no density of a draw.

    Where gradients stop at draws, nothing would train the value of a `Delta`; and its log density,
    or a factor of the guide, would get the gradient of a score.

    Args:
        q: the guide's trace.
        name: of the objective.
        follows_draws: see `Objective`; then values of Deltas are trained.

    Raises:
        ValueError: if there is such a term.
    """
    for site in programs.densities(q).values():
        if site["is_observed"]:
            what, value = "a factor of the guide", programs.log_prob(site)
        elif not programs.is_delta(site):
            continue
        elif follows_draws:
            what, value = "the log density of a Delta", programs.log_prob(site)
        else:
            what, value = "the value of a Delta", site["drawn"]
        if _depends_on_parameters(value, q):
            raise ValueError(
                f'site "{site["name"]}": {what} depends on parameters, and {name} stops gradients '
                "at the guide's draws, so they would not be trained. Use SGVB_A, SGVB_B or IWAE"
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
            f"{found}, too large to compare runs in single precision. Give data of about unit size "
            "(divide grey levels by 255, or conditional.Standardized), or smaller first weights; "
            "or, if rows are to have such densities, use samples=1"
        )
