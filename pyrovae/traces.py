"""What one run of (guide, model) says, site by site: the ground that objectives and evaluation stand on.

    ELBO = sum over observed sites of log p(x | ...)  -  sum over latent sites of KL(q(z | ...) || p(z | ...))

Everything is read from Pyro's traces, so it serves every graph, one that a user wrote this morning too.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyrovae.conditional import held
from pyrovae.distributions import CIRCLE

__all__ = [
    "SAMPLES",
    "Site",
    "Trace",
    "analytic_kl",
    "check_density",
    "check_sites",
    "evaluation",
    "leaf",
    "log_prob",
    "not_finite",
    "per_row",
    "record",
    "run",
    "sampled_kl",
    "simulated",
    "sites",
    "total",
]

Site = Any  # a node of a Pyro trace, a dict: name, fn, value, scale, mask, is_observed, ...
Program = Callable[..., object]
Cut = Callable[[Tensor], Tensor]
SAMPLES = "samples"  # the plate of K runs at once; Pyro's own ELBOs call theirs otherwise
_OF_SAMPLES = (SAMPLES, "num_particles_vectorized")


class Trace(dict[str, Site]):
    """Sample sites by name, in the order in which they came."""


class _Record(Messenger):
    """Keep a program's sample sites, latent ones at given values: `poutine.trace` and `replay` in one, without a copy of each.

    A step of a small model spends a tenth of its time in handlers; this takes a third of that away.
    """

    def __init__(self, given: Trace | None = None, cut: Cut | None = None) -> None:
        super().__init__()
        self.given, self.cut, self.trace = given or Trace(), cut, Trace()

    def _pyro_sample(self, msg: Site) -> None:
        if not msg["is_observed"] and msg["name"] in self.given:
            msg["done"], msg["value"] = True, self.given[msg["name"]]["value"]

    def _pyro_post_sample(self, msg: Site) -> None:
        if self.cut is not None and not msg["is_observed"] and not site_is_subsample(msg):
            msg["drawn"], msg["value"] = msg["value"], self.cut(msg["value"])
        self.trace[msg["name"]] = msg


def run(model: Program, guide: Program, *batch: Tensor, cut: Cut | None = None) -> tuple[Trace, Trace]:
    """Draw the latents from the guide, run the model on them, and return both traces (model's, guide's).

    With `cut`, each draw goes on as `cut(draw)`, e.g. `Tensor.detach`; its site keeps the draw itself as "drawn".
    """
    q = record(guide, *batch, cut=cut)
    p = record(model, *batch, given=q)
    _mark_entangled(p, q)
    return p, q


def _mark_entangled(p: Trace, q: Trace) -> None:
    """Mark the guide's sites whose prior may see a latent that the guide draws after them, as in z2 -> z1 -> x with q(z1 | x) q(z2 | z1).

    E log q(z1) / p(z1 | z2) over (z1, z2) ~ q is no KL(q(z1) || p(z1 | z2)) then: z2 was drawn given that very z1.
    """
    drawn, of_model = [site["name"] for site in sites(q, observed=False)], [site["name"] for site in sites(p, observed=False)]
    if drawn == of_model:  # as in most graphs
        return
    for i, name in enumerate(drawn):
        parents = of_model[: of_model.index(name)] if name in of_model else []
        q[name]["entangled"] = not set(parents) <= set(drawn[:i])


def record(program: Program, *batch: Tensor, given: Trace | None = None, cut: Cut | None = None) -> Trace:
    """Run one program, its latents at the given trace's values where that has them, and return its trace."""
    with _Record(given, cut) as recorded:
        program(*batch)
    return recorded.trace


def sites(trace: Trace, observed: bool) -> list[Site]:
    """Return the observed or the latent sample sites of a trace, in their order; neither a plate's own nor `pyro.deterministic`'s."""
    found = [site for site in trace.values() if site["is_observed"] is observed]
    if observed:
        return [site for site in found if not site["infer"].get("_deterministic")]
    return [site for site in found if not site_is_subsample(site)]


def total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors."""
    return reduce(torch.add, terms)


def leaf(fn: Any) -> Any:
    """Return the distribution inside all wrappers such as `Independent`."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


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
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]  # from the outermost plate inwards
    own = next((frame.dim for frame in frames if frame.size == rows and frame.name not in _OF_SAMPLES), None)
    if own is None:
        raise ValueError(
            f'site "{site["name"]}" is not in a plate over the {rows} rows: there is no term a row, and no weight. '
            'Draw it inside `with pyro.plate("data", len(x)):`, or use SGVB_A or SGVB_B'
        )
    kept = {own, *(frame.dim for frame in frames if frame.name in _OF_SAMPLES)}
    inner = [dim for dim in range(-term.dim(), 0) if dim not in kept]
    return torch.atleast_2d(term.sum(inner) if inner else term)


def simulated(p: Trace) -> Site:
    """Return the one site that a run of `poutine.uncondition(model)` drew where the model observes.

    Raises:
        ValueError: if the model observes none, or more than one.
    """
    drawn = [site for site in p.values() if site["infer"].get("was_observed") and not site["infer"].get("_deterministic")]
    if len(drawn) != 1:
        names = [site["name"] for site in drawn]
        raise ValueError(f"the model observes {names}, expected one site, the guide's first argument, to simulate x from")
    return drawn[0]


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


def not_finite(graph: Any, *batch: Tensor) -> tuple[str, Tensor] | None:
    """Run the programs; return which site, the guide's before the model's, has no finite density first, and in which rows."""
    with torch.no_grad(), held(graph):
        p, q = run(graph.model, graph.guide, *batch)
    for trace, program in ((q, "guide"), (p, "model")):
        for site in sites(trace, observed=False) + sites(trace, observed=True):
            bad = (~torch.isfinite(log_prob(site))).nonzero()[:, -1:].unique().cpu()
            if len(bad):
                return f'site "{site["name"]}" of the {program}', bad
    return None


@contextmanager
def evaluation(graph: object, seed: int | None = 0) -> Iterator[None]:
    """Context for looking at a graph without touching it: eval(), no gradients, own random stream, store left alone.

    On leaving, every module is back in its own mode and the global random state is what it was.

    Args:
        graph: the graph; its modules are switched to eval().
        seed: of the stream used inside; None continues the global stream (and leaves it moved on).
    """
    modules = list(graph.modules()) if isinstance(graph, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        with torch.no_grad(), held(graph), pyro.validation_enabled(False), random_stream(seed, cuda_devices(graph)):
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def cuda_devices(graph: object) -> list[int]:
    """Return the indices of the CUDA devices on which the graph's parameters lie."""
    tensors = graph.parameters() if isinstance(graph, nn.Module) else ()
    return sorted({t.device.index for t in tensors if t.device.type == "cuda"})


@contextmanager
def random_stream(seed: int | None, devices: list[int]) -> Iterator[None]:
    """Context with a random stream of its own; None leaves the global one in use."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
