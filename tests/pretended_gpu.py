"""A GPU that is pretended on the CPU: tensors that say "cuda", hold values, and note each wait.

torch's `FakeTensorMode` has no values, so that only what never reads one runs in it. Here a whole
fit runs, with the numbers of the CPU. What a GPU refuses is refused: tensors of two devices that
meet, and NumPy. What makes the host wait is noted: reading a value, a copy that is not queued, and
operations whose result has a size that depends on values. A queued copy to the host holds NaN until
an event that was recorded after it is waited for.
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import pyrovae

__all__ = ["Gpu", "OnGpu", "pretended"]

aten = torch.ops.aten
_LIBRARY = str(Path(pyrovae.__file__).parent)
CUDA = torch.device("cuda", 0)
_BY_VALUES = {  # the size of the result, or the result itself, is known when the values are
    aten._linalg_check_errors.default,
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
_INDEX = {aten.index.Tensor, aten._unsafe_index.Tensor}
_INDEX |= {aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_MOVE = ("to", "cpu", "cuda", "type_as")
_OF_NUMBERS = ("tensor", "as_tensor", "asarray", "new_tensor")


class Gpu:
    """What a pretended GPU has seen.

    Attributes:
        waits: what the host waited for, each with the line of the library that asked for it.
        copies: queued to the host, as pairs (target, values).
    """

    def __init__(self) -> None:
        self.waits: list[tuple[str, str]] = []
        self.copies: list[tuple[Tensor, Tensor]] = []

    def wait(self, what: object) -> None:
        """Note a wait."""
        own = [f for f in traceback.extract_stack() if f.filename.startswith(_LIBRARY)]
        places = [f"{f.filename.removeprefix(_LIBRARY)}:{f.lineno}" for f in own]
        self.waits.append((str(what), places[-1] if places else ""))

    def counted(self) -> Counter[tuple[str, str]]:
        """Return how often each place waited, and forget it."""
        found, self.waits = Counter(self.waits), []
        return found


_GPU = Gpu()


class OnGpu(Tensor):
    """A tensor that says that it is on a GPU, with the values of `host`, a tensor on the CPU."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor, requires_grad: bool = False) -> "OnGpu":
        like = {"strides": host.stride(), "storage_offset": host.storage_offset()}
        made = Tensor._make_wrapper_subclass(
            cls, host.size(), **like, dtype=host.dtype, requires_grad=requires_grad, device="cpu"
        )
        made.host = host
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def untyped_storage(self) -> Any:
        return self.host.untyped_storage()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        _GPU.wait("tolist")
        return self.host.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.host})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnGpu":
        copied = memo[id(self)] = OnGpu(self.host.detach().clone(), self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True
        return copied

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        _check(func, args, kwargs or {}, [v for v in given if isinstance(v, Tensor)])
        out = func(*tree_map(_on_host, args), **tree_map(_on_host, kwargs or {}))
        known = {id(v.host): v for v in given if isinstance(v, OnGpu)}  # changed in place
        if func is aten.copy_.default:
            return args[0]

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return known[id(value)] if id(value) in known else OnGpu(value)

        return tree_map(wrapped, out)


def _on_host(value: Any) -> Any:
    return value.host if isinstance(value, OnGpu) else value


def _check(func: Any, args: Any, kwargs: dict[str, Any], given: list[Tensor]) -> None:
    """Note a wait, or refuse what mixes devices."""
    if func is aten.copy_.default:
        if isinstance(args[0], OnGpu) is not isinstance(args[1], OnGpu):
            _GPU.wait(func)
        return
    if func in _BY_VALUES:
        _GPU.wait(func)
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        _GPU.wait(func)
    if func in _INDEX:
        indices = [v for v in args[1] if v is not None]
        moved = [v for v in indices if not isinstance(v, OnGpu)]
        if moved or any(v.dtype in (torch.bool, torch.uint8) for v in indices):
            _GPU.wait(func)
        given = [v for v in given if not any(v is each for each in moved)]
    # In its own formulas torch makes tensors where it believes these to be; numbers may be anywhere
    in_backward = torch._C._current_graph_task_id() != -1
    lost = [tuple(v.shape) for v in given if v.dim() and not isinstance(v, OnGpu)]
    if lost and not in_backward:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu: {func} {lost}"
        )


