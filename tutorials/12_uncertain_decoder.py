# %% [markdown]
# # 12 · The uncertain decoder
#
# A VAE infers z, but it uses a point estimate of the weights w of its decoder, as if they were
# known. With few images they are uncertain, and the point estimate overfits. Appendix F of
# "Auto-encoding variational Bayes" (Kingma & Welling 2014) makes w a latent variable too, with the
# same bound and the same reparameterization:
#
#     p(X, Z, w) = p(w) prod_i p(z_i) p(x_i | z_i, w)          p(w) = N(0, I)
#        q(Z, w) = q(w) prod_i q(z_i | x_i)                    q(w) = N(theta, diag sigma^2)
#
#     log p(X) >= sum_i ( E log p(x_i | z_i, w) - KL(q(z_i | x_i) || p(z_i)) ) - KL(q(w) || p(w))
#
#     python tutorials/12_uncertain_decoder.py --quick      # embedded digits, under a minute
#     python tutorials/12_uncertain_decoder.py              # MNIST, from PYROVAE_DATA; minutes

# %%
import argparse
import json
import math
import sys
import warnings
from pathlib import Path

import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import pyrovae as pv
from pyrovae import datasets, plots

parser = argparse.ArgumentParser(
    description="Full variational Bayes over the decoder's weights, against a point estimate."
)
parser.add_argument("--quick", action="store_true", help="embedded 8 x 8 digits instead of MNIST")
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
result = {}  # the numbers that this script computes, printed at its end


def show(figure, name):
    """Save a picture."""
    figure.savefig(options.output / f"12_{name}.png", dpi=110)


# %% [markdown]
# ## A case with a closed form
#
# Let the "decoder" depend on a context c only: x ~ N(c w, s^2). This is Bayesian linear regression,
# whose posterior and evidence have closed forms. If the columns of C are orthogonal, the covariance
# of the posterior is diagonal, like that of q(w):
#
#     p(w | X, C) = N( V C'X / s^2, V ),   V = diag( 1 / (1 + sum_i c_ij^2 / s^2) )
#     p(X | C) = N(0, C C' + s^2 I)
#
# In the library this is another graph (another pair of model and guide), `BayesianVAE`, which takes
# the same three parts as `VAE`. theta are the parameters of the likelihood, and `log_sigma` is a
# further tensor of parameters.


# %%
class OnContext(nn.Module):
    """f(z, c) = c w: z is not used."""

    def __init__(self, features):
        super().__init__()
        self.linear = nn.Linear(features, 1, bias=False)

    def forward(self, z, c):
        return self.linear(c)


class AsThePrior(nn.Module):
    """q(z | x) = N(0, I): there is nothing to infer."""

    def forward(self, x, c):
        return dist.Normal(torch.zeros(len(x), 1).double(), 1.0).to_event(1)


n, s = 24, 0.5
C = torch.linalg.qr(torch.randn(n, 3).double()).Q * torch.tensor([5.0, 2.0, 0.5])  # (n, 3)
X = C @ torch.randn(3, 1).double() + s * torch.randn(n, 1).double()
V = 1 / (1 + C.square().sum(0) / s**2)
marginal = MultivariateNormal(torch.zeros(n).double(), C @ C.T + s**2 * torch.eye(n))
log_evidence = marginal.log_prob(X[:, 0]).item()

parts = pv.priors.StandardNormal(1), AsThePrior(), pv.likelihoods.Gaussian(OnContext(3), sigma=s)
toy = pv.BayesianVAE(*parts, data_size=n).double()
with torch.no_grad():
    toy.likelihood.net.linear.weight.copy_((V * (C.T @ X)[:, 0] / s**2)[None])
    toy.log_sigma.copy_(V.log() / 2)
losses = torch.tensor(
    [pv.objectives.SGVB_A().loss(toy.model, toy.guide, X, C) for _ in range(5)], dtype=torch.double
)
print(
    f"log p(X) = {log_evidence:.6f}; "
    f"the bound at the exact posterior, for 5 draws of w: {(-losses).tolist()}"
)
result["regression_error"] = (losses + log_evidence).abs().max().item()

# %% [markdown]
# ## The scale of minibatches
#
# Each z belongs to one observation, w to all N. A minibatch of M observations is a fraction M / N
# of the data, so its loss must contain the fraction M / N of KL(q(w) || p(w)): then the losses of
# the minibatches of one epoch add up to the loss of the whole data. The graph scales the site "w"
# by this fraction, in the model *and* in the guide, and therefore needs N. A frequent mistake is to
# add the full KL for every minibatch: the KL then counts N / M times. Both are trained below.

# %%
whole = kl_divergence(toy.q_w(), dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)).item()
minibatches = list(zip(X.split(7), C.split(7), strict=True))  # 7, 7, 7 and 3 rows
kls = [
    pv.objectives.SGVB_B().bound(toy.model, toy.guide, *batch).kl["w"].item()
    for batch in minibatches
]
listed = " + ".join(f"{kl:.3f}" for kl in kls)
print(f"\nKL(q(w) || p(w)) = {whole:.6f}; from minibatches {listed} = {sum(kls):.6f}")
result["scale_error"] = abs(sum(kls) - whole)

