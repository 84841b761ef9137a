"""The checks of a fit's data, before anything is trained."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from pyrovae import programs
from pyrovae.data import ArrayMinibatches, Minibatches, TransformedRows
from pyrovae.objectives import Objective
from pyrovae.training.arguments import Arguments
from pyrovae.training.distributed import Processes
from pyrovae.training.row_parameters import parameter_of_rows

__all__ = [
    "check_data",
    "check_data_size",
    "check_programs",
    "check_rows_of_parameters",
    "first_minibatch_named",
    "warn_of_shared_latents",
    "warn_of_unsampled_prior",
    "warn_of_untrained_network",
]


@contextmanager
def first_minibatch_named(training: Minibatches, example: tuple[Tensor, ...]) -> Iterator[None]:
    """Context in which errors say that the first minibatch of a loader or data set is meant.

    Those about arrays stay as they are: the user sees their shapes.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if isinstance(training, ArrayMinibatches) or not error.args:
            raise
        shapes = ", ".join(str(tuple(part.shape)) for part in example[1:])
        context = f", its context {shapes}" if shapes else ""
        place = f"in the first minibatch, whose x has shape {tuple(example[0].shape)}{context}: "
        error.args = (place + str(error.args[0]), *error.args[1:])
        raise


def check_programs(graph: Any, objective: Objective, *batch: Tensor) -> programs.Programs:
    """Check that an objective can train a graph, on one minibatch and under Pyro's validation.

    Returns:
        The programs, with their parameters found.

    Raises:
        ValueError: if there is nothing to train, or the programs do not fit (`check_sites`).
        TypeError: if the graph lacks a program.
    """
    found = programs.Programs(graph)
    if any(part.is_inference() for part in found.parameters()):
        raise ValueError(
            f"fit: parameters of the {type(graph).__name__} were made in torch.inference_mode() "
            "and can get no gradient. Build or load the graph outside of it"
        )
    found.validate(lambda p, q: objective.check(p, q, objective.needs_rsample), *batch)
    if not found.trainable():
        held = isinstance(graph, torch.nn.Module) and any(True for _ in graph.parameters())
        remedy = (
            "all have requires_grad=False. Set it by graph.requires_grad_(True)"
            if held
            else "make the graph an nn.Module that holds its networks"
        )
        raise ValueError(f"{type(graph).__name__} has no parameters to train: {remedy}")
    return found


def check_data_size(
    graph: Any, objective: Objective, training: Minibatches, group: Processes
) -> None:
    """Check that an objective and a graph over all rows were told how many there are.

    A graph says so by a method `check_data_size(rows)`, such as that of a `BayesianVAE`. It is
    asked only where its `check` is its own: who replaces that, as `graph.check = lambda *data:
    None`, wants no check.

    Raises:
        ValueError: if one was told another number.
    """
    possible = _numbers_of_rows(training, group)
    size = objective.data_size
    if size is not None and possible and size not in possible:
        raise ValueError(
            f"fit: the objective's data_size is {size}, but there are {possible[0]} training rows: "
            f"give data_size={possible[0]}"
        )
    check = getattr(graph, "check_data_size", None)
    if check is not None and "check" not in getattr(graph, "__dict__", ()):
        _check_any(check, possible)


def warn_of_shared_latents(
    graph: Any, batch: tuple[Tensor, ...], training: Minibatches, group: Processes
) -> None:
    """Warn of a latent of all N rows whose KL every minibatch of M rows counts as a whole.

    Its posterior would be that of M rows. A factor M / N around its sites in both programs, or a
    plate over N rows of which M are drawn, makes the minibatches sum to the whole bound. A graph
    whose `check` was replaced wants none, as in `check_data_size`.
    """
    total, rows = next(iter(_numbers_of_rows(training, group)), 0), len(batch[0])
    if total <= rows * group.size or "check" in getattr(graph, "__dict__", ()):
        return
    with programs.evaluation(graph, seed=0):
        p, q = programs.run(graph.model, graph.guide, *batch)
    programs.name_rows(graph, batch, p, q)
    shared = [
        name
        for name, site in programs.latent_by_name(q).items()
        if not q.layout.has_rows(site) and rows not in site["value"].shape
    ]
    scales = [site["scale"] for site in (*programs.observed(p), *(q[name] for name in shared))]
    if shared and all(isinstance(scale, int | float) and scale == 1 for scale in scales):
        warnings.warn(
            f'fit: all rows share the latent "{shared[0]}", and each minibatch of {rows} of '
            f"{total} rows counts its KL as a whole: its posterior becomes that of {rows}. Sample "
            f"it within pyro.poutine.scale(scale=len(x) / {total}) in model and guide, as a "
            "BayesianVAE does, or train on all rows at once (batch_size=)",
            stacklevel=4,
        )


