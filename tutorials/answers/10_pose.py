# %% [markdown]
# # Answers to 10 · Pose

# %%
import math

import torch
from torch import nn

import pyrovae as pv
from pyrovae import graphs, likelihoods, nets, posteriors, priors

torch.manual_seed(0)
s, n, shape = math.pi / 4, 4_000, (1, 5, 5)
theta = s * torch.randn(n, 1)

# %% [markdown]
# **1.** The term that is left out is $\mu^2/2s^2$. If angles are $N(0,s^2)$ and $\mu$ is the angle,
# its mean is 1/2: N4's sum is half a nat an image above the ELBO, whatever $s$ is. That is little
# beside an image, so that it does no harm to learning; but a comparison of log p must not have it.
# `PoseVAE(free_mean=True)` leaves the term out in training. Here "images" hold their angle in one
# pixel and the encoder reads it there, so that nothing is left to learn.


# %%
class KnownAngle(nn.Module):
    """Returns mu, the first pixel, and log sigma = 0."""

    def forward(self, x):
        return torch.stack([x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], -1)


net = nets.CoordinateDecoder(2, shape, [8])
graph = graphs.PoseVAE(
    priors.StandardNormal(2),
    posteriors.DiagonalNormal(nets.MLP(shape, [8], 4)),
    likelihoods.Gaussian(net, 1.0),
    shape=shape,
    rotation_prior=priors.CentredNormal(1, s),
    rotation_posterior=posteriors.DiagonalNormal(KnownAngle()),
    free_mean=True,
)
x = torch.zeros(n, *shape)
x[:, 0, 0, 0] = theta[:, 0]
losses = []
for training in (True, False):
    graph.train(training)
    torch.manual_seed(1)
    losses.append(pv.objectives.SGVB_B().loss(graph.model, graph.guide, x) / n)
left_out = losses[1] - losses[0]
print(f"left out: {left_out:.3f} nats an image")
assert abs(left_out - theta.square().mean() / (2 * s**2)) < 1e-3
assert abs(left_out - 0.5) < 4.5 * 0.5 * (2 / n) ** 0.5  # mu^2 / s^2 has variance 2

# %% [markdown]
# **2.** The place $t$ of the picture shows the place $R(\theta)t+\Delta x$ of the content. That is
# the content's centre 0 for $\Delta x=-R(\theta)t$. Everybody can see $t$ in the picture, without
# the angle; $\Delta x$ is known only when the angle is, and its error grows with that of the angle.
# So the guide of `PoseVAE` reads off $t$, and gets $\Delta x$ from it and the angle drawn.

# %%
grid = graphs.pixel_grid(41, 41)
t = grid[8, 26]  # of one pixel
dx = -graphs.posed_places(t.view(1, 1, 2), theta)[:, 0, 0]
distance = graphs.posed_places(grid, theta[:50], dx[:50]).norm(dim=-1)  # from the content's centre
assert (distance.flatten(1).argmin(1) == 8 * 41 + 26).all()
assert distance[:, 8, 26].max() < 1e-5
assert dx.std(0).min() > 0.1  # though the picture of the centre never moved
