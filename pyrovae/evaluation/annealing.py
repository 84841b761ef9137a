"""Annealed importance sampling of log p(x), for where plain importance sampling is too weak.

f_t(z) = f_0(z)^(1 - t) f_1(z)^t,   f_1(z) = p(x, z),   f_0(z) = p(z) or q(z | x)
0 = t_0 < t_1 < ... < t_T = 1

log w = sum_j (t_j - t_{j-1}) log( f_1(z_{j-1}) / f_0(z_{j-1}) )
z_0 ~ f_0,   z_j from z_{j-1} by a transition that leaves f_{t_j} invariant

E w = p(x), so E log w is below log p(x). Run backwards from z ~ p(z | x), E 1/w = 1 / p(x), and
-log of it is above. (Neal 2001, section 2; Grosse et al. 2015, section 4; Wu et al. 2017)
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Inputs, as_sources, inputs_of
from pyrovae.evaluation.checking import checked_sources
from pyrovae.evaluation.chunking import chunks_of
from pyrovae.evaluation.evidence import Evidence
from pyrovae.evaluation.importance import estimate
from pyrovae.evaluation.tempering import (
    COPIES,
    TemperedPath,
    check_counts,
    check_latents,
    initial_step_sizes,
)
from pyrovae.evaluation.without_guide import without_guide
from pyrovae.programs import Layout, hmc, log_mean_exp

__all__ = ["Bounds", "annealed_log_evidence", "bidirectional_bounds"]

Tensors = tuple[Tensor, ...]

_PILOTS = 8  # chains per row on which step sizes are adapted
_GAIN = 0.3  # of the log step size, at each temperature of the pilot run
_FIRST_TRANSITIONS = 20  # of the pilot chains at the first temperature
_LEAST_SHARE = 3 / 8  # of the chains that must be effective: see `annealed_log_evidence`
_STEEPNESS = 4.0  # of the sigmoid that spaces the temperatures (Grosse et al. 2015, section 6)


class Bounds(NamedTuple):
    """Stochastic lower and upper bounds on log p(x) of simulated rows, in nats.

    Attributes:
        x: the rows, with shape (B, *event).
        lower: log (1 / K) sum_k w_k by annealing forwards, with shape (B,); below log p(x) in
            expectation.
        upper: -log (1 / K) sum_k 1 / w_k by annealing backwards from the z that made x, with shape
            (B,); above log p(x) in expectation.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> float:
        """Mean of upper - lower over the rows: the sum of both estimators' biases."""
        return (self.upper - self.lower).mean().item()

    @property
    def gap_standard_error(self) -> float:
        """Standard error of `gap` over the rows, which are independent."""
        return ((self.upper - self.lower).std() / len(self.x) ** 0.5).item()


def annealed_log_evidence(
    graph: Any,
    x: Array,
    *c: Array,
    samples: int = 16,
    temperatures: int = 200,
    leapfrog: int = 10,
    from_guide: bool = False,
    seed: int | None = 0,
) -> Evidence:
    """Estimate log p(x | c) of each row by annealed importance sampling with HMC transitions.

    Step sizes are adapted for each row in a pilot run on other chains and then fixed, so that w is
    unbiased. With one temperature this is plain importance sampling: `naive_log_evidence`, or
    `log_evidence` from the guide. Source: Neal 2001; Wu et al. 2017.

    Args:
        graph: anything with `model` and `guide` whose latents are continuous and lie in a plate
            over the rows. A latent's support may depend on the context but not on another latent.
            The guide is not asked, whatever it is, but with `from_guide`.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: K, chains per row.
        temperatures: T, the number of annealing steps, with a transition between each two; the bias
            falls about as 1 / T. The cost is near K T (leapfrog + 2) gradients of log p(x, z), and
            half as much again for the pilot run at K = 16.
        leapfrog: leapfrog steps per transition.
        from_guide: anneal from q(z | x), which is nearer, instead of p(z | c). Its density must be
            computable at any z, and a mode of the posterior that it does not cover may be missed
            without any sign in the standard error.
        seed: of the random stream used, as for `log_evidence`.

    Returns:
        Evidence(log_p, standard_error, effective_sample_size), each with shape (B,). The weights of
        few temperatures have a heavy tail, which a single row may not show: look at how many rows
        have fewer than 6 effective draws of 16. In linear-Gaussian models with up to a tenth of
        such rows the mean was within 0.02 nats and 1.5 of its Monte Carlo errors, with more it was
        0.07 to 4 nats too low, 4 to 80 errors; in a Gamma-Poisson model every fourth such row was
        more than three errors off. Take more temperatures there rather than more chains.

    Raises:
        ValueError: if samples, temperatures or leapfrog is below 1, x is outside the support of the
            likelihood, or a latent has no density, is discrete or shared by rows.

    Warns:
        EvidenceWarning: as `log_evidence`, but with fewer than 27 chains already where less than
            three in eight are effective.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> pv.annealed_log_evidence(vae, torch.ones(3, 6), temperatures=10).log_p.shape
        torch.Size([3])
    """
    ts = _schedule(temperatures, leapfrog)

    def log_weights(graph: Any, batch: Tensors, layout: Layout) -> Tensor:
        steps = _step_sizes(graph, batch, layout, from_guide, ts, leapfrog)
        path = TemperedPath(graph, batch, layout, from_guide)
        return _anneal(path, path.start(), ts, steps, leapfrog)

    data = checked_sources(graph, x, *c)
    return estimate(
        "annealed_log_evidence",
        graph if from_guide else without_guide(graph),
        data,
        samples,
        seed,
        log_weights,
        check_latents,
        COPIES,
        _LEAST_SHARE,
    )


