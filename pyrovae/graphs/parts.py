"""What graphs share: the type of a module that is their attribute, and checks of parts and data."""

from typing import Any, NoReturn

__all__ = [
    "Submodule",
    "check_graph",
    "check_networks",
    "check_part",
    "check_parts",
    "check_rows_of_data",
    "refuse_call",
]

Submodule = Any  # torch types an nn.Module's attributes as Tensor | Module, which has no `check`

_PART = "an object of one of pyrovae's parts, or a module of your own that returns a distribution"
_NETWORK = "a network, an object that can be called"
_GRAPH = "a graph, an object with the methods model and guide, such as a pyrovae.VAE"


def check_parts(graph: object, /, **parts: object) -> None:
    """Check that the parts of a graph are objects that can be called.

    Raises:
        TypeError: if one is a class, whose parentheses were forgotten, or something else; names it.
    """
    for name, part in parts.items():
        _check(graph, name, part, callable(part), _PART)


def check_networks(graph: object, /, **networks: object) -> None:
    """Check that the networks, or other functions, of a graph are objects that can be called.

    Raises:
        TypeError: as `check_parts`.
    """
    for name, network in networks.items():
        _check(graph, name, network, callable(network), _NETWORK)


def check_graph(graph: object, /, **wrapped: object) -> None:
    """Check that what a graph wraps is a graph, an object with a model; `fit` asks for the guide.

    Raises:
        TypeError: as `check_parts`.
    """
    for name, inner in wrapped.items():
        _check(graph, name, inner, callable(getattr(inner, "model", None)), _GRAPH)


def check_part(part: object, *data: Any) -> None:
    """Call `part.check(*data)` if the part has that method; a user's own part needs none.

    Raises:
        ValueError: whatever the part raises, such as a likelihood for data outside its support.
    """
    check = getattr(part, "check", None)
    if check is not None:
        check(*data)


def check_rows_of_data(graph: object, rows: int) -> None:
    """Call `graph.check_data_size(rows)` if a wrapped graph has that method.

    Raises:
        ValueError: if the graph was told another number of training rows.
    """
    check = getattr(graph, "check_data_size", None)
    if check is not None:
        check(rows)


def refuse_call(graph: object, *_: object, **__: object) -> NoReturn:
    """Say what to call instead of a graph, as the `forward` of one that is a module.

    Raises:
        NotImplementedError: always, as any module without a forward.
    """
    raise NotImplementedError(
        f"{type(graph).__name__}: a graph is a pair of programs, model and guide, not a function. "
        "Call pyrovae.reconstruct(graph, x) or pyrovae.embed(graph, x); "
        "pyrovae.decode(graph, z) or pyrovae.generate(graph, n); pyrovae.elbo(graph, x)"
    )


def _check(graph: object, name: str, value: object, fits: bool, expected: str) -> None:
    if isinstance(value, type) or not fits:
        what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise TypeError(f"{type(graph).__name__}: {name} is {what}, expected {expected}")
