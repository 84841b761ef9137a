# %% [markdown]
# # 04 · Estimators
#
# One bound has several estimators of its gradient. The notes reject the naive estimator because its
# variance is too high; here the variance is measured, and so are the gain and the cost of tighter
# bounds. The last section treats training as E-step and M-step, and compares AEVB with Monte Carlo
# EM and wake-sleep.
#
#     d/dphi E_q[f(z)]
#         = E_q[ f(z) d/dphi log q(z) ]           score function (the naive estimator of the notes)
#         = E_eps[ d/dphi f(mu + sigma eps) ]     reparameterization trick (SGVB)
#
#     python tutorials/04_estimators.py --quick      # embedded digits, under a minute
#     python tutorials/04_estimators.py              # MNIST, from PYROVAE_DATA; ten minutes

# %%
import argparse
import json
import math
import sys
import time
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

import pyrovae as pv
from pyrovae import datasets, objectives, plots

parser = argparse.ArgumentParser(
    description="Score function, SGVB A and B, IWAE, DReG, Monte Carlo EM, wake-sleep."
)
parser.add_argument("--quick", action="store_true", help="embedded 8 x 8 digits instead of MNIST")
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
result = {}  # the numbers that this script computes, printed at its end


def show(figure, name):
    """Save a picture."""
    figure.savefig(options.output / f"04_{name}.png", dpi=110)


# %% [markdown]
# ## One dimension, by hand
#
# Take f(z) = z^2 and q = N(mu, 1). Then E f = mu^2 + 1, and the gradient with respect to mu is 2
# mu. One draw z = mu + eps gives
#
#     score function                      z^2 eps          mean 2 mu,  variance mu^4 + 14 mu^2 + 15
#     score function, baseline b = E f    (z^2 - b) eps    mean 2 mu,  variance 8 mu^2 + 10
#     reparameterized                     2 (mu + eps)     mean 2 mu,  variance 4
#
# The first variance grows with the *size* of f, although only its slope matters: f and f + 1000
# have the same gradient. A baseline removes the size. For b = E f = mu^2 + 1, (z^2 - b) eps = (2 mu
# eps + eps^2 - 1) eps, whose variance is 8 mu^2 + 10. The reparameterization trick uses the slope
# itself.

# %%
mu, eps = 3.0, torch.randn(2_000_000, dtype=torch.double)
z = mu + eps
one = {  # name: (draws of the gradient, exact variance)
    "score function": (z**2 * eps, mu**4 + 14 * mu**2 + 15),
    "with b = E f": ((z**2 - (mu**2 + 1)) * eps, 8 * mu**2 + 10),
    "reparameterized": (2 * z, 4.0),
}
result["one_dimension"] = {}
for name, (g, variance) in one.items():
    off = (g.mean() - 2 * mu).abs().item() / (g.std().item() / math.sqrt(len(g)))
    print(
        f"{name:16s} mean {g.mean():6.3f} (exactly {2 * mu:.0f}), "
        f"variance {g.var():8.2f} (exactly {variance:.0f})"
    )
    result["one_dimension"][name] = {"z_score": off, "variance_ratio": g.var().item() / variance}

# %% [markdown]
# ## A VAE's gradient
#
# The same comparison at the weights of a briefly trained VAE. For one minibatch, the gradient of
# the *guide* is sampled many times with each estimator. SGVB A samples both terms of the bound,
# SGVB B has the KL in closed form. All of them estimate the same gradient: the means agree within
# their standard errors.

# %%
data = datasets.digits() if options.quick else datasets.mnist()
x, x_test = (torch.from_numpy(part).flatten(1).float() for part in (data.x, data.x_test))
x, x_test = x / x.max(), (x_test / x.max() > 0.5).float()[: 300 if options.quick else 500]
PIXELS, D, WIDTH = x.shape[1], (8 if options.quick else 20), (64 if options.quick else 200)


def vae():
    """Return a new VAE; its initial weights are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        q = pv.posteriors.DiagonalNormal(pv.nets.MLP(PIXELS, [WIDTH], 2 * D, activation=nn.Tanh))
        p = pv.likelihoods.Bernoulli(pv.nets.MLP(D, [WIDTH], PIXELS, activation=nn.Tanh))
        return pv.VAE(pv.priors.StandardNormal(D), q, p)


def gradients(graph, objective, batch, draws):
    """Return draws of the guide's gradient of the mean loss, with shape (draws, parameters)."""
    weights = list(graph.posterior.parameters())
    losses = (
        objective.differentiable_loss(graph.model, graph.guide, batch) / len(batch)
        for _ in range(draws)
    )
    return torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]) for loss in losses]
    ).double()


