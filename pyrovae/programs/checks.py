"""Refuse pairs of programs for which no bound is right: errors name the site and the remedy."""

import pyro.distributions as dist
import torch

from pyrovae.programs.angles import on_circle
from pyrovae.programs.traces import Site, Trace, latent, latent_by_name, leaf, observed, support_of

__all__ = [
    "OTHER_ROWS",
    "PART_OF_ROW",
    "check_all_rows",
    "check_auxiliary",
    "check_density",
    "check_measures",
    "check_sites",
    "check_whole_rows",
    "holds_draw",
    "is_delta",
]

OTHER_ROWS = (
    "A guide with parameters for each row, such as an autoguide, is for the rows that it was made "
    "for, all of them at once: give these, in their order, and for other or for many rows let a "
    "network compute the guide from x"
)
PART_OF_ROW = "part_of_row"  # in `infer=` of a site that observes a random part of each row
_ENUMERATED = (
    ", or sum it out, as the guide declares: objective=pyro.infer.TraceEnum_ELBO("
    "max_plate_nesting=1)"
)


def check_density(site: Site) -> None:
    """Refuse a latent without a density: a Delta posterior or an improper flat prior.

    A `Delta` with a log density holds that of a transform's draw.

    Raises:
        ValueError: if the site has no density.
    """
    fn = leaf(site["fn"])
    empty = is_delta(site) and not torch.as_tensor(fn.log_density).any()
    if empty or isinstance(fn, dist.ImproperUniform):
        raise ValueError(
            f'site "{site["name"]}" is a Delta or flat distribution: an autoencoder has no density '
            "over its latents and so no log p(x). Use a proper prior and posterior, or compare "
            "reconstructions"
        )


def holds_draw(site: Site, trace: Trace) -> bool:
    """Return whether a Delta holds a draw of the guide, as in an `AutoNormal` for each latent."""
    base = trace.get(f"{site['name']}_unconstrained")
    return base is not None and is_delta(site) and bool(base["infer"].get("is_auxiliary"))


def is_delta(site: Site) -> bool:
    """Return whether a site's value is given, not drawn."""
    return isinstance(leaf(site["fn"]), dist.Delta)


def check_all_rows(*traces: Trace) -> None:
    """Refuse a plate that itself draws some of the rows that a program is given.

    Raises:
        ValueError: if there is such a plate, by `subsample_size`.
    """
    for trace in traces:
        for site in latent(trace) + observed(trace):
            frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
            drawn = [f for f in frames if f.full_size is not None and f.size != f.full_size]
            if drawn and not trace.layout.has_rows(site):
                name, size = drawn[0].name, drawn[0].size
                if size > trace.layout.rows:
                    raise ValueError(
                        f'site "{site["name"]}": its plate "{name}" has {size} rows, x has '
                        f"{trace.layout.rows}. {OTHER_ROWS}"
                    )
                raise ValueError(
                    f'site "{site["name"]}": its plate "{name}" draws {size} rows by itself, as '
                    f"by subsample_size={size}, of the {trace.layout.rows} that are given, and the "
                    f'others have no term. Write pyro.plate("{name}", len(x)) and let fit draw the '
                    "minibatches (batch_size=); to stand for all N rows, as in a loop of your own, "
                    f'pyro.plate("{name}", N, subsample=x)'
                )


def check_whole_rows(*traces: Trace) -> None:
    """Refuse to draw a part of each row at random, by a plate or where `PART_OF_ROW` says so.

    The mean of a log density over such parts is right; that of a weight, its exponential, is not.

    Raises:
        ValueError: if there is such a plate or site.
    """
    check_all_rows(*traces)
    for trace in traces:
        for site in latent(trace) + observed(trace):
            if trace.layout.scale_inside(site) != 1 or site["infer"].get(PART_OF_ROW):
                raise ValueError(
                    f'site "{site["name"]}": a part of each row is drawn at random, by a plate '
                    "inside the rows or the pixels= of a PoseVAE, and the weight of a part is no "
                    "estimate of that of the row. Take all of it here; training by SGVB_A or "
                    "SGVB_B, and elbo, take parts"
                )


