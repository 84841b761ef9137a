"""Content apart from pose: an image is one content, turned, moved and scaled (Bepler et al. 2019).

p(x, z, theta, dx, s | c) = p(z) p(theta) p(dx) p(s) prod_i p(x_i | u_i, z, c)      the model
u_i = e^s R(theta) g_i + dx,     g_i the place of pixel i,   R a turn counter-clockwise
q(z, theta, dx, s | x, c) = q(z | h) q(theta | h) q(dx | h) q(s | h)                the guide
h = encoder(x, c)

A guide that reads an angle off an image is caught in local optima where angles are spread over the
circle. With an encoder of K turned copies, h = (h_0, .., h_(K-1)), the guide first draws which copy
is upright, k, which is summed out exactly (Nasiri & Bepler 2022, TARGET-VAE):

q(k | x) = softmax_k turn(h_k),   theta = phi_k + what the rotation's posterior reads off copy k
r(k | theta) = softmax_k kappa cos(theta - phi_k)                    of the model: near theta

u are the places of the content: an image with theta > 0 shows the content turned clockwise, with
dx = (0.1, 0) moved to the left by 0.1, with s > 0 smaller. The longer side of an image spans
[-1, 1], and pixels are squares: images of other than square shape do not shear.
"""

import math
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.graphs.parts import check_part
from pyrovae.programs import data_plate, register

__all__ = ["PoseVAE", "pixel_grid"]


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
        posterior: q(z | h, c).
        likelihood: p(x | z, u, c), whose network takes z, the places u of the pixels, and c, such
            as `likelihoods.Bernoulli(nets.CoordinateDecoder(2, (1, 28, 28)))`.
        shape: of an image, (C, H, W) or (H, W).
        encoder: h(x, c), shared by all posteriors; None gives them x.
        rotation_prior: p(theta), over one angle: `priors.UniformAngle(1)`, `priors.VonMises(1)`;
            or a normal, `priors.CentredNormal(1, sd)` as in the paper.
        rotation_posterior: q(theta | h), such as `posteriors.WrappedNormal`.
        translation_prior: p(dx), over two numbers.
        translation_posterior: q(dx | h).
        scale_prior: p(s), over one number.
        scale_posterior: q(s | h).
        turn: maps each h_k of an encoder of turned copies to one number; None for an encoder of
            the image alone.

    Raises:
        ValueError: if a prior of the pose comes without a posterior, or a posterior without a
            prior.
    """

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
    ) -> None:
        super().__init__()
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.shape, self.encoder = tuple(shape), encoder
        self.rotation_prior, self.rotation_posterior = rotation_prior, rotation_posterior
        self.translation_prior, self.translation_posterior = (
            translation_prior,
            translation_posterior,
        )
        self.scale_prior, self.scale_posterior = scale_prior, scale_posterior
        for name in ("rotation", "translation", "scale"):
            both = (getattr(self, f"{name}_prior"), getattr(self, f"{name}_posterior"))
            if (both[0] is None) != (both[1] is None):
                raise ValueError(
                    f"PoseVAE: {name}_prior and {name}_posterior go together: give both, or "
                    "neither for a fixed pose"
                )
        self.turn = turn
        turns = getattr(encoder, "turns", 0)
        if (turn is None) != (turns == 0) or (turn is not None and rotation_prior is None):
            raise ValueError(
                "PoseVAE: turn, a network of one number, goes with an encoder of turned copies, "
                "nets.TurnedCopies, and with a rotation"
            )
        phi = 2 * math.pi * torch.arange(turns) / max(1, turns)
        self.register_buffer("phi", phi, persistent=False)
        self.register_buffer("grid", pixel_grid(*self.shape[-2:]), persistent=False)

    grid: Tensor
    phi: Tensor

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z and the pose, x ~ p(x | z, u, c), and return x."""
        register(self)
        with data_plate(x):
            z = pyro.sample("z", self.prior(*c))
            pose = {each.site: pyro.sample(each.site, each.prior()) for each in self._pose()}
            if self.turn is not None:
                self._draw_turn(pose["theta"])
            return pyro.sample("x", self.likelihood(z, self.places(**pose), *c), obs=x)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z and the pose from their posteriors, and return z."""
        register(self)
        h = x if self.encoder is None else self.encoder(x, *c)
        with data_plate(x):
            phi = None
            if self.turn is not None:
                logits = self.turn(h).squeeze(-1).movedim(0, -1)
                q_k = dist.Categorical(logits=logits)
                k = pyro.sample("turn", q_k, infer={"enumerate": "parallel"})
                h, phi = h[k, torch.arange(len(x), device=x.device)], self.phi[k]
            z = pyro.sample("z", self.posterior(h, *(c if self.encoder is None else ())))
            for each in self._pose():
                q = each.posterior(h)
                if each.site == "theta" and phi is not None:
                    q = _shifted(q, phi)
                pyro.sample(each.site, q)
            return z

    def places(
        self, theta: Tensor | None = None, dx: Tensor | None = None, s: Tensor | None = None
    ) -> Tensor:
        """Return the places u of the content that the pixels show, with shape (*, H, W, 2).

        Args:
            theta: with shape (*, 1); None for no rotation.
            dx: with shape (*, 2).
            s: with shape (*, 1).
        """
        u = self.grid
        if theta is not None:
            u = _turned(u, theta)
        if s is not None:
            u = s.exp()[..., None, None, :] * u
        return u if dx is None else u + dx[..., None, None, :]

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Raise a ValueError if x is outside the likelihood's support; `pyrovae.fit` calls this."""
        check_part(self.likelihood, x)

    def _draw_turn(self, theta: Tensor) -> None:
        """Draw k ~ r(k | theta): uniform, times a factor, since Pyro enumerates k before theta."""
        turns = len(self.phi)
        k = pyro.sample("turn", dist.Categorical(logits=theta.new_zeros(turns)))
        near = ((theta - self.phi).cos() * (turns / math.pi) ** 2).log_softmax(-1)
        log_r = near.expand(*torch.broadcast_shapes(near.shape[:-1], k.shape), -1)
        k_here = k.expand(log_r.shape[:-1]).unsqueeze(-1)
        pyro.factor("near", log_r.gather(-1, k_here).squeeze(-1) + math.log(turns))

    def _pose(self) -> list[_Latent]:
        """Return the latents of the pose that are not fixed."""
        return [
            _Latent(site, prior, posterior)
            for site, prior, posterior in (
                ("theta", self.rotation_prior, self.rotation_posterior),
                ("dx", self.translation_prior, self.translation_posterior),
                ("s", self.scale_prior, self.scale_posterior),
            )
            if prior is not None and posterior is not None
        ]


