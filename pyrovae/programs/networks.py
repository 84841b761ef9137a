"""Networks that programs call and that are no part of their graph, with their buffers.

A graph need not be an `nn.Module`: its networks may be globals, or in a list. Their parameters are
in Pyro's store; their buffers, such as the running statistics of batch normalization, are nowhere.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["buffers_of", "networks_called"]


@contextmanager
def networks_called() -> Iterator[list[nn.Module]]:
    """Context that lists the networks that this thread calls, in order, without those inside."""
    here, called, inside = threading.get_ident(), list[nn.Module](), set[int]()

    def note(module: nn.Module, _: object) -> None:
        if threading.get_ident() == here and id(module) not in inside:
            called.append(module)
            inside.update(id(part) for part in module.modules())

    hook = register_module_forward_pre_hook(note)
    try:
        yield called
    finally:
        hook.remove()


def buffers_of(networks: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return the persistent buffers of networks, by the network's number and their name."""
    found = {}
    for number, network in enumerate(networks):
        parameters = dict(network.named_parameters(remove_duplicate=False))
        state = network.state_dict(keep_vars=True)
        for name, tensor in state.items():
            if name not in parameters:
                found[f"buffer {number}.{name}"] = tensor
    return found
