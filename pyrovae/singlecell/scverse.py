"""scvi-tools' arguments and names, translated to this library's or refused with ours."""

from collections.abc import Mapping
from typing import Any

import torch

from pyrovae.files import History
from pyrovae.singlecell.messages import listed
from pyrovae.singlecell.state import Model

__all__ = ["described", "device_of", "history_frames", "joined", "plan_arguments"]

_PLAN = ("lr", "weight_decay", "eps", "n_epochs_kl_warmup", "compile")  # of `train` itself
_INSTEAD = {  # scvi-tools' plan_kwargs: what to do here
    "optimizer": "Adam is used; for another one call pyrovae.fit(model.graph, ...)",
    "reduce_lr_on_plateau": "call pyrovae.fit(model.graph, ..., scheduler=...)",
    "n_steps_kl_warmup": "give n_epochs_kl_warmup",
    "max_kl_weight": "call pyrovae.fit with objectives.SGVB_B(beta=objectives.warm_up(t, target))",
}
# scvi-tools' keys of `history`: ours, and the sign (its losses are negative bounds).
_ALIASES = {
    "elbo_train": ("elbo", -1),
    "elbo_validation": ("validation_elbo", -1),
    "reconstruction_loss_train": ("reconstruction", -1),
    "reconstruction_loss_validation": ("validation_reconstruction", -1),
    "kl_local_train": ("kl", 1),
    "kl_local_validation": ("validation_kl", 1),
    "train_loss_epoch": ("loss", 1),
    "kl_weight": ("beta", 1),
}


def plan_arguments(plan_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of `train` that scvi-tools takes in `plan_kwargs`.

    Raises:
        ValueError: for others; names what to use instead.
    """
    given = dict(plan_kwargs or {})
    unknown = [name for name in given if name not in _PLAN]
    if unknown:
        known = [f"{name}: {_INSTEAD[name]}" for name in unknown if name in _INSTEAD]
        remedy = "; ".join(known) or "leave them out"
        raise ValueError(
            f"train: plan_kwargs {listed(unknown)} are not arguments here, expected "
            f"{', '.join(_PLAN)} (which train takes directly): {remedy}"
        )
    return given


def device_of(accelerator: str, devices: Any = "auto") -> torch.device:
    """Return the device that scvi-tools' accelerator and devices name.

    Args:
        accelerator: "cpu"; "gpu" or "cuda"; "mps"; "auto" takes a GPU if there is one.
        devices: "auto", or the number of one device, as an integer or in a list.

    Raises:
        ValueError: if the accelerator is unknown or not there, or several devices are asked for.
    """
    kinds = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator not in kinds:
        raise ValueError(
            f"accelerator is {accelerator!r}, expected 'auto' or one of {', '.join(kinds)}"
        )
    kind = kinds[accelerator]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if not there[kind]:
        raise ValueError(
            f"accelerator is {accelerator!r}, but torch finds no such device; use 'auto' or 'cpu'"
        )
    several = list(devices) if isinstance(devices, list | tuple) else [devices]
    if len(several) != 1 or not (several[0] in ("auto", -1) or isinstance(several[0], int)):
        raise ValueError(f"devices is {devices!r}, expected 'auto' or one device's number")
    index = several[0]
    if kind != "cuda" or isinstance(index, str) or not isinstance(devices, list | tuple):
        return torch.device(kind)  # a bare number counts devices, as in Lightning
    return torch.device(kind, index)


def history_frames(history: History) -> dict[str, Any]:
    """Return a DataFrame by epoch for each list of a history, under our and scvi-tools' names.

    scvi-tools' losses are negative bounds: lower is better.
    """
    import pandas as pd

    lists = {name: v for name, v in history.to_dict().items() if isinstance(v, list) and v}
    lists |= {
        alias: [sign * value for value in lists[name]]
        for alias, (name, sign) in _ALIASES.items()
        if name in lists
    }
    frames = {}
    for name, values in lists.items():
        epoch = pd.RangeIndex(len(values), name="epoch")
        frames[name] = pd.DataFrame({name: values}, index=epoch)
    return frames


def joined(before: History, after: History) -> History:
    """Return two fits, one after the other, as one history.

    The terms on validation cells are kept if both have them.
    """
    first, second = before.to_dict(), after.to_dict()
    epochs = len(before.epoch), len(after.epoch)
    both = {
        name: [*first[name], *value] if (len(first[name]), len(value)) == epochs else []
        for name, value in second.items()
        if isinstance(value, list)
    }
    if after.best_epoch is not None and both["validation_elbo"]:
        second["best_epoch"] = epochs[0] + after.best_epoch
    else:
        second["best_epoch"] = None
    return History.from_dict({**second, **both})


def described(model: Model) -> str:
    """Return the model in a few lines: sizes, likelihood, device, and whether it is trained."""
    encoding, graph = model.cells.encoding, model.graph
    likelihood = graph.likelihood
    n_latent = graph.prior(*_no_context(model)).event_shape[-1]
    library = "observed" if graph.library_posterior is None else "latent"
    fit = model.fit_result
    status = f"trained for {len(fit.history.epoch)} epochs" if fit else "not trained"
    lines = [
        "SingleCellVAE",
        f"  cells: {len(model.cells.names) if model.cells.names is not None else 'none'}, "
        f"{len(encoding.genes)} genes, {len(encoding.batches)} batches, "
        f"{len(encoding.labels)} labels, {encoding.covariates} columns of covariates",
        f"  n_latent: {n_latent}, gene_likelihood: {type(likelihood).__name__}, "
        f"dispersion: {likelihood.dispersion}, library size: {library}",
        f"  {status}, on {next(graph.parameters()).device}",
    ]
    return "\n".join(lines)


def _no_context(model: Model) -> tuple[torch.Tensor, ...]:
    """Return a context of one cell, all zeros, to ask the prior for its shape."""
    columns = [part.shape[-1] for part in model.cells.data[1:]]
    device = next(model.graph.parameters()).device
    return tuple(torch.zeros(1, n, device=device) for n in columns)
