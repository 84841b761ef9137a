"""Adam and AdamW whose first use does not import torch's compiler.

Every optimizer of torch imports `torch._dynamo` when it is made, steps or gives its state, only to
tell the compiler to leave it alone. That takes two seconds once a process, about as long as
`import torch`. Here the same methods are called without that wrapping. Inside a compiled function,
which holds the compiler already, they work too, but are traced.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Adam", "AdamW", "adam"]


class _WithoutCompiler(Optimizer):
    """Abstract: the methods of the next class, without the wrapping."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters."""
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as a checkpoint keeps it."""
        return inspect.unwrap(Optimizer.state_dict)(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state that `state_dict` returned."""
        inspect.unwrap(Optimizer.load_state_dict)(self, state_dict)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step."""
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            bound: Any = super().step
            return inspect.unwrap(bound.__func__)(self, closure)


class Adam(_WithoutCompiler, torch.optim.Adam):
    """`torch.optim.Adam` (Kingma & Ba 2015)."""


class AdamW(_WithoutCompiler, torch.optim.AdamW):
    """`torch.optim.AdamW` (Loshchilov & Hutter 2019)."""


def adam(parameters: Iterable[Tensor]) -> Optimizer:
    """Return Adam with a learning rate of 1e-3 (Kingma & Ba 2015), fused into one kernel."""
    return Adam(parameters, lr=1e-3, fused=True)