def warn_of_untrained_network(found: programs.Programs, batch: tuple[Tensor, ...]) -> None:
    """Warn of a network of the programs that is no part of the graph and not in Pyro's store."""
    if network := found.untrained_network(*batch):
        warnings.warn(
            f"fit: the programs call a {network} whose parameters are not trained: it is no part "
            f"of the graph, a {type(found.graph).__name__}, and not in Pyro's store. Make it an "
            "attribute of the graph, an nn.Module (of several, an nn.ModuleList); or call "
            'pyro.module("a name of its own", network) in the program. One that is meant to be '
            "constant gets requires_grad_(False)",
            stacklevel=4,
        )


def warn_of_unsampled_prior(found: programs.Programs) -> None:
    """Warn of a weight that a `PyroModule` draws from its prior and that is no sample site."""
    if prior := found.unsampled_prior():
        warnings.warn(
            f'fit: "{prior}" has a prior, by PyroSample, and is no sample site: outside a call of '
            "its PyroModule, as in a method named model, Pyro draws it each time it is read, and "
            "nothing infers it. Make the program the forward of a PyroModule, `self.model = "
            "Decoder()`, and read the weight there, outside the plate over the rows",
            stacklevel=4,
        )


def check_rows_of_parameters(
    graph: Any,
    parameters: dict[str, Tensor],
    batch: tuple[Tensor, ...],
    training: Minibatches,
    group: Processes,
) -> None:
    """Check that no parameter belongs to rows by their place in minibatches of other rows.

    Raises:
        ValueError: if one does.
    """
    total = max(_numbers_of_rows(training, group), default=0)
    if not (total > len(batch[0]) or _is_shuffled(training)):
        return
    name = parameter_of_rows(graph, parameters, batch)
    if name is not None:
        raise ValueError(
            f'fit: the parameter "{name}" belongs to rows by their place in the minibatch, as '
            "those of an autoguide do, and each step has other rows there: the rows would share "
            f"it. Train on all {total} rows at once, by the arrays and batch_size={total} (build "
            "an autoguide anew for that), or let a network compute the guide from x. Where the "
            "place has a meaning, such as the time in a series, pass an iterable of minibatches"
        )


def _is_shuffled(training: Minibatches) -> bool:
    """Return whether a `DataLoader` draws minibatches of rows in another order at each epoch.

    Not if its data set makes the minibatches, such as one series each, or gives the rows in turn.
    """
    loader = getattr(training, "iterable", None)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    return loader.batch_sampler is not None and not isinstance(loader.sampler, SequentialSampler)


def _numbers_of_rows(training: Minibatches, group: Processes) -> list[int]:
    """Return the numbers that the training data of all processes may count, none if not known.

    A sampler of a `DataLoader` may read some rows of its data set, or some of them again: then both
    are possible.
    """
    if training.divided:
        return [] if training.rows is None else [training.rows]
    read = group.gathered(training.rows)
    if None in read:
        return []
    loader = getattr(training, "iterable", None)
    dataset: Any = loader.dataset if isinstance(loader, DataLoader) else None
    whole = [len(dataset)] if hasattr(dataset, "__len__") else []
    return [sum(read), *whole] if group.size == 1 else [*whole, sum(read)]


def _check_any(check: Callable[[int], None], possible: list[int]) -> None:
    """Call a check with each number, until it accepts one.

    Raises:
        ValueError: of the first number, if it accepts none.
    """
    refusals = []
    for rows in possible:
        try:
            check(rows)
        except ValueError as error:
            refusals.append(error)
        else:
            return
    if refusals:
        raise refusals[0]


def check_data(
    graph: Any,
    training: Minibatches,
    held_out: Minibatches | None,
    arguments: Arguments,
    example: tuple[torch.Tensor, ...],
) -> None:
    """Check arrays whole, and of other data the first minibatch, `example`.

    Raises:
        TypeError: if the graph is a class.
        ValueError: if a value does not fit the graph, or held-out rows have another shape.
    """
    if isinstance(graph, type):
        raise TypeError(f"fit: graph is the class {graph.__name__}, expected an object of it")
    devices = programs.cuda_devices(graph)
    if held_out is not None:
        with programs.random_stream(0, devices):
            _check_shapes(training.first(), held_out.first())
    with programs.random_stream(0, devices):
        if isinstance(training, ArrayMinibatches) and arguments.batch_transform is None:
            x, *c = training.checked
            if arguments.transform is not None:  # block by block: never the whole data at once
                x = TransformedRows(x, arguments.transform, *training.placement)
            arguments.check(x, *c)
        else:
            arguments.check(*example)
    if isinstance(held_out, ArrayMinibatches):
        arguments.check(*held_out.checked)


def _check_shapes(training: tuple[torch.Tensor, ...], held_out: tuple[torch.Tensor, ...]) -> None:
    shapes = [[tuple(part.shape[1:]) for part in batch] for batch in (training, held_out)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"validation: rows of shape {shapes[1]}, the training data's have {shapes[0]}: pass "
            "both in the same form"
        )
