# %% [markdown]
# # 08 · Flows
#
# A Gaussian posterior q(z | x) can be too simple, and so can a Gaussian prior p(z). A flow bends a Gaussian until it fits: the inverse
# autoregressive flow (IAF) for the posterior, where draws must be quick, and its inverse for the prior, where densities must be.
#
#     z_0 = mu(x) + sigma(x) eps,   z_t = m_t + s_t z_{t-1},   (m_t, s_t) = net_t(z_{t-1}, h(x))
#     log q(z_T | x) = log N(eps; 0, I) - sum_d log sigma_d - sum_t sum_d log s_td
#
# "Autoregressive": m_t and s_t of dimension d depend on the dimensions before d only, so dz_t / dz_{t-1} is triangular and its
# determinant is the product of the s.
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
from pyrovae import nets, objectives, posteriors, priors
from pyrovae.data import datasets

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
result = {}  # the numbers this script stands for, printed at its end


def show(figure, name):
    """Save a picture."""
    figure.savefig(options.output / f"08_{name}.png", dpi=110)


# %% [markdown]
# ## The determinant, looked at
#
# One flow of three steps in five dimensions, its order reversed between steps. The whole Jacobian of z_T in z_0, by automatic
# differentiation: each single step's is triangular in its own order, the product of all is full, and its log determinant is the sum
# that the flow reports. The gated form z_t = g z_{t-1} + (1 - g) m, g = sigmoid(.), is the numerically stable one: it starts near the
# identity, and no s can explode.

# %%
D, H = 5, 4
for gated in (False, True):
    flow = posteriors.IAF(
        nn.Linear(3, 2 * D + H), D, steps=3, hidden=(32,), context=H, gated=gated
    ).double()
    q = flow(torch.randn(3, dtype=torch.double))

    def steps(z0, q=q):
        """Return z_T of z_0."""
        for transform in q.transforms:
            z0 = transform(z0)
        return z0

    z0 = q.base_dist.sample()
    exact = torch.linalg.slogdet(torch.func.jacrev(steps)(z0)).logabsdet
    z = steps(z0)
    reported = q.base_dist.log_prob(z0) - q.log_prob(z)
    print(
        f"{'gated' if gated else 'plain'}: log |det| {exact:.10f} by autograd, {reported:.10f} by the sum over log s"
    )
    result[f"determinant_error_{'gated' if gated else 'plain'}"] = abs(exact - reported).item()

# %% [markdown]
# ## A posterior that a Gaussian cannot fit
#
# Two latents, one datum: z ~ N(0, I), and x measures a *curved* function of z with a little noise.
#
#     banana  x = z_2 + z_1^2 + noise          ring  x = z_1^2 + z_2^2 + noise
#
# The exact posterior is p(z) p(x | z) / p(x), and in two dimensions p(x) is an integral over a grid. So the gap
# KL(q || p(z | x)) = log p(x) - ELBO can be measured without error. A likelihood is any module whose forward returns a distribution.


# %%
class Measured(pv.conditional.Conditional):
    """p(x | z) = N(f(z), 0.2^2), nothing to be learned."""

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
    """Return a small network of the one number x."""
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
    likelihood = Measured(function)  # nothing in it is trained
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
        pv.fit(
            vae, x, epochs=STEPS, optimizer=partial(torch.optim.Adam, lr=5e-3), seed=0, **settings
        )
        pv.fit(
            vae,
            x,
            epochs=STEPS // 4,
            optimizer=partial(torch.optim.Adam, lr=5e-4),
            seed=1,
            **settings,
        )
        with torch.no_grad(), pyro.validation_enabled(False):
            vae, x0 = (
                vae.double(),
                x[:1].double(),
            )  # far from its mass a flow's inverse runs into large numbers, and past them
            q = vae.posterior(x0)
            z = q.sample((50_000,))
            elbo = (
                (vae.prior().log_prob(z) + likelihood(z).log_prob(x0) - q.log_prob(z)).mean().item()
            )
            density = (
                q.log_prob(grid[:, None].double())
                .squeeze(-1)
                .exp()
                .nan_to_num(0.0)
                .reshape(301, 301)
            )
        print(
            f"  {name:14s} ELBO {elbo:8.4f}, gap {log_p - elbo:.4f}; q integrates to {density.sum() * cell:.4f}"
        )
        result[f"gap_{world}_{name}"], result[f"integral_{world}_{name}"] = (
            log_p - elbo,
            (density.sum() * cell).item(),
        )
        panel.contourf(axis_values, axis_values, density.T, levels=12, cmap="Oranges")
        panel.contour(
            axis_values, axis_values, posterior.T, levels=3, colors="k", linewidths=0.5, alpha=0.6
        )
        panel.set(title=f"{name}: gap {log_p - elbo:.2f}")
show(figure, "posteriors")

# %% [markdown]
# The flow follows the banana. The ring it must cut somewhere: a flow is continuous with a continuous inverse, and no such map makes a ring of
# a plane. A mixture could, but KL(q || p) is content with a piece of p, and its components fell together on one: an optimum, though not
# the best. Which posterior to take is a question to the data; each is one argument.
#
# ## One way is quick
#
# A draw takes T passes through small networks, and its density comes along. The density of *another* z must be solved for, one
# dimension after the other: D passes a step.

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
    f"\n40 latents: own draw {1e3 * min(own):.1f} ms, the same z as if from elsewhere {1e3 * min(foreign):.1f} ms: {slower:.0f} times"
)
result["inverse_slower"], result["inverse_error"] = slower, (again - log_q).abs().max().item()

# %% [markdown]
# ## A flow prior
#
# The other Gaussian, p(z), may be bent instead. Averaged over the data, the posteriors q(z | x) should make up the prior; where they do not,
# samples z ~ p(z) fall into holes that no x ever came from. With two latents it can be looked at: the flow takes the shape of the codes,
# where the standard normal makes the codes take its own. On so few images that is all it does; log p(x) on MNIST is in README's table.

# %%
data = datasets.digits() if options.quick else datasets.mnist()
x, x_test = (torch.from_numpy(part).flatten(1).float() for part in (data.x, data.x_test))
x, x_test = x / x.max(), (x_test / x_test.max() > 0.5).float()[:400]
PIXELS, WIDTH = x.shape[1], (64 if options.quick else 300)
figure = Figure(figsize=(9, 4.4), layout="constrained")
panels = figure.subplots(1, 2, sharex=True, sharey=True)
axis_values = torch.linspace(-4.5, 4.5, 201)
grid = torch.cartesian_prod(axis_values, axis_values)
for panel, (name, prior) in zip(
    panels,
    {"standard normal": priors.StandardNormal(2), "flow": priors.Flow(2, hidden=(64,))}.items(),
    strict=True,
):
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
        f"{name:16s} prior: log p(x) {evidence.log_p.mean():.2f} nats, standard error over images {evidence.log_p.std() / 20:.2f}"
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