graph = vae()
pv.fit(
    graph,
    x,
    epochs=60 if options.quick else 3,
    transform=pv.batches.binarize,
    seed=0,
    progress=False,
)
batch = torch.bernoulli(x[:50])
L, DRAWS = 5, (300 if options.quick else 500)
estimators = {
    "score function": objectives.ScoreFunction(),
    "score function, running mean": objectives.ScoreFunction(baseline=objectives.RunningMean()),
    f"score function, {L}, leave one out": objectives.ScoreFunction(
        samples=L, baseline=objectives.LeaveOneOut()
    ),
    "SGVB A": objectives.SGVB_A(),
    "SGVB B": objectives.SGVB_B(),
    f"SGVB B, {L}": objectives.SGVB_B(samples=L),
}
draws = {
    name: gradients(graph, objective, batch, DRAWS)[5:] for name, objective in estimators.items()
}
variance = {name: g.var(0).sum().item() for name, g in draws.items()}
reference = draws[f"SGVB B, {L}"]
print(f"\n{'':34s}{'variance':>12s}{'of SGVB B':>11s}{'mean agrees':>14s}")
result["relative_variance"], result["means_agree"] = {}, {}
for name, g in draws.items():
    error = ((g.var(0) + reference.var(0)) / len(g)).sqrt()
    moved = error > 0
    z_scores = (g.mean(0) - reference.mean(0))[moved] / error[moved]
    off = (z_scores**2).mean().item()  # 1 if the expectations are equal
    relative = variance[name] / variance["SGVB B"]
    result["relative_variance"][name], result["means_agree"][name] = relative, off
    print(f"{name:34s}{variance[name]:12.4g}{relative:11.3g}{off:14.2f}")

# %% [markdown]
# A minibatch of 100 and one draw per observation are enough for SGVB (M = 100, L = 1 in the notes).
# The middle column, the variance relative to SGVB B, is also the number of draws with which the
# score function would reach the variance of SGVB B. The effect on training, with the same number of
# steps, the same learning rate and five draws for each estimator:

# %%
curves = {}
contestants = {
    "score function": objectives.ScoreFunction(samples=L),
    "score function, leave one out": objectives.ScoreFunction(
        samples=L, baseline=objectives.LeaveOneOut()
    ),
    "SGVB A": objectives.SGVB_A(samples=L),
    "SGVB B": objectives.SGVB_B(samples=L),
}
for name, objective in contestants.items():
    fresh = vae()
    history = pv.fit(
        fresh,
        x,
        validation=x_test,
        objective=objective,
        epochs=80 if options.quick else 6,
        transform=pv.batches.binarize,
        seed=0,
        progress=False,
    )
    curves[name] = history.validation_elbo
    print(f"{name:34s} validation ELBO {curves[name][-1]:8.2f}")
result["trained"] = {name: curve[-1] for name, curve in curves.items()}

figure = Figure(figsize=(11, 3.8), layout="constrained")
left, right = figure.subplots(1, 2)
names = list(variance)[::-1]
left.barh(
    names,
    [variance[name] / variance["SGVB B"] for name in names],
    color=[plots.ORANGE if "score" in n else plots.BLUE for n in names],
)
left.set(xscale="log", title="Variance of the guide's gradient, SGVB B = 1")
for (name, curve), colour in zip(
    curves.items(), (plots.ORANGE, plots.GREEN, plots.GREY, plots.BLUE), strict=True
):
    right.plot(range(1, len(curve) + 1), curve, color=colour, label=name)
right.set(title="The same network and steps", xlabel="epoch", ylabel="validation ELBO, nats")
right.legend(frameon=False)
right.grid(alpha=0.3)
show(figure, "variance")

# %% [markdown]
# ## Tighter bounds: IWAE
#
#     L_K = E[ log (1 / K) sum_k w_k ],   w_k = p(x, z_k) / q(z_k | x)
#
# L_1 is the ELBO; L_K increases with K and stays below log p(x). (A mean of *logarithms* over K
# draws is the ELBO again, and a single weight for a whole minibatch gives a much looser bound:
# every image has its own weights.)
#
# A tighter bound does not mean a better gradient for the guide. As K grows, L_K depends less and
# less on q, and the signal of the gradient decreases faster than its noise (Rainforth et al. 2018).
# The doubly reparameterized gradient (DReG) does not have this problem: at large K its
# signal-to-noise ratio is many times that of IWAE. (Estimated from 150 draws, a ratio near 1 /
# sqrt(150) = 0.08 means that no signal was detected.)

# %%
sizes = [1, 4, 16, 64]
bounds = [
    sum(-objectives.IWAE(samples=k).loss(graph.model, graph.guide, x_test) for _ in range(10))
    / 10
    / len(x_test)
    for k in sizes
]
log_p = pv.log_evidence(graph, x_test, samples=2000).log_p.mean().item()


