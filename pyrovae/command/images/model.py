"""A model of images or arrays whose results come in the unit of the stored data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from pyrovae import files, tasks
from pyrovae.command.images.preparation import Preparation
from pyrovae.command.runs import Run
from pyrovae.graphs import PoseVAE

__all__ = ["ImageModel"]

Batch = tuple[Tensor, ...]  # (x, *c), prepared
Curve = Callable[[Tensor, Tensor, Tensor], Tensor]  # from (a, b, t) to points, one for each t


@final
@dataclass(frozen=True)
class ImageModel:
    """A model, and how data are prepared for it.

    Attributes:
        preparation: How stored rows become rows as modelled.
        graph: The pair of model and guide.
    """

    preparation: Preparation
    graph: Any

    @classmethod
    def of(cls, run: Run[Any]) -> "ImageModel":
        """Read the model of a run.

        Raises:
            FileNotFoundError, FileError: It is not there, or truncated.
        """
        try:
            preparation = Preparation.from_dict(run.details.get("preparation", {}))
        except ValueError as error:
            path = run.folder / "run.json"
            raise files.FileError(
                f"{path} is truncated or not of this version ({error}). Run `pyrovae fit` again"
            ) from error
        return cls(preparation, files.load(run.model))

    def generate(
        self, n: int, label: str | None = None, *, mean: bool = True, seed: int = 0
    ) -> np.ndarray:
        """Return n samples: z from the prior, then the mean of p(x | z) or a draw from it.

        Args:
            n: Their number.
            label: The class of all; None takes the classes round-robin. Without context, None.
            mean: Whether x is the mean.
            seed: Of the draws.

        Raises:
            ValueError: The model does not know the label, or has no context.
        """
        if label is not None and not self.preparation.classes:
            raise ValueError(f"--label {label}: the model has no context; fit one with --condition")
        names = self.preparation.classes if label is None else (label,)
        c = self.preparation.context(np.arange(n) % max(1, len(names)), names)
        return self.preparation.undo(tasks.generate(self.graph, n, *c, mean=mean, seed=seed))

    @property
    def _zero_pose(self) -> dict[str, Any]:
        """Zero for each latent of a pose, by its site."""
        return self.graph.zero_pose(1) if isinstance(self.graph, PoseVAE) else {}

    def poses(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return posterior means of the pose by site, empty for a model without one."""
        if not self._zero_pose:
            return {}
        found = tasks.embed(self.graph, *batch, site=tuple(self._zero_pose))
        return {site: values.cpu().numpy() for site, values in found.items()}

    def upright(self, batch: Batch) -> np.ndarray:
        """Return the content of each row at zero pose."""
        return self.preparation.undo(tasks.reconstruct(self.graph, *batch, fixed=self._zero_pose))

    def reconstruct(self, batch: Batch) -> np.ndarray:
        """Return the mean of p(x | z) at the posterior mean of each row."""
        return self.preparation.undo(tasks.reconstruct(self.graph, *batch))

    def interpolate(
        self, batch: Batch, pairs: Sequence[tuple[int, int]], steps: int, *, spherical: bool = False
    ) -> np.ndarray:
        """Return what lies between the posterior means of two rows, decoded in the first's context.

        Args:
            batch: Prepared rows (x, *c).
            pairs: Numbers of the first and the last row of each path.
            steps: Number of points of a path, both ends included.
            spherical: Whether to interpolate along the sphere, and not linearly.

        Returns:
            An array with shape (pairs, steps, *event).

        Raises:
            ValueError: There is no such row.
        """
        x, *c = batch
        for start, end in pairs:
            if max(start, end) >= len(x):
                raise ValueError(f"--from {start} --to {end}: the data have rows 0 to {len(x) - 1}")
        first, last = (list(numbers) for numbers in zip(*pairs, strict=True))
        context = [part[first] for part in c]
        path = tasks.spherical if spherical else tasks.linear
        if self._zero_pose:
            return self._between_contents(x[first], x[last], context, path, steps)
        ends = zip(x[first], x[last], *context, strict=True)
        walks = [tasks.interpolate(self.graph, *row, steps=steps, path=path) for row in ends]
        return self.preparation.undo(torch.stack(walks))

    def _between_contents(
        self, first: Tensor, last: Tensor, context: list[Tensor], path: Curve, steps: int
    ) -> np.ndarray:
        """Return paths between contents, at zero pose; one embedding finds all ends."""
        both = (torch.cat([part, part]) for part in context)
        a, b = self._content((torch.cat([first, last]), *both)).chunk(2)
        t = torch.linspace(0, 1, steps, device=a.device)
        z = torch.cat([path(*ends, t) for ends in zip(a, b, strict=True)])
        x = self._decoded(z, *(part.repeat_interleave(steps, 0) for part in context))
        return x.reshape(len(first), steps, *x.shape[1:])

    def embed(self, batch: Batch) -> np.ndarray:
        """Return posterior means of z with shape (N, D)."""
        return self._content(batch).cpu().numpy()

    def manifold(self, steps: int) -> np.ndarray:
        """Return what two latents decode to at zero pose, with shape (steps, steps, *event)."""
        x = tasks.manifold(self.graph, steps=steps, fixed=self._zero_pose)
        return self.preparation.undo(x)

    def plane(self, low: np.ndarray, high: np.ndarray, steps: int) -> np.ndarray:
        """Return what an even grid over two latents decodes to, as `manifold` does.

        Args:
            low: Least value of each latent, with shape (2,).
            high: Largest value of each.
            steps: Number of points along each side.
        """
        right, up = (torch.linspace(a, b, steps) for a, b in zip(low, high, strict=True))
        z = torch.cartesian_prod(up.flip(0), right).flip(-1)  # (steps^2, 2) of (z1, z2)
        x = self._decoded(z)
        return x.reshape(steps, steps, *x.shape[1:])

    def _content(self, batch: Batch) -> Tensor:
        """Return posterior means of z, at the most probable turn where there is one."""
        if self._zero_pose:
            return tasks.embed(self.graph, *batch, site=("z",))["z"]
        return tasks.embed(self.graph, *batch)

    def _decoded(self, z: Tensor, *c: Tensor) -> np.ndarray:
        """Return the mean of p(x | z), at zero pose."""
        return self.preparation.undo(tasks.decode(self.graph, z, *c, fixed=self._zero_pose))
