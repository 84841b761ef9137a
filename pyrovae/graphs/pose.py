"""Content apart from pose: an image is one content, turned, moved and scaled (Bepler et al. 2019).

p(x, z, theta, dx, s | c) = p(z) p(theta) p(dx) p(s) prod_i p(x_i | u_i, z, c)      the model
u_i = e^s R(theta) g_i + dx,     g_i the place of pixel i,   R a turn counter-clockwise

q(theta | h) q(s | h) q(t | h),   dx = -e^s R(theta) t,   h = encoder(x, c)         the guide
q(z | h),   or  q(z | x', c),   x' = x at zero pose, turned and moved back by the pose's means

The guide finds t, the place in the image where the content has its centre, since it does not depend
on the angle as dx does. It can start at the image's centre of mass m, t = m + what is read off the
image moved to m; else an angle is found first that turns all shifts into one direction.

A guide that reads an angle off an image is caught in local optima where angles are spread over the
circle. With an encoder of K turned copies, h = (h_0, .., h_(K-1)), the guide first draws which copy
is upright, k, which is summed out exactly (Nasiri & Bepler 2022, TARGET-VAE):

q(k | x) ~ p(theta = phi_k) exp turn(h_k)
theta = phi_k + what the rotation's posterior reads off copy k
r(k | theta) = softmax_k kappa cos(theta - phi_k)           of the model: near theta

Which way up a content is, the turns do not settle: its prior is worth one or two nats of an image.
An angle that is a continuous function of the image settles it, where upright images are the most
frequent; so the first steps of training can read the angle off the image itself (`turns_from`).

u are the places of the content: an image with theta > 0 shows the content turned clockwise, with
dx = (0.1, 0) moved to the left by 0.1, with s > 0 smaller (see `pyrovae.graphs.places`).
"""

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pyrovae.graphs.parts import check_part, refuse_call
from pyrovae.graphs.places import aligned, centre_of_mass, pixel_grid, posed_places, turned
from pyrovae.graphs.pose_checks import check_pose_parts, location, moved
from pyrovae.programs import PART_OF_ROW, data_plate, register

__all__ = ["PoseVAE"]


class _Latent(NamedTuple):
    """One latent of the pose: its site, and what it is drawn from."""

    site: str
    prior: nn.Module
    posterior: nn.Module


