# %% [markdown]
# # 08 · Flows
#
# A Gaussian posterior q(z | x) can be too simple, and so can a Gaussian prior p(z). A normalizing
# flow is an invertible transformation of a Gaussian, with learned parameters. For the posterior,
# sampling must be fast: this is the inverse autoregressive flow (IAF). For the prior, the density
# of given values must be fast: this is the inverse of an IAF, a masked autoregressive flow.
#
#     z_0 = mu(x) + sigma(x) eps,   z_t = m_t + s_t z_{t-1},   (m_t, s_t) = net_t(z_{t-1}, h(x))
#     log q(z_T | x) = log N(eps; 0, I) - sum_d log sigma_d - sum_t sum_d log s_td
#
# "Autoregressive" means that m_t and s_t of dimension d depend only on the dimensions before d. The
# Jacobian dz_t / dz_{t-1} is therefore triangular, and its determinant is the product of the s_td.
#
#     python tutorials/08_flows.py --quick      # embedded digits, under a minute
#     python tutorials/08_flows.py              # MNIST, from PYROVAE_DATA; minutes

# %%
import argparse
import json
import math
import sys
import time
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import nn

import pyrovae as pv
from pyrovae import datasets, nets, objectives, posteriors, priors

parser = argparse.ArgumentParser(
    description="The inverse autoregressive flow, plain and stable; a flow prior."
)
parser.add_argument(
    "--quick", action="store_true", help="embedded 8 x 8 digits instead of MNIST, fewer steps"
)
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
result = {}  # the numbers that this script computes, printed at its end


def show(figure, name):
    """Save a picture."""
    figure.savefig(options.output / f"08_{name}.png", dpi=110)


# %% [markdown]
# ## The determinant, checked
#
# A flow of three steps in five dimensions; the order of the dimensions is reversed between steps.
# The Jacobian of z_T with respect to z_0 is computed by automatic differentiation. The Jacobian of
# each step is triangular in the order of that step, their product is a full matrix, and its log
# determinant is the sum that the flow computes. The gated form z_t = g z_{t-1} + (1 - g) m, g =
# sigmoid(.), is numerically stable: it starts near the identity, and its scale g is always below 1.

# %%
D, H = 5, 4
for gated in (False, True):
    flow = posteriors.IAF(
        nn.Linear(3, 2 * D + H), D, steps=3, hidden=(32,), context=H, gated=gated
    ).double()
    q = flow(torch.randn(3, dtype=torch.double))

    def steps(z0, q=q):
        """Return z_T as a function of z_0."""
        for transform in q.transforms:
            z0 = transform(z0)
        return z0

    z0 = q.base_dist.sample()
    exact = torch.linalg.slogdet(torch.func.jacrev(steps)(z0)).logabsdet
    z = steps(z0)
    reported = q.base_dist.log_prob(z0) - q.log_prob(z)
    name = "gated" if gated else "plain"
    print(f"{name}: log |det| {exact:.10f} by autograd, {reported:.10f} by the sum over log s")
    result[f"determinant_error_{name}"] = abs(exact - reported).item()

# %% [markdown]
# ## A posterior that a Gaussian cannot fit
#
# Two latents, one observation: z ~ N(0, I), and x is a *nonlinear* function of z plus a little
# noise.
#
#     banana  x = z_2 + z_1^2 + noise          ring  x = z_1^2 + z_2^2 + noise
#
# The exact posterior is p(z) p(x | z) / p(x), and in two dimensions p(x) can be computed by
# integration over a grid. The gap KL(q || p(z | x)) = log p(x) - ELBO can therefore be measured
# accurately. A likelihood is any module whose `forward` returns a distribution.