def _shifted(q: Any, phi: Tensor) -> Any:
    """Return the distribution of theta + phi, for q(theta) of a location and a scale."""
    base = q.base_dist
    return type(base)(base.loc + phi.unsqueeze(-1), base.scale).to_event(1)


def pixel_grid(height: int, width: int) -> Tensor:
    """Return the places (right, up) of the pixels of an image, with shape (H, W, 2).

    The centres of the outer pixels of the longer side lie at -1 and 1; 0 is the image's centre.

    Example:
        >>> pixel_grid(2, 3)[0]
        tensor([[-1.0000,  0.5000],
                [ 0.0000,  0.5000],
                [ 1.0000,  0.5000]])
    """
    half = max(height - 1, width - 1, 1) / 2
    up = -(torch.arange(height) - (height - 1) / 2) / half
    right = (torch.arange(width) - (width - 1) / 2) / half
    return torch.stack([right.expand(height, width), up[:, None].expand(height, width)], -1)


def _turned(u: Tensor, theta: Tensor) -> Tensor:
    """Return R(theta) u, turned counter-clockwise, for u (H, W, 2) and theta (*, 1)."""
    cos, sin = theta.cos()[..., None], theta.sin()[..., None]  # (*, 1, 1)
    right, up = u.unbind(-1)
    return torch.stack([cos * right - sin * up, sin * right + cos * up], -1)
