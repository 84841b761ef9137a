"""Which parts of a graph with a pose go together."""

import math
from typing import Any

import pyro.distributions as dist

__all__ = ["check_pose_parts"]


def check_pose_parts(graph: Any, turns: int) -> None:
    """Check that the parts of a `PoseVAE` go together.

    Args:
        graph: With all its parts.
        turns: Copies of the image that its encoder makes, 0 for none.

    Raises:
        ValueError: Names the argument and the remedy.
    """
    for name in ("rotation", "translation", "scale"):
        if (getattr(graph, f"{name}_prior") is None) != (
            getattr(graph, f"{name}_posterior") is None
        ):
            raise ValueError(
                f"PoseVAE: {name}_prior and {name}_posterior go together: give both, or "
                "neither for a fixed pose"
            )
    angle = None if graph.rotation_prior is None else graph.rotation_prior()
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
