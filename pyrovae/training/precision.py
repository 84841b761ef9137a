"""Training with products in bfloat16, and everything else in the graph's own precision; or in TF32.

Linear layers, convolutions and recurrent layers compute most of a step. Only they run under
autocast (Micikevicius et al. 2018): their outputs are returned in the type of the weights, so that
densities, KL terms and the loss lose no digits, whatever programs use the layers.
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BFloat16Products", "TF32Products"]

_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


class BFloat16Products:
    """Context in which a graph's layers multiply in bfloat16; it can be entered again and again.

    Args:
        graph: an `nn.Module`.

    Raises:
        ValueError: if the graph is no module, or has no layer that multiplies.
    """

    def __init__(self, graph: object) -> None:
        modules = graph.modules() if isinstance(graph, nn.Module) else ()
        self.layers = [module for module in modules if isinstance(module, _LAYERS)]
        if not self.layers:
            raise ValueError(
                f"fit: precision is bf16, but the {type(graph).__name__} holds no linear, "
                "convolutional or recurrent layer; leave precision out, or make the graph an "
                "nn.Module that holds its networks"
            )
        self._hooks: list[Any] = []
        self._entered: list[torch.autocast] = []

    def __enter__(self) -> None:
        for layer in self.layers:
            before = layer.register_forward_pre_hook(self._before)
            self._hooks += [before, layer.register_forward_hook(self._after, always_call=True)]

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _before(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        device = next(layer.parameters()).device.type
        context = torch.autocast(device, torch.bfloat16)
        context.__enter__()
        self._entered.append(context)

    def _after(self, layer: nn.Module, inputs: Any, output: Any) -> Any:
        self._entered.pop().__exit__(None, None, None)
        return _converted(output, next(layer.parameters()).dtype)


class TF32Products:
    """Context in which float32 matrices are multiplied in TF32, where the device can.

    Weights and results stay in float32; of each factor, ten binary digits are read. It can be
    entered again and again, and torch's settings are put back each time. (Convolutions on a GPU
    are in TF32 by torch's default.)

    Raises:
        ValueError: if torch's older and newer settings of this were both used.
    """

    def __init__(self) -> None:
        try:
            torch.get_float32_matmul_precision()
        except RuntimeError as error:
            raise ValueError(
                "fit: precision is tf32, but torch.backends.cuda.matmul.fp32_precision is set to "
                f"{torch.backends.cuda.matmul.fp32_precision!r} already; leave one of them out"
            ) from error
        backends: Any = torch.backends
        self._backends = backends.cuda.matmul, backends.mkldnn.matmul

    def __enter__(self) -> None:
        self._of_backends = [backend.fp32_precision for backend in self._backends]
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")

    def __exit__(self, *_: object) -> None:
        torch.set_float32_matmul_precision(self._before)
        for backend, value in zip(self._backends, self._of_backends, strict=True):
            backend.fp32_precision = value


def _converted(output: Any, dtype: torch.dtype) -> Any:
    if isinstance(output, Tensor):
        return output.to(dtype) if output.is_floating_point() else output
    if isinstance(output, tuple):
        return tuple(_converted(part, dtype) for part in output)
    return output
