"""Annealed importance sampling of log p(x), for where plain importance sampling is too weak, and its two-sided form.

f_t(z) = f_0(z)^(1 - t) f_1(z)^t,   f_1(z) = p(x, z),   f_0(z) = p(z) or q(z | x),   0 = t_0 < t_1 < ... < t_T = 1

log w = sum_j (t_j - t_{j-1}) log( f_1(z_{j-1}) / f_0(z_{j-1}) ),   z_0 ~ f_0,   z_j from z_{j-1} by a transition that keeps f_{t_j}

E w = p(x): E log w is below log p(x). Run backwards from z ~ p(z | x), E 1/w = 1 / p(x): -log of it is above.
(Neal 2001, section 2; Grosse et al. 2015, section 4; Wu et al. 2017)
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Sources, as_sources, device_and_dtype, take
from pyrovae.evaluation.chunking import passes
from pyrovae.evaluation.importance import Evidence, estimate
from pyrovae.evaluation.tempering import COPIES, Path, check_counts, step_sizes_at_first
from pyrovae.programs import hmc

__all__ = ["Bounds", "annealed_log_evidence", "bidirectional_bounds"]

Tensors = tuple[Tensor, ...]

_PILOTS = 8  # chains a row on which step sizes are found
_GAIN = 0.3  # of log eps, at each temperature of the pilot run
_SETTLING = 20  # transitions of the pilots at the first temperature
_STEEPNESS = 4.0  # of the sigmoid that spaces the temperatures (Grosse et al. 2015, section 6)


class Bounds(NamedTuple):
    """Stochastic lower and upper bounds on log p(x) of simulated rows, in nats.

    Attributes:
        x: the rows, with shape (B, *event).
        lower: log (1 / K) sum_k w_k by annealing forwards, with shape (B,); below log p(x) in expectation.
        upper: -log (1 / K) sum_k 1 / w_k by annealing backwards from the z that made x, with shape (B,); above in expectation.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> float:
        """Mean of upper - lower over the rows: the two estimators' biases together are this large."""
        return (self.upper - self.lower).mean().item()

    @property
    def gap_standard_error(self) -> float:
        """Standard error of `gap`: the rows are independent, so it holds whatever the K chains of a row share."""
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
    """Estimate log p(x | c) of each row by annealed importance sampling with HMC moves (Neal 2001; Wu et al. 2017).

    Step sizes are found row by row in a pilot run on other chains and then kept, so that w is unbiased. With one temperature it
    is plain importance sampling: `naive_log_evidence`, or `log_evidence` from the guide.

    Args:
        graph: anything with `model` and `guide` whose latents are continuous and lie in a plate over the rows. A latent's support
            may depend on the context but not on another latent.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: K, chains a row.
        temperatures: T, a move between each two of them; the bias falls about as 1 / T. The cost is near K T (leapfrog + 2)
            gradients of log p(x, z), and half as much again for the pilots at K = 16.
        leapfrog: leapfrog steps a move.
        from_guide: anneal from q(z | x), which is nearer, instead of p(z | c). Its density must be computable at any z, and a mode
            of the posterior that it does not see may be missed for good, which no standard error shows.
        seed: of the stream used, as for `log_evidence`.

    Returns:
        Evidence(log_p, standard_error, effective_sample_size), each with shape (B,).

    Raises:
        ValueError: if samples, temperatures or leapfrog is below 1, or a latent has no density, is discrete or shared by rows.

    Example:
        >>> import pyrovae as pv
        >>> q, p = pv.posteriors.DiagonalNormal(nn.Linear(6, 4)), pv.likelihoods.Bernoulli(nn.Linear(2, 6))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, p)
        >>> pv.annealed_log_evidence(vae, torch.ones(3, 6), temperatures=10).log_p.shape
        torch.Size([3])
    """
    ts = _schedule(temperatures, leapfrog)

    def log_weights(graph: Any, batch: Tensors, draws: int) -> Tensor:
        steps = _step_sizes(Path(graph, batch, _PILOTS, from_guide), ts, leapfrog)
        path = Path(graph, batch, draws, from_guide)
        return _anneal(path, path.start(), ts, steps, leapfrog)

    return estimate(graph, as_sources((x, *c)), samples, seed, log_weights, COPIES)


