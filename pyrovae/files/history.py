"""The record of a fit: one entry per epoch, in nats per observation."""

import dataclasses
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any

from pyrovae.files.kinds import Kind, check, list_of, number, optional, text, whole

__all__ = ["History", "in_words"]

_KINDS: dict[Any, Kind] = {  # of a field's type, as it is read from a file
    list[float]: list_of(number),
    str: text,
    str | None: optional(text),
    int | None: optional(whole(-(2**63), 2**64 - 1)),
}
_OLD_NAMES = {"weight": "beta", "bound": "bound_name"}  # of version 0.1.0


def in_words(bound_name: str, reconstruction: float, kl: float, loss: float = nan) -> str:
    """Return a bound in nats; the ELBO with its terms, since the gap of other bounds is no KL.

    An objective of Pyro reports its loss only, and NaN for the terms.
    """
    if isnan(reconstruction):
        return f"loss {loss:.2f}"
    terms = f" = {reconstruction:.2f} - KL {kl:.2f}" if bound_name == "ELBO" else ""
    return f"{bound_name} {reconstruction - kl:.2f}{terms}"


@dataclass(repr=False)
class History:
    """The record of a `pyrovae.fit`: lists with one entry per epoch, in nats per observation.

    elbo = reconstruction - kl, at beta = 1.

    Attributes:
        bound_name: what `elbo` holds: "ELBO", or the bound that the objective trains, such as "L_K"
            of `IWAE`. Then `kl` is the gap between the reconstruction and that bound.
        elbo, reconstruction, kl: means over the epoch's training data while the weights change; NaN
            under one of Pyro's own objectives, which returns its loss only.
        loss: the minimized loss per observation.
        beta: weight of the KL at the end of the epoch.
        learning_rate: of the first parameter group, during the epoch.
        seconds: wall time of the epoch, validation included.
        validation_elbo, validation_reconstruction, validation_kl: on the validation data, in eval()
            mode, at beta = 1; empty without validation data.
        seed: of the random stream of the fit.
        data: fingerprint of the training data.
        best_epoch: the epoch (from 1) whose weights were kept, None for the last.
        stopped: why the fit ended.
    """

    elbo: list[float] = field(default_factory=list)
    reconstruction: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    beta: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validation_elbo: list[float] = field(default_factory=list)
    validation_reconstruction: list[float] = field(default_factory=list)
    validation_kl: list[float] = field(default_factory=list)
    bound_name: str = "ELBO"
    seed: int | None = None
    data: str | None = None
    best_epoch: int | None = None
    stopped: str = "not started"

    @property
    def epoch(self) -> list[int]:
        """The numbers of the finished epochs, from 1."""
        return list(range(1, len(self.loss) + 1))

    def __repr__(self) -> str:
        words = [f"{len(self.loss)} epochs"]
        if self.elbo and not isnan(self.elbo[-1]):
            words.append(f"{self.bound_name} {self.elbo[-1]:.2f}")
        elif self.loss:  # of an objective that tells no terms
            words.append(f"loss {self.loss[-1]:.2f}")
        if self.validation_elbo:
            words.append(f"validation {self.validation_elbo[-1]:.2f}")
        if self.best_epoch is not None:
            best = self.validation_elbo[self.best_epoch - 1]
            words.append(f"best {best:.2f} at epoch {self.best_epoch}")
        return f"History({', '.join([*words, self.stopped])})"

    def append(self, **row: float) -> None:
        """Add one epoch."""
        for name, value in row.items():
            getattr(self, name).append(value)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain lists, numbers and strings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "History":
        """Make the record from what `to_dict` returned, in this version, an earlier or a later one.

        Keys of a later version are ignored.

        Raises:
            ValueError: if an entry is of another type, or the lists are not of one length.
        """
        known = {f.name: _KINDS[f.type] for f in dataclasses.fields(cls)}
        renamed = {_OLD_NAMES.get(key, key): value for key, value in content.items()}
        given = {key: value for key, value in renamed.items() if key in known}
        check(given, {key: known[key] for key in given}, "history")
        _check_lengths(given)
        return cls(**given)


def _check_lengths(content: dict[str, Any]) -> None:
    """Refuse lists that have neither one entry per epoch nor none."""
    epochs = len(content.get("loss", ()))
    for name, values in content.items():
        if isinstance(values, list) and len(values) not in (0, epochs):
            raise ValueError(
                f"history.{name} has {len(values)} entries, but history.loss has {epochs}"
            )
    best, judged = content.get("best_epoch"), len(content.get("validation_elbo", ()))
    if best is not None and not 1 <= best <= judged:
        raise ValueError(f"history.best_epoch is {best}, but {judged} epochs were validated")
