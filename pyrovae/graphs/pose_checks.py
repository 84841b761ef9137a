"""Which parts of a graph with a pose go together."""

import math
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyrovae.graphs.parts import check_networks, check_parts

__all__ = ["check_pose_parts", "location", "moved"]

_POSE = {  # the shape of one draw, and what it is
    "rotation": ((1,), "one angle"),
    "translation": ((2,), "two numbers, right and up"),
    "scale": ((1,), "one log scale"),
}
_POSE_PARTS = [f"{name}_{kind}" for name in _POSE for kind in ("prior", "posterior")]


def check_pose_parts(graph: Any, turns: int) -> None:
    """Check that the parts of a `PoseVAE` go together.

    Args:
        graph: With all its parts.
        turns: Copies of the image that its encoder makes, 0 for none.

    Raises:
        TypeError: If a part is a class, or cannot be called.
        ValueError: Names the argument and the remedy.
    """
    _check_kinds(graph)
    for name in _POSE:
        if (getattr(graph, f"{name}_prior") is None) != (
            getattr(graph, f"{name}_posterior") is None
        ):
            raise ValueError(
                f"PoseVAE: {name}_prior and {name}_posterior go together: give both, or "
                "neither for a fixed pose"
            )
    priors = {name: getattr(graph, f"{name}_prior") for name in _POSE}
    drawn = {name: prior() for name, prior in priors.items() if prior is not None}
    for name, p in drawn.items():
        _check_shape(name, p)
    angle = drawn.get("rotation")
    if (graph.turn is None) != (turns == 0) or (graph.turn is not None and angle is None):
        raise ValueError(
            "PoseVAE: turn, a network of one number, goes with an encoder of turned copies, "
            "nets.TurnedCopies, and with a rotation"
        )
    size = math.prod(graph.shape[-2:])
    if graph.pixels is not None and not 1 <= graph.pixels <= size:
        raise ValueError(f"PoseVAE: pixels is {graph.pixels}, expected 1 to H W = {size}")
    if graph.free_mean and not isinstance(getattr(angle, "base_dist", None), dist.Normal):
        raise ValueError(
            "PoseVAE: free_mean drops a term of the KL to a normal prior of the angle: give "
            "rotation_prior=priors.CentredNormal(1, sd), or leave it out"
        )


def _check_kinds(graph: Any) -> None:
    optional = {name: getattr(graph, name) for name in _POSE_PARTS}
    given = {name: part for name, part in optional.items() if part is not None}
    of_content = {"prior": graph.prior, "posterior": graph.posterior}
    check_parts(graph, **of_content, likelihood=graph.likelihood, **given)
    networks = {"encoder": graph.encoder, "turn": graph.turn}
    check_networks(graph, **{name: net for name, net in networks.items() if net is not None})


def _check_shape(name: str, p: Any) -> None:
    """Check the shape of one draw of a prior of the pose."""
    expected, what = _POSE[name]
    shape = tuple(getattr(p, "event_shape", expected))
    if shape != expected:
        raise ValueError(
            f"PoseVAE: one draw of {name}_prior has shape {shape}, expected {expected}, {what}: "
            f"such as priors.CentredNormal({expected[0]}, sd)"
        )


def location(q: Any, site: str) -> Tensor:
    """Return the location of a posterior of the pose, which the guide moves.

    Raises:
        ValueError: if the posterior is not given by a location and a scale.
    """
    if isinstance(q, dist.MultivariateNormal):
        return q.loc
    base: Any = getattr(q, "base_dist", q)
    if base is q or set(base.arg_constraints) != {"loc", "scale"}:
        kind = type(base).__name__
        raise ValueError(
            f'PoseVAE: the posterior of "{site}" is a {kind}, expected a distribution of a '
            "location and a scale, which the guide moves. Use posteriors.DiagonalNormal, or "
            "posteriors.WrappedNormal for an angle"
        )
    return base.loc


def moved(q: Any, loc: Tensor) -> Any:
    """Return a posterior of the pose, its spread unchanged, at another location."""
    if isinstance(q, dist.MultivariateNormal):
        return dist.MultivariateNormal(loc, scale_tril=q.scale_tril)
    return type(q.base_dist)(loc, q.base_dist.scale).to_event(1)
