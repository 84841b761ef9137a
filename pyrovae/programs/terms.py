"""Terms of a bound, read from a sample site: log densities and KL divergences."""

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrovae.distributions import kl_divergence
from pyrovae.programs.param_store import parameters_held
from pyrovae.programs.plates import OF_SAMPLES
from pyrovae.programs.traces import Site, run, sites

__all__ = ["analytic_kl", "log_prob", "not_finite", "per_row", "sampled_kl"]


def log_prob(site: Site) -> Tensor:
    """Return the log density of a site's value, scaled and masked as its plates say, with the site's batch shape."""
    return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])


def sampled_kl(q: Site, p: Site | None) -> Tensor:
    """Return log q(z) - log p(z) at the drawn z: KL(q || p) by one draw (AEVB, eq. 6). Without p: log q(z) of an auxiliary site."""
    return log_prob(q) if p is None else log_prob(q) - log_prob(p)


def analytic_kl(q: Site, p: Site | None) -> Tensor:
    """Return KL(q || p) in closed form where one is known (AEVB, eq. 7 and appendix B) and holds, else by the one draw."""
    if p is None or q.get("entangled"):
        return sampled_kl(q, p)
    try:
        return scale_and_mask(kl_divergence(q["fn"], p["fn"]), q["scale"], q["mask"])
    except NotImplementedError:
        return sampled_kl(q, p)


def per_row(term: Tensor, site: Site, rows: int) -> Tensor:
    """Return a site's term for each of K samples and B rows, with shape (K, B), summed over the plates inside a row.

    Raises:
        ValueError: if the site is not in a plate over the rows.
    """
    frames = [
        frame for frame in site["cond_indep_stack"] if frame.vectorized
    ]  # from the outermost plate inwards
    own = next(
        (frame.dim for frame in frames if frame.size == rows and frame.name not in OF_SAMPLES), None
    )
    if own is None:
        raise ValueError(
            f'site "{site["name"]}" is not in a plate over the {rows} rows: there is no term a row, and no weight. '
            'Draw it inside `with pyro.plate("data", len(x)):`, or use SGVB_A or SGVB_B'
        )
    kept = {own, *(frame.dim for frame in frames if frame.name in OF_SAMPLES)}
    inner = [dim for dim in range(-term.dim(), 0) if dim not in kept]
    return torch.atleast_2d(term.sum(inner) if inner else term)


def not_finite(graph: Any, *batch: Tensor) -> tuple[str, Tensor] | None:
    """Run the programs; return which site, the guide's before the model's, has no finite density first, and in which rows."""
    with torch.no_grad(), parameters_held(graph):
        p, q = run(graph.model, graph.guide, *batch)
    for trace, program in ((q, "guide"), (p, "model")):
        for site in sites(trace, observed=False) + sites(trace, observed=True):
            bad = (~torch.isfinite(log_prob(site))).nonzero()[:, -1:].unique().cpu()
            if len(bad):
                return f'site "{site["name"]}" of the {program}', bad
    return None
