"""Missing values of x: the model explains the observed values, the guide sees the others filled in.

log p(x_o) = log E_q(z | x_o)[ p(x_o | z) p(z) / q(z | x_o) ]
p(x_o | z) = prod_{j in o} p(x_j | z)

(Mattei & Frellsen 2019, "MIWAE", section 2.2; Nazabal et al. 2020.) It is right where values are
missing at random: whether one is missing may depend on observed values, not on itself.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyrovae.graphs.parts import Submodule, check_graph, check_part, check_rows_of_data, refuse_call

__all__ = ["Missing", "fill_missing"]

_ROWS = 4096  # of a mask that are checked at once


def fill_missing(x: Any, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return x with NaN replaced by `fill`, and which values are observed: 1, and 0 where NaN.

    Args:
        x: data with shape (N, *event).
        fill: a value that the likelihood's support holds.

    Example:
        >>> fill_missing(torch.tensor([[1.0, float("nan")]]))
        (tensor([[1., 0.]]), tensor([[1., 0.]]))
    """
    x = torch.as_tensor(x)
    missing = x.isnan()
    return x.masked_fill(missing, fill), (~missing).to(x.dtype)


class Missing(nn.Module):
    """Any graph with one observed site, for data (x, observed, *c) with missing values.

    `observed` has the shape of x: 1 where a value is observed, 0 where it is missing;
    `fill_missing` makes it from NaN. Missing values of x hold any number of the likelihood's
    support, which changes nothing. `pyrovae.log_evidence(graph, x, observed)` estimates log p of
    the observed values, and `pyrovae.reconstruct(graph, x, observed)` returns all values, the
    missing ones too.

    Args:
        graph: the graph to wrap, such as a `VAE`. Its likelihood must be independent over the
            values of x, given the latents.
        fill: what the guide sees instead of a missing value: a number, or a tensor with the shape
            of one observation, such as the means of the observed values, `x.nanmean(0)`.
        see_mask: whether the guide gets `observed`, flattened, as its first context. The
            posterior's network must then be built for that context.

    Raises:
        TypeError: if graph is a class, or has no model.
        ValueError: when it runs, if the graph observes several sites, the likelihood is not
            independent over the values of x, or `observed` has not its shape.

    Example:
        >>> from pyrovae import VAE, likelihoods, posteriors, priors
        >>> q, p = posteriors.DiagonalNormal(nn.Linear(6, 4)), likelihoods.Gaussian(nn.Linear(2, 6))
        >>> graph = Missing(VAE(priors.StandardNormal(2), q, p))
        >>> x, observed = fill_missing(torch.tensor([[1.0, float("nan"), 2.0, 3.0, 1.0, 0.0]]))
        >>> graph.guide(x, observed).shape
        torch.Size([1, 2])
    """

    graph: Submodule
    fill: float | Tensor

    forward = refuse_call

    def __init__(
        self, graph: nn.Module, fill: float | Tensor = 0.0, see_mask: bool = False
    ) -> None:
        super().__init__()
        check_graph(self, graph=graph)
        self.graph, self.see_mask = graph, see_mask
        if isinstance(fill, Tensor):
            self.register_buffer("fill", fill)
        else:
            self.fill = fill

    def model(self, x: Tensor, observed: Tensor, *c: Tensor) -> Tensor:
        """Run the wrapped model, which explains the observed values of x, and return its value."""
        with _ObservedValues(observed.bool()):
            return self.graph.model(x, *c)

    def guide(self, x: Tensor, observed: Tensor, *c: Tensor) -> Tensor:
        """Run the wrapped guide on x, its missing values filled, and return its value."""
        filled = torch.where(observed.bool(), x, self.fill)
        mask = (observed.flatten(1),) if self.see_mask else ()
        return self.graph.guide(filled, *mask, *c)

    def check(self, x: Any, observed: Any = None, *c: Any) -> None:
        """Raise what the wrapped graph's `check` raises, or a ValueError for a wrong mask."""
        if observed is None or tuple(observed.shape) != tuple(x.shape):
            shape = "nothing" if observed is None else f"shape {tuple(observed.shape)}"
            raise ValueError(
                f"Missing: x has shape {tuple(x.shape)} and observed {shape}, expected data "
                "(x, observed, *c) with the same shape: see pyrovae.graphs.fill_missing"
            )
        for start in range(0, len(observed), _ROWS):
            part = torch.as_tensor(observed[start : start + _ROWS])
            if not ((part == 0) | (part == 1)).all():
                raise ValueError(
                    f"Missing: observed holds other values than 0 and 1 from row {start} on, "
                    "expected 1 where a value of x is observed and 0 where it is missing"
                )
        check_part(self.graph, x, *c)

    def check_data_size(self, rows: int) -> None:
        """Raise what the wrapped graph's `check_data_size` raises."""
        check_rows_of_data(self.graph, rows)


class _ObservedValues(Messenger):
    """Mask the values of the observed site that are missing, one by one."""

    def __init__(self, observed: Tensor) -> None:
        super().__init__()
        self.observed, self.site = observed, None

    def _pyro_sample(self, msg: Any) -> None:
        deterministic = msg["infer"].get("_deterministic")
        if not msg["is_observed"] or deterministic or site_is_subsample(msg):
            return
        if self.site is not None:
            raise ValueError(
                f'Missing: the model observes "{self.site}" and "{msg["name"]}", expected one '
                "site. Mask the sites of several views in the model itself"
            )
        self.site = msg["name"]
        msg["fn"] = self._masked(msg["fn"])

    def _masked(self, fn: Any) -> Any:
        if isinstance(fn, dist.MaskedDistribution):
            return self._masked(fn.base_dist).mask(fn._mask)  # Pyro has no public name for it
        shape = tuple(self.observed.shape[1:])
        event = tuple(fn.event_shape)
        if shape != event:
            raise ValueError(
                f'Missing: site "{self.site}" has values of shape {event}, observed {shape}: '
                "expected the same. Mask the sites of several views in the model itself"
            )
        base = fn
        while isinstance(base, torch.distributions.Independent):
            base = base.base_dist
        if base.event_shape:
            raise ValueError(
                f'Missing: the distribution {type(base).__name__} of site "{self.site}" is not '
                "independent over the values of x, so it gives no density of the observed ones "
                "alone. Use a likelihood of independent values, such as likelihoods.Gaussian"
            )
        return base.mask(self.observed).to_event(len(fn.event_shape))