class PoseVAE(nn.Module):
    """A VAE of images with a rotation, a translation and a scale of their own, each optional.

    Sites: "z" with shape (B, D); "theta" (B, 1), in radians; "dx" (B, 2), right and up, in half
    lengths of the longer side; "s" (B, 1), a log scale; "x" (B, C, H, W) or (B, H, W). A latent
    whose prior is None is held at 0; without any this is the plain coordinate decoder.

    `pyrovae.decode(graph, {"z": z, "theta": 0 * theta, "dx": 0 * dx})` shows contents at zero pose,
    `pyrovae.embed(graph, x, site="theta")` the angles.

    Args:
        prior: p(z | c).
        posterior: q(z | h, c); q(z | x', c) if `align`.
        likelihood: p(x | z, u, c), whose network takes z, the places u of the pixels, and c, such
            as `likelihoods.Bernoulli(nets.CoordinateDecoder(2, (1, 28, 28)))`.
        shape: of an image, (C, H, W) or (H, W).
        encoder: h(x, c), shared by all posteriors; None gives them x.
        rotation_prior: p(theta), over one angle: `priors.UniformAngle(1)`, `priors.VonMises(1)`;
            or a normal, `priors.CentredNormal(1, sd)` as in the paper.
        rotation_posterior: q(theta | h), such as `posteriors.WrappedNormal`.
        translation_prior: p(dx), over two numbers.
        translation_posterior: q(t | h), a normal, full-rank or not.
        scale_prior: p(s), over one number.
        scale_posterior: q(s | h).
        turn: maps each h_k of an encoder of turned copies to one number; None for an encoder of
            the image alone.
        turns_from: how many steps of training, calls of the guide, come before the turns; the
            image itself, copy 0, is all that they read.
        align: whether the posterior of z reads the image at zero pose, in place of h.
        centre: whether the guide starts at the image's centre of mass, as above.
        pixels: in training, how many pixels of each minibatch the likelihood is evaluated at, drawn
            anew at each step; their log density is scaled to that of all, so the bound keeps its
            mean. None takes all.
        free_mean: drop, in training, the term mu^2 / (2 s^2) of KL(q(theta | h) || N(0, s^2)), as
            the paper does (section 3.2), so that no angle is preferred. What is left is no bound,
            unless s is large. Evaluation has the whole KL.

    Raises:
        TypeError: if a part is a class, or cannot be called.
        ValueError: if a prior of the pose comes without a posterior, or a posterior without a
            prior; a draw from one has not its latent's shape; `turn` does not go with the encoder;
            `pixels` is not between 1 and H W; or `free_mean` comes without a normal prior and
            posterior of the angle.
    """

    forward = refuse_call

    def __init__(
        self,
        prior: nn.Module,
        posterior: nn.Module,
        likelihood: nn.Module,
        *,
        shape: tuple[int, ...],
        encoder: nn.Module | None = None,
        rotation_prior: nn.Module | None = None,
        rotation_posterior: nn.Module | None = None,
        translation_prior: nn.Module | None = None,
        translation_posterior: nn.Module | None = None,
        scale_prior: nn.Module | None = None,
        scale_posterior: nn.Module | None = None,
        turn: nn.Module | None = None,
        turns_from: int = 0,
        align: bool = False,
        centre: bool = False,
        pixels: int | None = None,
        free_mean: bool = False,
    ) -> None:
        super().__init__()
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.shape, self.encoder, self.turn = tuple(shape), encoder, turn
        self.rotation_prior, self.rotation_posterior = rotation_prior, rotation_posterior
        self.translation_prior = translation_prior
        self.translation_posterior = translation_posterior
        self.scale_prior, self.scale_posterior = scale_prior, scale_posterior
        self.align, self.centre, self.pixels, self.free_mean = align, centre, pixels, free_mean
        turns = getattr(encoder, "turns", 0)
        self.turns_from = turns_from
        check_pose_parts(self, turns)
        phi = 2 * math.pi * (torch.arange(turns) / max(1, turns))
        phi = torch.where(phi < math.pi, phi, phi - 2 * math.pi)  # near 0, for a normal prior
        self.register_buffer("phi", phi, persistent=False)
        self.register_buffer("grid", pixel_grid(*self.shape[-2:]), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    grid: Tensor
    steps: Tensor
    phi: Tensor

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw the pose and z, x ~ p(x | z, u, c), and return x."""
        register(self)
        with data_plate(x):
            pose = {each.site: pyro.sample(each.site, each.prior()) for each in self._pose()}
            if self._turning():
                self._draw_turn(pose["theta"])
            z = pyro.sample("z", self.prior(*c))
            u = posed_places(self.grid, **pose)
            if self.pixels is None or not self.training:
                return pyro.sample("x", self.likelihood(z, u, *c), obs=x)
            return self._observe_some(x, z, u, c, self.pixels)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw the pose and z from their posteriors, and return z."""
        register(self)
        if self.training:
            self.steps += 1
        m = centre_of_mass(x, self.grid) if self.centre else x.new_zeros(2)
        seen = aligned(x, self.grid, dx=-m) if self.centre else x
        with data_plate(x):
            h, phi = self._read(seen, c)
            pose: dict[str, Tensor] = {}
            means: dict[str, Tensor] = {}
            for each in self._pose():
                q = each.posterior(h)
                mean = location(q, each.site)
                if each.site == "theta" and phi is not None:
                    mean = mean + phi[..., None]
                if each.site == "dx":
                    read, mean = mean, self._shift(m, mean, phi, means)
                    q = moved(q, self._shift(m, read, phi, pose))
                elif phi is not None:
                    q = moved(q, mean)
                means[each.site], pose[each.site] = mean, pyro.sample(each.site, q)
                if each.site == "theta" and self.free_mean and self.training:
                    self._add_mean_term(q)
            if self.align:
                return pyro.sample("z", self.posterior(aligned(x, self.grid, **means), *c))
            return pyro.sample("z", self.posterior(h, *(c if self.encoder is None else ())))

    def places(
        self, theta: Tensor | None = None, dx: Tensor | None = None, s: Tensor | None = None
    ) -> Tensor:
        """Return the places u of the content that the pixels show, with shape (*, H, W, 2).

        Args:
            theta: with shape (*, 1); None for no rotation.
            dx: with shape (*, 2).
            s: with shape (*, 1).
        """
        return posed_places(self.grid, theta, dx, s)

    def zero_pose(self, n: int) -> dict[str, Tensor]:
        """Return zero for each latent of the pose of n images, by its site.

        `pyrovae.decode(graph, {"z": z, **graph.zero_pose(len(z))})` shows contents at zero pose.
        """
        sizes = {"theta": 1, "s": 1, "dx": 2}
        return {each.site: self.grid.new_zeros(n, sizes[each.site]) for each in self._pose()}

    def at_resolution(self, height: int, width: int) -> "PoseVAE":
        """Return a graph with the same weights whose images have H' x W' pixels.

        It generates and decodes; to infer a pose it needs images of the first graph's shape.
        """
        other = copy.copy(self)
        other._buffers = dict(self._buffers)  # the weights stay shared
        other.shape = (*self.shape[:-2], height, width)
        other.grid = pixel_grid(height, width).to(self.grid)
        return other

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Raise a ValueError if x is outside the likelihood's support; `pyrovae.fit` calls this."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"PoseVAE: x has shape {tuple(x.shape)}, expected {('B', *self.shape)}, the graph's"
            )
        check_part(self.likelihood, x)

    def _observe_some(
        self, x: Tensor, z: Tensor, u: Tensor, c: tuple[Tensor, ...], pixels: int
    ) -> Tensor:
        """Observe some pixels, as images of one column, and count each for several."""
        size = self.grid.shape[0] * self.grid.shape[1]
        kept = torch.randperm(size, device=x.device)[:pixels]
        some = u.flatten(-3, -2)[..., kept, :].unsqueeze(-2)
        with poutine.scale(scale=size / pixels):
            observed = x.flatten(-2)[..., kept].unsqueeze(-1)
            part: Any = {PART_OF_ROW: True}
            return pyro.sample("x", self.likelihood(z, some, *c), obs=observed, infer=part)

    def _turning(self) -> bool:
        if self.turn is None or self.turns_from == 0:  # to read the steps would wait for a GPU
            return self.turn is not None
        return int(self.steps) >= self.turns_from

    def _read(self, x: Tensor, c: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """Return h, or h_k and phi_k of a turn drawn."""
        if self.encoder is None:
            return x, None
        if self.turn is not None and not self._turning():
            alone: Any = self.encoder.net
            return alone(x, *c), None
        h = self.encoder(x, *c)
        return (h, None) if self.turn is None else self._chosen_copy(h)

    def _chosen_copy(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Draw k, and return h_k and phi_k."""
        assert self.turn is not None
        assert self.rotation_prior is not None
        phi = self.phi.clamp(-math.pi, math.pi)  # -pi in single precision is less than -pi
        log_p = self.rotation_prior().log_prob(phi[:, None])
        q = dist.Categorical(logits=self.turn(h).squeeze(-1).movedim(0, -1) + log_p)
        k = pyro.sample("turn", q, infer={"enumerate": "parallel"})
        return h[k, torch.arange(h.shape[1], device=h.device)], self.phi[k]

    def _shift(
        self, m: Tensor, read: Tensor, phi: Tensor | None, pose: dict[str, Tensor]
    ) -> Tensor:
        """Return dx = -e^s R(theta) t, t = m + R(-phi) what was read off a copy turned by phi."""
        t = m + (read if phi is None else turned(read, -phi))
        if "theta" in pose:
            t = turned(t, pose["theta"].squeeze(-1))
        return -t * pose["s"].exp() if "s" in pose else -t

    def _add_mean_term(self, q: Any) -> None:
        """Take the term of the mean out of the KL: log q is smaller by it."""
        assert self.rotation_prior is not None
        term = (q.mean / self.rotation_prior().stddev).square().sum(-1) / 2
        pyro.factor("mean_of_theta", -term, has_rsample=True)

    def _draw_turn(self, theta: Tensor) -> None:
        """Draw k ~ r(k | theta): uniform, times a factor, since Pyro enumerates k before theta."""
        turns = len(self.phi)
        k = pyro.sample("turn", dist.Categorical(logits=theta.new_zeros(turns)))
        near = ((theta - self.phi).cos() * (turns / math.pi) ** 2).log_softmax(-1)
        log_r = near.expand(*np.broadcast_shapes(near.shape[:-1], k.shape), -1)
        k_here = k.expand(log_r.shape[:-1]).unsqueeze(-1)
        pyro.factor("near", log_r.gather(-1, k_here).squeeze(-1) + math.log(turns))

    def _pose(self) -> list[_Latent]:
        """Return the latents of the pose that are not fixed, in the order of the guide."""
        return [
            _Latent(site, prior, posterior)
            for site, prior, posterior in (
                ("theta", self.rotation_prior, self.rotation_posterior),
                ("s", self.scale_prior, self.scale_posterior),
                ("dx", self.translation_prior, self.translation_posterior),
            )
            if prior is not None and posterior is not None
        ]