# %% [markdown]
# ## Few images
#
# Binarized digits. The same networks are trained on N images, as a point estimate (`VAE`) and by
# full variational Bayes (`BayesianVAE`), and compared by the ELBO of test images. For full Bayes
# the ELBO is averaged over draws of w (`graph.draw()` returns a `VAE` with weights drawn from
# q(w)). The encoder is a point estimate in both.

# %%
data = datasets.digits() if options.quick else datasets.mnist()
white = data.total_count or 1  # the digits are counts from 0 to 16, MNIST has grey values in [0, 1]
images, test = (
    (torch.as_tensor(x).flatten(1).float() >= white / 2).float() for x in (data.x, data.x_test)
)
test = test[:500]
D = images.shape[1]
hidden, latents = (64, 5) if options.quick else (200, 10)
sizes = (50, 200, len(images)) if options.quick else (100, 1000, 5000)
steps, every = (1200, 100) if options.quick else (5000, 250)
batch, rate = 100, 1e-2 if options.quick else 2e-3
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))


def fresh(rows, full):
    """Return an untrained model for N = `rows` observations."""
    torch.manual_seed(1)
    parts = (
        pv.priors.StandardNormal(latents),
        pv.posteriors.DiagonalNormal(pv.nets.MLP(D, [hidden], 2 * latents)),
        pv.likelihoods.Bernoulli(pv.nets.MLP(latents, [hidden], D)),
    )
    return pv.BayesianVAE(*parts, data_size=rows, sigma=0.05) if full else pv.VAE(*parts)


def bound(graph, x):
    """Return the mean ELBO of images in nats, for full Bayes averaged over draws of the weights."""
    networks = [graph.draw() for _ in range(5)] if isinstance(graph, pv.BayesianVAE) else [graph]
    elbos = [pv.elbo(network, x, samples=5).elbo.mean().item() for network in networks]
    return sum(elbos) / len(networks)


def trained(graph, x):
    """Train, and return the curve as pairs (steps, test ELBO)."""
    an_epoch = math.ceil(len(x) / batch)
    curve = []

    def record(history):
        done = len(history.loss) * an_epoch
        if done // every > (done - an_epoch) // every:
            curve.append((done, bound(graph, test)))

    adam = lambda parameters: torch.optim.Adam(parameters, lr=rate)  # noqa: E731
    pv.fit(
        graph,
        x,
        optimizer=adam,
        epochs=steps // an_epoch,
        batch_size=batch,
        seed=0,
        callback=record,
        progress=False,
    )
    return curve


pixel = images.mean(0).clamp(1e-3, 1 - 1e-3)
floor = dist.Bernoulli(pixel).log_prob(test).sum(-1).mean().item()
print(f"\nindependent pixels: {floor:.1f} nats per test image")
graphs, curves = {}, {}
for size in sizes:
    for full in (False, True):
        graphs[size, full] = fresh(size, full)
        curves[size, full] = trained(graphs[size, full], images[order[:size]])
        best, last = max(value for _, value in curves[size, full]), curves[size, full][-1][1]
        on_training = bound(graphs[size, full], images[order[:size]])
        name = "full Bayes" if full else "point     "
        print(
            f"N = {size:5d}, {name}: test {last:7.1f} (best during training {best:6.1f}), "
            f"training {on_training:7.1f}"
        )
        result[f"{'full' if full else 'point'}_{sizes.index(size)}"] = {
            "last": last,
            "best": best,
            "training": on_training,
        }

# %% [markdown]
# Three observations.
#
# * The point estimate overfits, and more so with fewer images. Full Bayes converges, and its ELBO
#   on training images is much closer to its ELBO on test images. A good part of the remaining
#   difference is due to the encoder, which still overfits; the last section has log p(x) itself.
# * **Full Bayes is not better than a point estimate with early stopping** (which needs held-out
#   images), and with many images it is worse. A diagonal q(w) around one network is a poor
#   approximation of the posterior: its noise makes the reconstruction worse, and a weight for which
#   the data carry too little information goes back to the prior. With the fewest images its ELBO
#   ends below that of independent pixels (whose means come from *all* images).
# * KL(q(w) || p(w)) grows with the data, while the KL per observation decreases.

# %%
prices = {}
for size in sizes:
    q = graphs[size, True].q_w()
    prices[size] = kl_divergence(q, dist.Normal(torch.zeros(q.event_shape), 1.0).to_event(1)).item()
    print(
        f"N = {size:5d}: KL(q(w) || p(w)) = {prices[size]:6.0f} nats, "
        f"{prices[size] / size:.2f} per observation"
    )
result["price"] = [prices[size] / size for size in sizes]