class _Devices(TorchFunctionMode):
    """Mode in which "cuda" may be named as a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args else None
        if name in _MOVE and isinstance(first, Tensor):
            return _moved(name, func, args, kwargs)
        if name == "pin_memory":
            return first
        if name == "one_hot" and isinstance(first, OnGpu):  # the CPU's reads the values
            return OnGpu(func(first.host, *args[1:], **kwargs))
        device = kwargs.get("device")
        if device is None and name.split("_")[0] == "new" and isinstance(first, OnGpu):
            device = CUDA
        if device is None:
            return func(*args, **kwargs)
        if name in _OF_NUMBERS and isinstance(first, Tensor) and name != "new_tensor":
            return _moved("to", func, (first, device), {"dtype": kwargs.get("dtype")})
        return _made(func, name, args, kwargs, _is_gpu(device))


def _is_gpu(device: Any) -> bool:
    return str(device).startswith("cuda") or (isinstance(device, int) and device == 0)


def _made(func: Any, name: str, args: Any, kwargs: dict[str, Any], there: bool) -> Any:
    """Return a new tensor."""
    if kwargs.get("device") is not None:
        kwargs["device"] = "cpu"
    needs_grad = kwargs.pop("requires_grad", False)
    with torch._C.DisableTorchFunction(), torch.no_grad():
        made = func(*tree_map(_on_host, args), **kwargs)
    if there and name in _OF_NUMBERS:
        _GPU.wait(name)
    return OnGpu(made, needs_grad) if there else made.requires_grad_(needs_grad)


def _moved(name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return a tensor on the device, and with the type, that a method such as `to` names."""
    x, *rest = args
    rest = [name] if name in ("cpu", "cuda") else rest
    device, dtype, queued = kwargs.get("device"), kwargs.get("dtype"), kwargs.get("non_blocking")
    for one in rest:
        if isinstance(one, Tensor):
            device, dtype = one.device, one.dtype
        elif isinstance(one, torch.dtype):
            dtype = one
        elif isinstance(one, bool):
            queued = one
        elif one is not None:
            device = one
    here = isinstance(x, OnGpu)
    there = here if device is None else _is_gpu(device)
    if here is there:
        same = not kwargs.get("copy") and dtype in (None, x.dtype)
        return x if same else _Cast.apply(x, dtype or x.dtype)
    if not queued and x.numel():
        _GPU.wait("copy to the GPU" if there else "copy to the host")
    moved = (_ToGpu if there else _ToHost).apply(x)
    if not there and queued:
        _GPU.copies.append((moved, moved.clone()))
        moved.fill_(torch.nan if moved.is_floating_point() else -1)
    return moved if dtype in (None, moved.dtype) else moved.to(dtype)


class _Cast(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = x.dtype
        return aten._to_copy.default(x, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return aten._to_copy.default(gradients[0], dtype=ctx.dtype), None


class _ToGpu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return OnGpu(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].host.clone()


class _ToHost(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.host.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return OnGpu(gradients[0])


class _Event:
    """Of the copies that are queued when it is recorded."""

    def record(self, *_: Any) -> None:
        self.copies, _GPU.copies = _GPU.copies, []

    def synchronize(self) -> None:
        for target, values in self.copies:
            target.copy_(values)


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> "_Generator":
        return super().__new__(cls, "cpu")


def _grouped(tensors: Any, *_: Any) -> dict[Any, Any]:
    """Group lists of tensors of one kind as torch does, which asks in C++ for the device."""
    first = tensors[0][0]
    return {(first.device, first.dtype): (tensors, list(range(len(tensors[0]))))}


@contextmanager
def pretended(patch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Context in which there is a GPU, torch's device "cuda"; `patch` ends with it."""
    global _GPU
    _GPU = Gpu()
    instead = {
        "Event": _Event,
        "current_device": lambda: 0,
        "current_stream": lambda *_: None,
        "default_generators": (torch.default_generator,),
        "device_count": lambda: 1,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "is_initialized": lambda: True,
        "manual_seed_all": lambda *_: None,
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "synchronize": lambda *_: _GPU.wait("synchronize"),
    }
    for name, value in instead.items():
        patch.setattr(torch.cuda, name, value)
    health = "_accelerator_graph_capture_health_check"
    patch.setattr(torch.optim.Optimizer, health, lambda *_: None)
    patch.setattr(torch, "Generator", _Generator)
    group = "_group_tensors_by_device_and_dtype"
    patch.setattr(f"torch.nn.utils.clip_grad.{group}", _grouped)
    patch.setattr(torch.optim.Optimizer, group, staticmethod(_grouped))
    host = lambda *given: not any(isinstance(v, OnGpu) for v in given)  # noqa: E731
    patch.setattr(torch, "_has_compatible_shallow_copy_type", host)  # `Module.to` replaces others
    with _Devices():
        yield _GPU
