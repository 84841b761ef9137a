"""Whether a model predicts values of x from other values of x, as an autoregressive decoder does.

p(x | z) = prod_j p(x_j | x_<j, z)
"""

import torch

from pyrovae import programs
from pyrovae.tasks.targets import Target, values_of

__all__ = ["check_not_autoregressive"]


def check_not_autoregressive(target: Target, task: str) -> None:
    """Refuse a model whose distribution of x at given latents depends on the places of x's values.

    What is unknown of x would stand in the densities of what is known. A function that no order
    of the values changes, such as the total of counts, may be read.

    Raises:
        ValueError: if the distribution is another one where the values of each row change places.
    """
    x, *c = target.batch
    reversed_rows = x.flatten(1).flip(1).reshape(x.shape) if x.dim() > 1 else x
    graph = target.graph
    with torch.no_grad(), programs.random_stream(0, programs.cuda_devices(graph)):
        q = programs.record(graph.guide, *target.batch)
        first = programs.record(graph.model, x, *c, given=q)
        try:
            second = programs.record(graph.model, reversed_rows, *c, given=q)
        except Exception:  # whatever a user's model raises, for a value in a place of another kind
            return
        fns = [values_of(trace[target.site]["fn"]) for trace in (first, second)]
        try:
            value = fns[0].sample()  # what is hidden has no value that must be in the support
        except NotImplementedError:
            value = first[target.site]["value"]
        a, b = (fn.log_prob(value) for fn in fns)
    if not torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError(
            f'{task}: the distribution of site "{target.site}" depends on values of x beside the '
            "latents, as an autoregressive decoder's does, so it is not independent over the "
            "values of x, and nothing is known of a part of them. Take a likelihood that reads "
            "the latents and the context alone; what it needs of x may be given as context"
        )
