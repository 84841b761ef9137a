# %% [markdown]
# # Answers to 09 · Maps
#
# **1.** The prior's entries are independent, so for any $q=N(m,\Sigma)$
#
# $$\mathrm{KL}(q\Vert p)=\sum_j\mathrm{KL}(q_j\Vert p_j)
#   +\tfrac12\Bigl(\sum_j\log\Sigma_{jj}-\log\det\Sigma\Bigr).$$
#
# The last term is what correlations cost. It is zero for diagonal factors and positive for dense
# ones. It buys a posterior that is nearer to the exact one: a dense posterior contains the diagonal
# ones, so its best ELBO at one decoder is never lower. The short training below does not get there:
# it ends less than a nat above independent pixels.

# %%
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, objectives, posteriors, priors
from pyrovae.distributions import kl_divergence

x = torch.from_numpy(datasets.digits().x).float() / 16
N, d, shape = 3, 4, x.shape[1:]
bits = torch.bernoulli(x[:200], generator=torch.Generator().manual_seed(0))
latents, cost, bound = N * d * d, {}, {}
for dense in (False, True):
    torch.manual_seed(0)
    f = nets.MLP(shape, [128], posteriors.MatrixNormal.parameters_of(N, d, dense=dense))
    q = posteriors.MatrixNormal(f, N, d, dense=dense)
    p = likelihoods.Bernoulli(nets.MapDecoder(N, d, shape, (16,)))
    graph = pv.VAE(priors.StandardNormal(latents), q, p)
    how = {"objective": objectives.SGVB_B(beta=objectives.warm_up(0.5)), "learning_rate": 5e-3}
    how |= {"epochs": 20, "batch_size": 100, "progress": False, "seed": 0}
    pv.fit(graph, x, transform=pv.batches.binarize, **how)
    with torch.no_grad():
        maps = graph.posterior(x[:200]).maps
        variance = maps.variance.flatten(1)
        whole = kl_divergence(graph.posterior(x[:200]), graph.prior().expand((200,)))
        marginal = Normal(maps.loc.flatten(1), variance.sqrt())
        alone = torch.distributions.kl_divergence(marginal, Normal(0.0, 1.0)).sum(1)
        logdet = torch.logdet(maps.covariance_matrix).sum(1)
    cost[dense] = (variance.log().sum(1) - logdet) / 2
    assert torch.allclose(whole, alone + cost[dense], atol=1e-2)
    bound[dense] = pv.elbo(graph, bits, samples=5).elbo.mean().item()
    print(
        f"dense {dense}: KL {whole.mean():.2f}, of that for correlations {cost[dense].mean():.2f}"
    )
pixel = Bernoulli(x.mean(0).clamp(1e-3, 1 - 1e-3)).log_prob(bits).sum((1, 2, 3)).mean().item()
print("ELBO:", bound, "independent pixels:", pixel)
assert cost[False].abs().max() < 1e-3 < 0.05 < cost[True].mean()

# %% [markdown]
# **2.** A convolution reaches one row further, and an upsampling from $n$ to $m$ rows puts row $i$
# where $\lfloor im/n\rfloor$ says. From the top row of three: 2 rows, then 5 of 7; 6, then 12 of
# 14; 13, then 26 of 28; and two more convolutions reach all 28. The picture has to be larger, or
# the maps, or the scales fewer, if a row is to mean a part.

# %%
rows = 1
for size in (7, 14, 28):
    old = {7: 3, 14: 7, 28: 14}[size]
    rows = sum(row * old // size <= rows for row in range(size))
rows += 2
decoder = nn.Sequential(nets.MapDecoder(64, 3, (1, 28, 28))).double()
z = torch.randn(64, 3, 3).double()
moved = torch.where(torch.arange(3)[:, None] == 0, z + 1, z)
change = (decoder(z.flatten()[None]) - decoder(moved.flatten()[None])).abs().sum((0, 1, 3))
print(f"counted {rows}, changed {int((change > 0).sum())} rows of 28")
assert rows == 28 == (change > 0).sum()
