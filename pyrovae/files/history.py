"""What a fit did: one row an epoch, in nats a datum."""

import dataclasses
from dataclasses import dataclass, field

__all__ = ["History", "in_words"]


def in_words(bound: str, reconstruction: float, kl: float) -> str:
    """Return a bound in nats, with its terms if it is the ELBO: of another bound the difference is no KL."""
    terms = f" = {reconstruction:.2f} - KL {kl:.2f}" if bound == "ELBO" else ""
    return f"{bound} {reconstruction - kl:.2f}{terms}"


@dataclass
class History:
    """The record of a `pyrovae.fit`: lists with one entry an epoch, in nats a datum; elbo = reconstruction - kl, at beta = 1.

    Attributes:
        bound_name: what `elbo` holds: the ELBO, or the bound that the objective trains, such as "L_K" of `IWAE`. Then `kl` is what is
            left of the reconstruction.
        elbo, reconstruction, kl: means over the epoch's training rows, as the weights moved; NaN under an objective of
            Pyro's own, which reports its loss only.
        loss: what was minimized, a row.
        beta: the KL's weight at the epoch's end.
        learning_rate: of the first parameter group, during the epoch.
        seconds: wall time of the epoch, validation included.
        validation_elbo, validation_reconstruction, validation_kl: on the validation data, under eval(), at beta = 1; empty without.
        seed: of the random stream of the fit.
        data: fingerprint of the training data.
        best_epoch: the epoch (from 1) whose weights were kept, None for the last.
        stopped: why it ended.
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
        """The epochs that ran, from 1."""
        return list(range(1, len(self.loss) + 1))

    def append(self, **row: float) -> None:
        """Add one epoch."""
        for name, value in row.items():
            getattr(self, name).append(value)

    def to_dict(self) -> dict:
        """Return it as plain lists and numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> "History":
        """Make it from what `to_dict` returned; keys of a later version are passed over."""
        renamed = {"weight": "beta", "bound": "bound_name"}  # of version 0.1
        content = {renamed.get(key, key): value for key, value in content.items()}
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known})
