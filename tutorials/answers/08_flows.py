# %% [markdown]
# # Answers to 08 · Flows
#
# **1.** It depends on the seed: four gated steps close the ring from some seeds, and from others
# they stay at a part of it, with a gap that is larger by a nat or more. Plain steps often do
# better: at this learning rate nothing has to be stabilized, and a gate limits each step to a
# contraction. With two seeds each they are ahead on average; a gap is a KL, so none is negative.
#
# **2.** $\lVert z\rVert$ has a chi distribution with $D$ degrees of freedom, whose mean is
# $\sqrt2\,\Gamma((D+1)/2)/\Gamma(D/2)$: 1.2533 for $D=2$, and $\sqrt D\,(1-1/(4D)+\dots)$ for
# large $D$.

# %%
import math
from functools import partial

import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pv
from pyrovae import nets, objectives, posteriors, priors


class Ring(pv.conditional.Conditional):
    def forward(self, z, *c):
        return dist.Normal(z.square().sum(-1, keepdim=True), 0.2).to_event(1)


line = torch.linspace(-3, 3, 201)
grid, prior, x = torch.cartesian_prod(line, line), priors.StandardNormal(2), torch.tensor([[2.0]])
log_p = (prior().log_prob(grid) + Ring()(grid).log_prob(x)).logsumexp(0) + 2 * math.log(6 / 200)
gaps = {True: [], False: []}  # gated or plain
for seed in (0, 1):
    for gated in (True, False):
        torch.manual_seed(seed)
        net = nets.MLP(1, [32], 20, activation=nn.Tanh)
        q = posteriors.IAF(net, 2, steps=4, hidden=(64,), context=16, gated=gated)
        graph = pv.VAE(prior, q, Ring())
        how = {"objective": objectives.SGVB_A(), "batch_size": 64, "progress": False}
        adam = partial(torch.optim.Adam, lr=5e-3)
        pv.fit(graph, x.expand(1_280, 1), epochs=24, optimizer=adam, seed=seed, **how)
        gaps[gated].append((log_p - pv.elbo(graph, x, samples=5_000).elbo.mean()).item())
        print(f"seed {seed}, gated {gated}: gap {gaps[gated][-1]:.2f}")
assert min(gaps[True] + gaps[False]) > -0.05
assert sum(gaps[False]) < sum(gaps[True])

# %%
for d in (2, 10, 100):
    mean = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    radius = torch.randn(100_000, d).norm(dim=1)
    assert abs(radius.mean() - mean) < 4.5 * radius.std() / len(radius) ** 0.5
    assert abs(mean / math.sqrt(d) - (1 - 1 / (4 * d))) < 0.1 / d