def bidirectional_bounds(
    graph: Any,
    *c: Array,
    rows: int = 100,
    samples: int = 16,
    temperatures: int = 200,
    leapfrog: int = 10,
    from_guide: bool = False,
    seed: int | None = 0,
) -> Bounds:
    """Bracket log p(x | c) of rows drawn from the model: bidirectional Monte Carlo (Grosse et al. 2015, section 4).

    On such rows an exact draw of the posterior is known, the z that made x, and annealing backwards from it bounds log p(x) from
    above. The gap says how far `annealed_log_evidence` can be off with these settings, on data like the model's own.

    Args:
        graph: as for `annealed_log_evidence`, with one observed site.
        c: context, `rows` rows each.
        rows: B, how many to simulate.
        samples: K, chains a row and direction.
        temperatures: T.
        leapfrog: leapfrog steps a move.
        from_guide: anneal between q(z | x) and the posterior instead of p(z | c) and the posterior.
        seed: of the stream used.

    Raises:
        ValueError: as `annealed_log_evidence`, and if there is not exactly one observed site.

    Example:
        >>> import pyrovae as pv
        >>> q, p = pv.posteriors.DiagonalNormal(nn.Linear(6, 4)), pv.likelihoods.Bernoulli(nn.Linear(2, 6))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, p)
        >>> bool(abs(pv.bidirectional_bounds(vae, rows=50, temperatures=50).gap) < 0.1)
        True
    """
    ts = _schedule(temperatures, leapfrog)
    lower, upper = [], []
    with programs.evaluation(graph, seed):
        x, z = _simulate(graph, rows, *c)
        data: Sources = (x, *as_sources((x, *c))[1:])
        for batch, sizes, part in _with_latents(passes(graph, data, samples, COPIES), z):
            steps = _step_sizes(Path(graph, batch, _PILOTS, from_guide), ts, leapfrog)
            paths = [Path(graph, batch, draws, from_guide) for draws in sizes]
            there = [_anneal(path, path.start(), ts, steps, leapfrog) for path in paths]
            back = [
                _anneal(path, path.vector(part), ts.flip(0), steps.flip(0), leapfrog)
                for path in paths
            ]
            lower.append(_log_mean(torch.cat(there)))
            upper.append(-_log_mean(-torch.cat(back)))
    return Bounds(x, torch.cat(lower), torch.cat(upper))


# ------------------------------------------------------------------------------------------------------------- annealing
def _schedule(temperatures: int, leapfrog: int) -> Tensor:
    """Return t_0 = 0 < ... < t_T = 1, dense at both ends, as a sigmoid's values at equal steps."""
    check_counts("temperatures", temperatures, 1, leapfrog)
    s = torch.sigmoid(
        torch.linspace(-_STEEPNESS, _STEEPNESS, temperatures + 1, dtype=torch.float64)
    )
    return (s - s[0]) / (s[-1] - s[0])


def _anneal(path: Path, u: Tensor, ts: Tensor, steps: Tensor, leapfrog: int) -> Tensor:
    """Return log w of each chain, with shape (K, B), at temperatures that rise or, backwards, fall."""
    log_w = u.new_zeros(u.shape[:-1], dtype=torch.float64)
    for i, (here, there) in enumerate(zip(ts.tolist(), ts.tolist()[1:], strict=False)):
        first, last = path.ends(u)
        log_w += abs(there - here) * (last - first)
        if i < len(steps):  # a move at the end would change no weight
            u, _ = hmc.move(path.at(there), u, steps[i], leapfrog)
    return log_w


def _step_sizes(path: Path, ts: Tensor, leapfrog: int) -> Tensor:
    """Anneal pilots and return the step sizes that each row comes to at the inner temperatures, with shape (T - 1, B)."""
    u, found = path.start(), []
    eps = step_sizes_at_first(u)
    for i, t in enumerate(ts[1:-1].tolist()):
        for _ in range(1 if i else _SETTLING):
            u, accepted = hmc.move(path.at(t), u, eps, leapfrog)
            eps = hmc.adapted(eps, accepted, _GAIN)
        found.append(eps)
    return torch.stack(found) if found else eps.new_empty(0, len(eps))


# ------------------------------------------------------------------------------------------------------------ simulation
def _simulate(graph: Any, rows: int, *c: Array) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw rows from the model; return x, and the latents that made it."""
    empty = torch.empty(rows, 0)  # a model asks x only how many rows there are
    context = take(
        as_sources((torch.zeros(rows, 1), *c)), slice(None), *device_and_dtype(graph, (empty,))
    )[1:]
    trace = programs.record(poutine.uncondition(graph.model), empty, *context)
    x = programs.simulated(trace)
    drawn = [
        site
        for site in programs.sites(trace, observed=False)
        if not site["infer"].get("was_observed")
    ]
    return x["value"], {site["name"]: site["value"] for site in drawn}


def _with_latents(
    batches: Iterator[tuple[Tensors, list[int]]], z: dict[str, Tensor]
) -> Iterator[tuple[Tensors, list[int], dict[str, Tensor]]]:
    done = 0
    for batch, sizes in batches:
        rows = slice(done, done + len(batch[0]))
        yield batch, sizes, {name: value[rows] for name, value in z.items()}
        done = rows.stop


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))