def bidirectional_bounds(
    graph: Any,
    *c: Array,
    rows: int = 100,
    samples: int = 16,
    temperatures: int = 200,
    leapfrog: int = 10,
    from_guide: bool = False,
    seed: int | None = 0,
    like: Array | None = None,
) -> Bounds:
    """Bound log p(x | c) from both sides on rows drawn from the model: bidirectional Monte Carlo.

    On such rows an exact draw of the posterior is known, the z that made x, and annealing backwards
    from it bounds log p(x) from above. The gap shows how large the bias of `annealed_log_evidence`
    can be with these settings, on data like the model's own. Source: Grosse et al. 2015, section 4.

    Args:
        graph: as for `annealed_log_evidence`, with one observed site.
        c: context, `rows` rows each.
        rows: B, how many to simulate.
        samples: K, chains per row and direction.
        temperatures: T.
        leapfrog: leapfrog steps per transition.
        from_guide: anneal between q(z | x) and the posterior instead of p(z | c) and the posterior.
        seed: of the random stream used.
        like: rows of data for a model that reads x, such as the number of time steps: row i for
            observation i, and again from the first where there are fewer.

    Raises:
        ValueError: as `annealed_log_evidence`, if there is not exactly one observed site, or the
            model reads x and `like` is not given.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> bool(abs(pv.bidirectional_bounds(vae, rows=50, temperatures=50).gap) < 0.1)
        True
    """
    ts = _schedule(temperatures, leapfrog)
    lower, upper, done = [], [], 0
    graph = graph if from_guide else without_guide(graph)
    with programs.evaluation(graph, seed):
        x, z = _simulate(graph, inputs_of(graph, rows, c, like, "bidirectional_bounds"), rows)
        data = as_sources((x, *c))
        for batch, layouts in chunks_of(graph, data, samples, check_latents, COPIES):
            drawn = {name: value[done : done + len(batch[0])] for name, value in z.items()}
            done += len(batch[0])
            steps = _step_sizes(graph, batch, layouts[0], from_guide, ts, leapfrog)
            there, back = [], []
            for layout in layouts:
                path = TemperedPath(graph, batch, layout, from_guide)
                there.append(_anneal(path, path.start(), ts, steps, leapfrog))
                u = path.vector(drawn)
                back.append(_anneal(path, u, ts.flip(0), steps.flip(0), leapfrog))
            lower.append(log_mean_exp(torch.cat(there)))
            upper.append(-log_mean_exp(-torch.cat(back)))
    return Bounds(x, torch.cat(lower), torch.cat(upper))


def _schedule(temperatures: int, leapfrog: int) -> Tensor:
    """Return t_0 = 0 < ... < t_T = 1, values of a sigmoid at equal steps, dense at both ends."""
    check_counts("temperatures", temperatures, 1, leapfrog)
    ends = -_STEEPNESS, _STEEPNESS
    s = torch.sigmoid(torch.linspace(*ends, temperatures + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


def _anneal(path: TemperedPath, u: Tensor, ts: Tensor, steps: Tensor, leapfrog: int) -> Tensor:
    """Return log w of each chain, shape (K, B), at rising or (backwards) falling temperatures."""
    log_w = u.new_zeros(u.shape[:-1], dtype=torch.float64)
    for i, (here, there) in enumerate(zip(ts.tolist(), ts.tolist()[1:], strict=False)):
        first, last = path.ends(u)
        log_w += abs(there - here) * (last - first)
        if i < len(steps):  # a transition at the end would change no weight
            u, _ = hmc.transition(path.at(there), u, steps[i], leapfrog)
    return log_w


def _step_sizes(
    graph: Any, batch: Tensors, layout: Layout, from_guide: bool, ts: Tensor, leapfrog: int
) -> Tensor:
    """Anneal pilot chains, and return each row's step sizes at the inner temperatures.

    Their shape is (T - 1, B).
    """
    pilots = layout._replace(draws=1 if layout.separate else _PILOTS)
    path = TemperedPath(graph, batch, pilots, from_guide)
    u, found = path.start(), []
    eps = initial_step_sizes(u)
    for i, t in enumerate(ts[1:-1].tolist()):
        for _ in range(1 if i else _FIRST_TRANSITIONS):
            u, accepted = hmc.transition(path.at(t), u, eps, leapfrog)
            eps = hmc.adapted(eps, accepted, _GAIN)
        found.append(eps)
    return torch.stack(found) if found else eps.new_empty(0, len(eps))


def _simulate(graph: Any, inputs: Inputs, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw rows from the model; return x, and the latents that made it."""
    batch, layout = inputs.at(torch.arange(rows)), Layout(rows)
    with inputs.hint("bidirectional_bounds"):
        programs.check_forwards(graph.model, *batch)
        x, latent = programs.simulate(graph.model, *batch)
        if any(layout.ambiguous(site) for site in (x, *latent)):
            layout = programs.look_for_rows(graph.model, inputs.first)[1]._replace(rows=rows)
    inputs.check_drawn("bidirectional_bounds", [x["value"]])
    z = {site["name"]: layout.by_row(site["value"], site)[0] for site in latent}
    return layout.rows_first(x["value"], x), z
