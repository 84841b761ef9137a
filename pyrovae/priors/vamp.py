"""VampPrior, a mixture of the model's own posteriors: p(z | c) = sum_k w_k q(z | u_k, c).

Its optimum is the aggregate posterior (Tomczak & Welling 2018, eq. 9).
"""

from types import MethodType
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions import Conditional, SameFamilyMixture
from pyrovae.priors.mixtures import register_logits

__all__ = ["Vamp"]


class Vamp(Conditional):
    """Mixture of the posteriors at K learned pseudo-inputs u_k (Tomczak & Welling 2018).

    Give it the model's own posterior: the module is shared, and its parameters are counted, trained
    and saved once. Here it is evaluated in eval mode, without a change to the module itself: a
    density has no dropout, and the statistics of batch normalization are those of data.

    With a normal posterior a step costs one more pass through its network, over K inputs, or over
    B K pairs (u_k, c_n) if it reads c: the network must then broadcast u with shape (K, *event)
    against c with shape (*, K, C), as the library's networks do. The density of a flow at a z that
    it did not draw takes D passes for each of the B K pairs: give it few pseudo-inputs.

    Args:
        posterior: q(z | x, c), with a density.
        pseudo_inputs: initial u, with shape (K, *event), as the posterior sees them (log(1 + x) in
            a `CountVAE`): training data, or noise around its mean.
        low: least value of a pseudo-input, such as 0 for pixels and counts; None for no bound.
        high: largest value, such as 1 for pixels; None for no bound. With both it is the paper's
            hardtanh.
        learned: train the pseudo-inputs.
        learned_weights: learn w too; False keeps w_k = 1 / K, as in the paper.

    Raises:
        TypeError: if `posterior` is no module, or `pseudo_inputs` no tensor.
        ValueError: if there are no pseudo-inputs, or `low` is not below `high`; when it is called,
            if the posterior is a point mass.

    Example:
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> q = DiagonalNormal(nn.Linear(6, 4))
        >>> Vamp(q, torch.rand(10, 6), low=0.0, high=1.0)().event_shape
        torch.Size([2])
    """

    pseudo_inputs: Tensor
    logits: Tensor

    def __init__(
        self,
        posterior: nn.Module,
        pseudo_inputs: Tensor,
        *,
        low: float | None = None,
        high: float | None = None,
        learned: bool = True,
        learned_weights: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(posterior, nn.Module) or not isinstance(pseudo_inputs, Tensor):
            given = f"{type(posterior).__name__} and {type(pseudo_inputs).__name__}"
            raise TypeError(
                f"Vamp: got {given}, expected the model's posterior and a tensor of pseudo-inputs, "
                "as in Vamp(q, x[:50])"
            )
        if pseudo_inputs.dim() < 2 or not len(pseudo_inputs):
            raise ValueError(
                f"Vamp: pseudo_inputs has shape {tuple(pseudo_inputs.shape)}, expected (K, *event) "
                "with K at least 1"
            )
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"Vamp: low is {low} and high {high}, expected low < high, such as 0 and 1 for "
                "pixels"
            )
        self.posterior, self.low, self.high = posterior, low, high
        self.learned, self.learned_weights = learned, learned_weights
        floating = pseudo_inputs.is_floating_point()
        dtype = pseudo_inputs.dtype if floating else torch.get_default_dtype()
        start = self._bounded(pseudo_inputs.detach().clone().to(dtype))
        if learned:
            self.pseudo_inputs = nn.Parameter(start)
        else:
            self.register_buffer("pseudo_inputs", start)
        register_logits(self, len(start), learned_weights)

    def forward(self, *c: Tensor) -> SameFamilyMixture:
        """Return p(z | c), event shape (D,).

        Its batch shape is that of the context, (*), or () where the posterior reads no context.
        """
        u = self._bounded(self.pseudo_inputs)
        lead = np.broadcast_shapes(*(part.shape[:-1] for part in c))
        # Every u_k at every c. Only c is expanded: a posterior that ignores it has K rows to
        # encode.
        pairs = [part.unsqueeze(-2).expand(*lead, len(u), part.shape[-1]) for part in c]
        q = _in_eval_mode(self.posterior)(u, *pairs)
        if isinstance(q, dist.Delta) or q.batch_shape not in ((len(u),), (*lead, len(u))):
            raise ValueError(
                f"Vamp: the posterior is a {type(q).__name__} with batch shape "
                f"{tuple(q.batch_shape)} for {len(u)} pseudo-inputs, expected a density for each: "
                "the point posterior of an autoencoder has none, use priors.Flat there"
            )
        return SameFamilyMixture(self.logits, q)

    def _bounded(self, u: Tensor) -> Tensor:
        if self.low is None and self.high is None:
            return u
        # The gradient of hardtanh, and of torch's clamp, is 0 at the bounds too: pixels that start
        # black could never be learned.
        bounded = u.detach().clamp(self.low, self.high)
        return torch.where(u == bounded, u, bounded)


def _in_eval_mode(module: nn.Module) -> Any:
    """Return a view of a module in eval mode, which shares its parameters, buffers and hooks.

    The module itself is not touched, so it may run in another thread, and in training mode, at the
    same time. What torch compiled for the module's own mode runs uncompiled in the view, and a
    method that was put on the module, such as another `forward`, is the view's there.
    """
    original = module._modules.get("_orig_mod")  # where `torch.compile(module)` keeps the module
    if original is not None:
        return _in_eval_mode(original)
    view = object.__new__(type(module))
    children = {
        name: child if child is None else _in_eval_mode(child)
        for name, child in module._modules.items()
    }
    own = {name: _of_view(value, module, view) for name, value in vars(module).items()}
    vars(view).update(own, training=False, _modules=children, _compiled_call_impl=None)
    return view


def _of_view(value: Any, module: nn.Module, view: nn.Module) -> Any:
    """Return a method of a module as one of its view, and any other value as it is."""
    bound = isinstance(value, MethodType) and value.__self__ is module
    return MethodType(value.__func__, view) if bound else value
