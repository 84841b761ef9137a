"""Refuse pairs of programs for which no bound is right: errors name the site and the remedy."""

from typing import Any

import pyro.distributions as dist

from pyrovae.distributions import CIRCLE
from pyrovae.programs.traces import Site, Trace, latent, leaf

__all__ = ["check_density", "check_sites"]


def check_density(site: Site) -> None:
    """Refuse a latent without a density: a Delta posterior or an improper flat prior.

    Raises:
        ValueError: if the site has no density.
    """
    if isinstance(leaf(site["fn"]), dist.Delta | dist.ImproperUniform):
        raise ValueError(
            f'site "{site["name"]}" is a Delta or flat distribution: an autoencoder has no density '
            "over its latents and so no log p(x). Use a proper prior and posterior, or compare "
            "reconstructions"
        )


def check_sites(p: Trace, q: Trace, needs_rsample: bool = True) -> None:
    """Refuse a model and a guide whose bound would be wrong or not differentiable.

    Raises:
        ValueError: if a latent of the model is missing in the guide, a site of the guide has no
            reparameterized draw where one is needed, or the prior is on the circle and the guide on
            the real line.
    """
    for site in latent(p):
        if site["name"] not in q:
            raise ValueError(
                f'site "{site["name"]}": latent in the model but absent from the guide. Sample it '
                "in the guide under the same name"
            )
    for site in latent(q):
        _check_circle(site, p.get(site["name"]))
        if needs_rsample and not site["fn"].has_rsample:
            raise ValueError(
                f'site "{site["name"]}": {type(site["fn"]).__name__} has no reparameterized draw, '
                "which SGVB needs. Use a reparameterizable posterior, or "
                "objective=objectives.ScoreFunction()"
            )


def _check_circle(q: Site, p: Site | None) -> None:
    if p is not None and _on_circle(p["fn"]) and not _on_circle(q["fn"]):
        raise ValueError(
            f'site "{q["name"]}": the prior is on the circle and the guide\'s '
            f"{type(leaf(q['fn'])).__name__} on {q['fn'].support}, over which the prior's mass is "
            "infinite: there is no bound. Use posteriors.WrappedNormal, or a prior on the real line"
        )


def _on_circle(fn: Any) -> bool:
    support = fn.support
    return getattr(support, "base_constraint", support) is CIRCLE
