"""Graphs that a user would write in plain Pyro: other names, several sites, loops, labels."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn


def normal(parameters):
    """Return a diagonal normal from (mu, log sigma), stacked along the last dimension."""
    mu, log_sigma = parameters.chunk(2, -1)
    return dist.Normal(mu, log_sigma.exp()).to_event(1)


def unit_normal(rows, d):
    """Return N(0, I) for each row."""
    return dist.Normal(0.0, 1.0).expand([rows, d]).to_event(1)


class PyroExample(nn.Module):
    """The VAE of Pyro's documentation: sites "latent" and "obs"."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", unit_normal(x.shape[0], 2))
            return pyro.sample(
                "obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.reshape(-1, 6)
            )

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", normal(self.encoder(x.reshape(-1, 6))))


class TwoViews(nn.Module):
    """Two views of one latent, each with a mask per row; a product of experts as the guide."""

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList([nn.Linear(4, 4), nn.Linear(2, 4)])
        self.decoders = nn.ModuleList([nn.Linear(2, 4), nn.Linear(2, 2)])

    def model(self, x, present):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", unit_normal(len(x), 2))
            views = x[:, :4], x[:, 4:]
            for i, (view, net) in enumerate(zip(views, self.decoders, strict=True)):
                p = dist.Normal(net(z), 0.5).to_event(1).mask(present[:, i].bool())
                pyro.sample(f"x{i + 1}", p, obs=view)

    def guide(self, x, present):
        with pyro.plate("data", len(x)):
            precision, mean = torch.ones(len(x), 2), torch.zeros(len(x), 2)
            for i, (view, net) in enumerate(zip((x[:, :4], x[:, 4:]), self.encoders, strict=True)):
                mu, log_sigma = net(view).chunk(2, -1)
                weight = present[:, i : i + 1] * (-2 * log_sigma).exp()
                precision, mean = precision + weight, mean + weight * mu
            q = dist.Normal(mean / precision, precision.rsqrt()).to_event(1)
            pyro.sample("z", q)


class Markov(nn.Module):
    """A deep Markov model with a loop over time and sequences of several lengths."""

    def __init__(self):
        super().__init__()
        self.transition, self.emission = nn.Linear(2, 4), nn.Linear(2, 3)
        self.rnn, self.combine = nn.GRU(3, 5, batch_first=True), nn.Linear(7, 4)

    def model(self, x, lengths):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x), 2)
            for t in range(x.shape[1]):
                inside = t < lengths.flatten()
                z = pyro.sample(f"z_{t}", normal(self.transition(z)).mask(inside))
                p = dist.Normal(self.emission(z), 1.0).to_event(1).mask(inside)
                pyro.sample(f"x_{t}", p, obs=x[:, t])

    def guide(self, x, lengths):
        h, _ = self.rnn(x)
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x), 2)
            for t in range(x.shape[1]):
                q = normal(self.combine(torch.cat([z, h[:, t]], -1)))
                z = pyro.sample(f"z_{t}", q.mask(t < lengths.flatten()))


class SemiSupervised(nn.Module):
    """M2 (Kingma et al. 2014): a label that is observed, or latent where it is not passed."""

    def __init__(self):
        super().__init__()
        self.classify, self.encode = nn.Linear(6, 3), nn.Linear(9, 4)
        self.decode = nn.Linear(5, 6)

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            uniform = dist.OneHotCategorical(torch.ones(len(x), 3) / 3)
            y = pyro.sample("y", uniform, obs=y)
            z = pyro.sample("z", unit_normal(len(x), 2))
            p = dist.Bernoulli(logits=self.decode(torch.cat([z, y], -1))).to_event(1)
            pyro.sample("x", p, obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classify(x)))
            pyro.sample("z", normal(self.encode(torch.cat([x, y], -1))))


class SharedScale(nn.Module):
    """A latent mean that all rows share, beside one latent per row."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(self, x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("code", unit_normal(len(x), 2))
            pyro.sample("x", dist.Normal(self.decoder(z) + shift, 0.1).to_event(1), obs=x)

    def guide(self, x):
        pyro.sample("shift", dist.Normal(50.0, 0.01).expand([6]).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("code", normal(self.encoder(x)))


class Classes(nn.Module):
    """A latent class number, given to an embedding."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 3), nn.Embedding(3, 6)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(len(x), 3) / 3))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.encoder(x)))