# %%
class Measured(pv.conditional.Conditional):
    """p(x | z) = N(f(z), 0.2^2), without parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z, *c):
        """Return p(x | z), event shape (1,)."""
        return dist.Normal(self.function(z)[..., None], 0.2).to_event(1)


worlds = {
    "banana": (lambda z: z[..., 1] + z[..., 0] ** 2, 1.0),
    "ring": (lambda z: z.square().sum(-1), 2.0),
}
STEPS, ROWS = (800, 64) if options.quick else (6000, 128)


def encoder(outputs):
    """Return a small network whose input is the single number x."""
    return nets.MLP(1, [32], outputs, activation=nn.Tanh)


kinds = {
    "diagonal": lambda: posteriors.DiagonalNormal(encoder(4)),
    "full rank": lambda: posteriors.FullRankNormal(encoder(5)),
    "mixture of 8": lambda: posteriors.Mixture(encoder(8 * 5), 2, components=8),
    "IAF, 4 steps": lambda: posteriors.IAF(encoder(4 + 16), 2, steps=4, hidden=(64,), context=16),
}
axis_values = torch.linspace(-3, 3, 301)
grid = torch.cartesian_prod(axis_values, axis_values)  # (301^2, 2)
cell = (6 / 300) ** 2
figure = Figure(figsize=(12, 5.2), layout="constrained")
panels = figure.subplots(2, 5, sharex=True, sharey=True)
for row, (world, (function, value)) in zip(panels, worlds.items(), strict=True):
    x = torch.full((ROWS, 1), value)
    likelihood = Measured(function)
    joint = priors.StandardNormal(2)().log_prob(grid) + likelihood(grid).log_prob(x[:1])
    log_p = (joint.logsumexp(0) + math.log(cell)).item()
    posterior = (joint - log_p).exp().reshape(301, 301)
    row[0].contourf(axis_values, axis_values, posterior.T, levels=12, cmap="Blues")
    row[0].set(title=f"{world}: exact posterior")
    print(f"\n{world}, log p(x) = {log_p:.4f}")
    for panel, (name, make) in zip(row[1:], kinds.items(), strict=True):
        torch.manual_seed(0)
        vae = pv.VAE(priors.StandardNormal(2), make(), likelihood)
        settings = dict(objective=objectives.SGVB_A(), progress=False, batch_size=ROWS)
        adam, fine = (partial(torch.optim.Adam, lr=rate) for rate in (5e-3, 5e-4))
        pv.fit(vae, x, epochs=STEPS, optimizer=adam, seed=0, **settings)
        pv.fit(vae, x, epochs=STEPS // 4, optimizer=fine, seed=1, **settings)
        with torch.no_grad(), pyro.validation_enabled(False):
            # in float64, since far from its mass the inverse of a flow takes large values
            # (they can still overflow, hence `nan_to_num`)
            vae, x0 = vae.double(), x[:1].double()
            q = vae.posterior(x0)
            z = q.sample((50_000,))
            log_w = vae.prior().log_prob(z) + likelihood(z).log_prob(x0) - q.log_prob(z)
            elbo = log_w.mean().item()
            log_q = q.log_prob(grid[:, None].double()).squeeze(-1)
            density = log_q.exp().nan_to_num(0.0).reshape(301, 301)
        gap, integral = log_p - elbo, (density.sum() * cell).item()
        print(f"  {name:14s} ELBO {elbo:8.4f}, gap {gap:.4f}; q integrates to {integral:.4f}")
        result[f"gap_{world}_{name}"], result[f"integral_{world}_{name}"] = gap, integral
        panel.contourf(axis_values, axis_values, density.T, levels=12, cmap="Oranges")
        panel.contour(
            axis_values, axis_values, posterior.T, levels=3, colors="k", linewidths=0.5, alpha=0.6
        )
        panel.set(title=f"{name}: gap {gap:.2f}")
show(figure, "posteriors")

# %% [markdown]
# The flow fits the banana. It cannot fit the ring exactly: a flow is continuous with a continuous
# inverse, and no such map turns a plane into a ring, so its density has a cut somewhere. A mixture
# could fit the ring, but KL(q || p) does not force q to cover all of p, and here all components
# collapsed onto one piece of the ring: a local optimum. Which posterior is best depends on the
# data; each is one argument.
#
# ## Only one direction is fast
#
# A draw takes T passes through small networks, and they give its density too. The density of
# *another* z requires the inverse of the flow, one dimension after the other: D passes per step.

# %%
D = 40
flow = posteriors.IAF(nn.Linear(10, 2 * D + 40), D)
with torch.no_grad():
    q = flow(torch.randn(128, 10))
    own, foreign = [], []
    for _ in range(5):
        started = time.perf_counter()
        z = q.sample()
        log_q = q.log_prob(z)
        own.append(time.perf_counter() - started)
        started = time.perf_counter()
        again = q.log_prob(z.clone())
        foreign.append(time.perf_counter() - started)
slower = min(foreign) / min(own)
print(
    f"\n40 latents: draw with density {1e3 * min(own):.1f} ms, "
    f"density of a given z {1e3 * min(foreign):.1f} ms: {slower:.0f} times"
)
result["inverse_slower"], result["inverse_error"] = slower, (again - log_q).abs().max().item()

# %% [markdown]
# ## A flow prior
#
# The prior p(z) can be a flow as well. Averaged over the data, the posteriors q(z | x) should equal
# the prior; where they do not, samples z ~ p(z) fall into regions that correspond to no x of the
# data. With two latents this can be plotted: the flow takes the shape of the latent representation,
# while the standard normal forces its own shape on it. With so few images the flow does not improve
# log p(x); for MNIST see the table in the README.

# %%
data = datasets.digits() if options.quick else datasets.mnist()
x, x_test = (torch.from_numpy(part).flatten(1).float() for part in (data.x, data.x_test))
x, x_test = x / x.max(), (x_test / x_test.max() > 0.5).float()[:400]
PIXELS, WIDTH = x.shape[1], (64 if options.quick else 300)
figure = Figure(figsize=(9, 4.4), layout="constrained")
panels = figure.subplots(1, 2, sharex=True, sharey=True)
axis_values = torch.linspace(-4.5, 4.5, 201)
grid = torch.cartesian_prod(axis_values, axis_values)
compared = {"standard normal": priors.StandardNormal(2), "flow": priors.Flow(2, hidden=(64,))}
for panel, (name, prior) in zip(panels, compared.items(), strict=True):
    torch.manual_seed(0)
    q, p = nets.MLP(PIXELS, [WIDTH], 4), nets.MLP(2, [WIDTH], PIXELS)
    vae = pv.VAE(prior, posteriors.DiagonalNormal(q), pv.likelihoods.Bernoulli(p))
    settings = dict(
        transform=pv.batches.binarize,
        objective=objectives.SGVB_B(beta=objectives.warm_up(0.25)),
        progress=False,
    )
    pv.fit(
        vae,
        x,
        epochs=150 if options.quick else 20,
        optimizer=partial(torch.optim.Adam, lr=3e-3),
        seed=0,
        **settings,
    )
    evidence = pv.log_evidence(vae, x_test, samples=500)
    print(
        f"{name:16s} prior: log p(x) {evidence.log_p.mean():.2f} nats, "
        f"standard error over images {evidence.log_p.std() / 20:.2f}"
    )
    result[f"log_p_{name}"] = evidence.log_p.mean().item()
    with torch.no_grad():
        density = prior().log_prob(grid).exp().reshape(201, 201)
    z = pv.embed(vae, x_test)
    labels = data.labels_test[: len(z)]
    panel.contour(
        axis_values, axis_values, density.T, levels=10, colors="k", linewidths=0.6, alpha=0.7
    )
    panel.scatter(z[:, 0], z[:, 1], c=labels, cmap="tab10", s=7)
    panel.set(
        title=f"{name} prior (lines), posterior means (dots)", xlim=(-4.5, 4.5), ylim=(-4.5, 4.5)
    )
show(figure, "prior")

# %%
print("RESULT", json.dumps(result))
