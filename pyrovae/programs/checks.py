"""Refuse pairs of programs for which no bound is right: a ValueError names the site and the remedy."""

from typing import Any

import pyro.distributions as dist

from pyrovae.distributions import CIRCLE
from pyrovae.programs.traces import Site, Trace, leaf, sites

__all__ = ["check_density", "check_sites"]


def check_density(site: Site) -> None:
    """Refuse a latent that has no density: a ValueError for a point or a flat prior."""
    if isinstance(leaf(site["fn"]), dist.Delta | dist.ImproperUniform):
        raise ValueError(
            f'site "{site["name"]}" is a point or flat: an autoencoder has no density over its codes and so no log p(x). '
            "Use a proper prior and posterior, or compare reconstructions"
        )


def check_sites(p: Trace, q: Trace, needs_rsample: bool = True) -> None:
    """Refuse a pair of programs whose bound would be wrong or not differentiable.

    Raises:
        ValueError: if a latent of the model is missing in the guide, a guide's site lacks the reparameterized draw it needs, or a
            prior over the circle meets a guide over the real line.
    """
    for site in sites(p, observed=False):
        if site["name"] not in q:
            raise ValueError(
                f'site "{site["name"]}": latent in the model but absent from the guide. Sample it in the guide under the same name'
            )
    for site in sites(q, observed=False):
        fn: Any = site["fn"]
        if site["name"] in p and _on_circle(p[site["name"]]["fn"]) and not _on_circle(fn):
            raise ValueError(
                f'site "{site["name"]}": the prior lives on the circle and the guide\'s {type(leaf(fn)).__name__} on {fn.support}, over '
                "which the prior's mass is infinite: no bound. Use posteriors.WrappedNormal, or a prior over the real line"
            )
        if needs_rsample and not fn.has_rsample:
            raise ValueError(
                f'site "{site["name"]}": {type(fn).__name__} has no reparameterized draw, which SGVB needs. '
                "Use a reparameterizable posterior, or objective=objectives.ScoreFunction()"
            )


def _on_circle(fn: Any) -> bool:
    support = fn.support
    return getattr(support, "base_constraint", support) is CIRCLE