# %%
figure = Figure(figsize=(12, 3.8), layout="constrained")
for axis, size in zip(figure.subplots(1, 3, sharey=True), sizes, strict=True):
    for full, colour in ((False, plots.ORANGE), (True, plots.BLUE)):
        axis.plot(
            *zip(*curves[size, full], strict=True),
            color=colour,
            label="full Bayes" if full else "point estimate",
        )
    axis.axhline(floor, color=plots.GREY, ls="--", lw=1, label="independent pixels")
    axis.set(title=f"N = {size}", xlabel="steps", ylim=(2.2 * floor, 0.6 * floor))
    axis.grid(alpha=0.3)
figure.axes[0].set_ylabel("test ELBO, nats per image")
figure.axes[-1].legend(frameon=False, loc="lower left")
show(figure, "overfitting")

# %% [markdown]
# ## The mistake, trained
#
# With the full KL in every *minibatch* (`data_size=batch`) instead of once per epoch, w collapses
# to its prior. `fit` raises an error if `data_size` is below the number of observations; here this
# check is removed, to show what it prevents.

# %%
most = sizes[-1]
mistaken = fresh(batch, full=True)
mistaken.check = lambda *data: None
result["slip"] = trained(mistaken, images[order[:most]])[-1][1]
print(
    f"\nN = {most}, test ELBO: with KL(q(w) || p(w)) once per epoch "
    f"{curves[most, True][-1][1]:.1f}, once per minibatch {result['slip']:.1f}"
)

# %% [markdown]
# ## What is known of the weights
#
# The signal-to-noise ratio |theta| / sigma of each weight. Where it is near zero, q is close to the
# prior: the data carry no information about that weight. With more data, more weights are
# determined.

# %%
ratios = {}
for size in sizes:
    graph = graphs[size, True]
    q = graph.q_w().base_dist
    ratios[size] = (q.loc.abs() / q.scale).detach()
    result[f"known_{sizes.index(size)}"] = (ratios[size] > 2).float().mean().item()
    print(
        f"N = {size:5d}: {result[f'known_{sizes.index(size)}']:.0%} of {len(ratios[size])} weights "
        "are more than two sigma from zero"
    )

figure = Figure(figsize=(6.5, 3.8), layout="constrained")
axis = figure.subplots()
bins = torch.logspace(-3, 2, 60).tolist()
for size, colour in zip(sizes, (plots.ORANGE, plots.GREEN, plots.BLUE), strict=True):
    axis.hist(
        ratios[size].clamp(0.0011, 99).tolist(),
        bins,
        histtype="step",
        lw=2,
        color=colour,
        label=f"N = {size}",
    )
axis.set(
    xscale="log",
    title="Signal-to-noise ratio of the weights",
    xlabel="|theta| / sigma",
    ylabel="number of weights",
)
axis.legend(frameon=False)
axis.grid(alpha=0.3)
show(figure, "weights")

# %% [markdown]
# ## Uncertain pictures
#
# `predictive` decodes the same z with many networks drawn from q(w). Where they agree, the decoder
# is certain; their standard deviation measures the uncertainty about w, which is different from the
# noise of p(x | z, w). Shown for posterior means of test images: the mean and the standard
# deviation of the decoded images over 100 networks, for the smallest and for the largest N.

# %%
shown, rows = test[:12], [test[:12]]
for size in (sizes[0], most):
    graph = graphs[size, True]
    p = graph.predictive(pv.embed(graph.draw(), shown), draws=100)  # (100, 12, D)
    rows += [p.mean(0), 4 * p.std(0)]
    result[f"spread_{sizes.index(size)}"] = p.std(0).mean().item()
title = (
    f"Test images; N = {sizes[0]}: mean, 4 x standard deviation over networks; N = {most}: the same"
)
rows = torch.cat(rows).reshape(-1, *data.shape)
show(plots.images(rows, title=title, columns=12, limits=(0, 1)), "pictures")
print(
    f"\nstandard deviation of a pixel over networks: {result['spread_0']:.3f} "
    f"for N = {sizes[0]}, {result['spread_2']:.3f} for N = {most}"
)

# %% [markdown]
# ## The average over networks
#
# A prediction averages *probabilities* over w, log E_q(w) p(x | w), not their logarithms. By
# Jensen's inequality it is the larger of the two. Each p(x | w_k) is estimated by importance
# sampling.

# %%
few = test[:200]
graph = graphs[sizes[0], True]
warnings.simplefilter("ignore", pv.EvidenceWarning)  # 100 draws: means over 200 rows are compared
# (30, images)
each = torch.stack([pv.log_evidence(graph.draw(), few, samples=100).log_p for _ in range(30)])
together, apart = (each.logsumexp(0) - math.log(len(each))).mean().item(), each.mean().item()
point = pv.log_evidence(graphs[sizes[0], False], few, samples=100).log_p.mean().item()
print(
    f"\nN = {sizes[0]}: log of the mean over 30 networks {together:.1f}, "
    f"mean of the logs {apart:.1f}; point estimate {point:.1f}"
)
result["together"], result["apart"], result["point"] = together, apart, point

# %%
print("RESULT", json.dumps(result))