def signal_to_noise(objective):
    """Return the median over the guide's parameters of |mean| / standard deviation of one draw."""
    g = gradients(graph, objective, batch, 150)
    moved = g.std(0) > 0
    return (g.mean(0).abs()[moved] / g.std(0)[moved]).median().item()


ratios = {
    kind.__name__: [signal_to_noise(kind(samples=k)) for k in sizes]
    for kind in (objectives.IWAE, objectives.DReG)
}
print("\n     K       L_K   signal / noise: IWAE    DReG")
for i, k in enumerate(sizes):
    print(f"{k:6d}{bounds[i]:10.3f}{ratios['IWAE'][i]:23.3f}{ratios['DReG'][i]:8.3f}")
print(f"log p(x) {log_p:9.3f}")
result["bounds"], result["log_evidence"], result["signal_to_noise"] = bounds, log_p, ratios

figure = Figure(figsize=(10, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
left.semilogx(sizes, bounds, "o-", color=plots.BLUE, label="L_K")
left.axhline(log_p, color=plots.GREY, ls="--", label="log p(x), 2,000 samples")
left.set(title="The bound increases with K", xlabel="K", ylabel="nats per image")
for (name, ratio), colour in zip(ratios.items(), (plots.ORANGE, plots.GREEN), strict=True):
    right.loglog(sizes, ratio, "o-", color=colour, label=name)
right.set(title="Signal-to-noise ratio of the guide's gradient", xlabel="K")
for axis in (left, right):
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
show(figure, "iwae")

# %% [markdown]
# ## E-step and M-step
#
# EM alternates: the E-step sets q(z | x) to the posterior of the current model, the M-step updates
# the model at that q. A step of AEVB does a little of both at once, with one gradient of one bound.
# The AEVB paper compares with two older methods:
#
# * **Monte Carlo EM.** E-step: for each observation of the minibatch, a chain of Hamiltonian Monte
#   Carlo, which leaves p(z | x) invariant. M-step: a gradient of log p(x, z) at the last states of
#   the chains. The method needs no q, but one chain for each observation of each minibatch. (Here
#   the guide proposes the initial states of the chains, and is trained on their last states.)
# * **Wake-sleep.** Wake: the model is trained on z ~ q(z | x). Sleep: the guide is trained on
#   samples z, x ~ p of the model. The guide therefore minimizes KL(p || q), not KL(q || p): there
#   is no single bound that both steps increase.
#
# All methods use the same observations and epochs. They are compared by log p(x) of held-out
# images, estimated by importance sampling.

# %%
rows = x[:1000] if options.quick else x[:5000]
ways = {
    "AEVB (SGVB B)": objectives.SGVB_B(),
    "Monte Carlo EM": objectives.MonteCarloEM(steps=1, leapfrog=10),
    "wake-sleep": objectives.WakeSleep(),
    "reweighted wake-sleep, 5": objectives.ReweightedWakeSleep(samples=5),
}
warnings.simplefilter("ignore", pv.EvidenceWarning)  # early in training the guide is still far off
learned = {}
for name, objective in ways.items():
    fresh, points = vae(), []

    def record(history, fresh=fresh, points=points):
        """Record log p(x) of some held-out images every fifth epoch."""
        if len(history.loss) % 5 == 0:
            evidence = pv.log_evidence(fresh, x_test[:100], samples=200)
            points.append((len(history.loss), evidence.log_p.mean().item()))

    started = time.perf_counter()
    pv.fit(
        fresh,
        rows,
        objective=objective,
        epochs=30 if options.quick else 20,
        batch_size=50,
        transform=pv.batches.binarize,
        callback=record,
        seed=0,
        progress=False,
    )
    learned[name] = points
    print(f"{name:26s} log p(x) {points[-1][1]:8.2f}   {time.perf_counter() - started:5.1f} s")
result["learned"] = {name: points[-1][1] for name, points in learned.items()}
result["began"] = {name: points[0][1] for name, points in learned.items()}

figure = Figure(figsize=(5.8, 3.8), layout="constrained")
axis = figure.subplots()
for (name, points), colour in zip(
    learned.items(), (plots.BLUE, plots.GREEN, plots.ORANGE, plots.GREY), strict=True
):
    axis.plot(*zip(*points, strict=True), "o-", ms=3, color=colour, label=name)
axis.set(
    title=f"E-step and M-step, {len(rows)} images",
    xlabel="epoch",
    ylabel="log p(x) of held-out images, nats",
)
axis.legend(frameon=False)
axis.grid(alpha=0.3)
show(figure, "em")

# %%
print("RESULT", json.dumps(result))