def check_sites(p: Trace, q: Trace, needs_rsample: bool = True) -> None:
    """Refuse a model and a guide whose bound would be wrong or not differentiable.

    Raises:
        ValueError: if the model observes nothing, a latent is in one of the programs only (in the
            guide it may be marked as auxiliary), a site of the guide has no reparameterized draw
            where one is needed, or the prior is on the circle and the guide on the real line.
    """
    if not observed(p):
        raise ValueError(
            "the model observes nothing, so there is no log p(x). Observe x in it, by "
            'pyro.sample("x", p, obs=x), in no handler that hides the site'
        )
    for site in latent(p):
        if site["name"] not in q:
            _check_observed_in_part(site, p)
            raise ValueError(
                f'site "{site["name"]}": latent in the model but absent from the guide. '
                f"{_remedy(site)}"
            )
    for site in latent(q):
        _check_circle(site, p.get(site["name"]))
        if needs_rsample and not site["fn"].has_rsample:
            raise ValueError(
                f'site "{site["name"]}": {type(site["fn"]).__name__} has no reparameterized draw, '
                "which SGVB needs. Use a reparameterizable posterior, or "
                "objective=objectives.ScoreFunction()"
                f"{_ENUMERATED if site['infer'].get('enumerate') else ''}"
            )
    check_auxiliary(p, q, marked=False)


def _check_observed_in_part(site: Site, p: Trace) -> None:
    """Raise a ValueError if the site is of the values that `obs_mask` hides."""
    name = site["name"].removesuffix("_unobserved")
    if name != site["name"] and f"{name}_observed" in p:
        raise ValueError(
            f'site "{name}": obs_mask makes a latent "{site["name"]}" of the hidden values, which '
            "the guide would have to draw. To leave them out, mask their density instead, by "
            "pyro.poutine.mask or graphs.Missing"
        )


def _remedy(site: Site) -> str:
    if site["infer"].get("enumerate") or getattr(site["fn"], "has_enumerate_support", False):
        return (
            "Sum it out in the model (a mixture as the distribution of what depends on it; Pyro's "
            "TraceEnum_ELBO sums it out in training only), or sample it in the guide under the "
            "same name"
        )
    return "Sample it in the guide under the same name"


def check_measures(p: Trace, q: Trace) -> None:
    """Refuse a guide that has a density where the prior has probabilities, and the reverse.

    Such a pair may train, as by a straight-through estimator, but the ratio of the two is no
    importance weight.

    Raises:
        ValueError: if a site's prior is discrete and its guide continuous, or the reverse.
    """
    prior = latent_by_name(p)
    for site in latent(q):
        if site["name"] not in prior or is_delta(site):
            continue
        fns = prior[site["name"]]["fn"], site["fn"]
        discrete = [support_of(*order).is_discrete for order in (fns, fns[::-1])]
        if discrete[0] != discrete[1]:
            names = [type(leaf(fn)).__name__ for fn in fns]
            words = ["probabilities" if each else "a density" for each in discrete]
            raise ValueError(
                f"site \"{site['name']}\": the prior's {names[0]} has {words[0]}, the guide's "
                f"{names[1]} {words[1]}, so there is no ratio of them and no bound on log p(x). "
                "Evaluate the same graph with a guide of the prior's kind, such as "
                "OneHotCategorical with the same logits in place of its relaxation"
            )


def check_auxiliary(p: Trace, q: Trace, marked: bool = True) -> None:
    """Refuse a latent that the guide alone samples, beside latents of the model with a density.

    log p(x, z) - log q(z, u | x) has no bound without a density r(u | z, x) of u: its mean is above
    log p(x) where u is spread widely (Ranganath, Tran & Blei 2016, section 2.2). A transform's base
    draw, with the model's latents as `Delta` sites that hold its density, is right.

    Args:
        p: trace of the model.
        q: trace of the guide.
        marked: refuse also what is marked by `infer={"is_auxiliary": True}`, with which Pyro trains
            without a word.

    Raises:
        ValueError: if there is such a site.
    """
    prior = latent_by_name(p)
    of_model = [site for site in latent(q) if site["name"] in prior]
    own = [
        site["name"]
        for site in latent(q)
        if site["name"] not in prior and (marked or not site["infer"].get("is_auxiliary"))
    ]
    if own and not all(map(is_delta, of_model)):
        raise ValueError(
            f'site "{own[0]}": sampled in the guide only, so log p(x, z) - log q(z, {own[0]} | x) '
            f"is no bound on log p(x). Sample it in the model too, from a density of {own[0]} "
            "given the latents (and x)"
        )


def _check_circle(q: Site, p: Site | None) -> None:
    if p is not None and on_circle(p["fn"]) and not on_circle(q["fn"]):
        raise ValueError(
            f'site "{q["name"]}": the prior is on the circle and the guide\'s '
            f"{type(leaf(q['fn'])).__name__} on {support_of(q['fn'])}, over which the prior's mass "
            "is infinite: there is no bound. Use posteriors.WrappedNormal, or a prior on the real "
            "line"
        )
