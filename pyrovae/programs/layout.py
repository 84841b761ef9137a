"""How K draws of the latents for each of B rows lie in one run of a program.

    a plate of draws    batch dimensions (K, ..., B): the program runs inside a plate over draws,
                        left of its own plates, and the guide's network sees each row once
    repeated rows       batch dimensions (..., K B): the program runs on every row K times, all
                        inside its own plate over the rows

Both give the same K x B draws and terms. The first is faster, but the networks must take any batch
dimensions; the second serves every program that takes a minibatch. `find_layout` chooses.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from pyrovae.programs.plates import DRAWS, draws_plate

__all__ = ["Layout"]

Batch = tuple[Tensor, ...]


class Layout(NamedTuple):
    """The place of rows and draws among the batch dimensions of a program's sample sites.

    Attributes:
        rows: B.
        draws: K.
        depth: batch dimensions of the program's own plates where the draws have a plate to the left
            of them; None where the draws are repeated rows.
        plates: names of the plates over the rows; if empty, the size of a plate decides.
        separate: whether neither way gives what K separate runs would give.
    """

    rows: int
    draws: int = 1
    depth: int | None = None
    plates: frozenset[str] = frozenset()
    separate: bool = False

    def applied(
        self, program: Callable[..., object], batch: Batch
    ) -> tuple[Callable[..., object], Batch]:
        """Return the program and the batch to run it on."""
        if self.draws == 1:
            return program, batch
        if self.depth is not None:
            return draws_plate(self.draws, self.depth)(program), batch
        return program, tuple(part.repeat(self.draws, *[1] * (part.dim() - 1)) for part in batch)

    def by_row(self, value: Tensor, site: Any) -> Tensor:
        """Return a value or a term of a site, shape (*batch, *), as (K, B, *inner plates, *).

        Raises:
            ValueError: if the site is not in a plate over the rows.
        """
        unused = _unused_dimensions(site)
        value, row = value.squeeze(tuple(unused)), self._row_after(unused, site)
        if self.draws > 1 and self.depth is not None:
            return value.movedim((0, row), (0, 1))
        return value.movedim(row, 0).unflatten(0, (self.draws, self.rows))

    def as_site(self, value: Tensor, site: Any) -> Tensor:
        """Return what `by_row` returned in the shape that the site's program has it in."""
        unused = _unused_dimensions(site)
        row = self._row_after(unused, site)
        if self.draws > 1 and self.depth is not None:
            value = value.movedim((0, 1), (0, row))
        else:
            value = value.flatten(0, 1).movedim(0, row)
        for dimension in unused:
            value = value.unsqueeze(dimension)
        return value

    def rows_first(self, value: Tensor, site: Any) -> Tensor:
        """Return a site's value of one draw, shape (*batch, *), as (B, *inner plates, *).

        A site that is in no plate over the rows has its rows first, if it has rows at all.
        """
        alone = self._replace(draws=1, depth=None)
        return alone.by_row(value, site)[0] if self.has_rows(site) else value

    def rows_placed(self, value: Tensor, site: Any) -> Tensor:
        """Return what `rows_first` returned in the shape that the site's program has it in."""
        alone = self._replace(draws=1, depth=None)
        return alone.as_site(value[None], site) if self.has_rows(site) else value

    def per_row(self, term: Tensor, site: Any) -> Tensor:
        """Return a site's term, shape (*batch), summed over the plates inside a row: shape (K, B).

        Raises:
            ValueError: if the site is not in a plate over the rows.
        """
        by_row = self.by_row(term, site)
        return by_row.flatten(2).sum(2) if by_row.dim() > 2 else by_row

    def check_rows(self, site: Any) -> None:
        """Raise a ValueError if the site is not in a plate over the rows."""
        self.row_dimension(site)

    def has_rows(self, site: Any) -> bool:
        """Return whether the site is in a plate over the rows."""
        return self._row_frame(site) is not None

    def scale_of_rows(self, site: Any) -> Any:
        """Return N / M of the plate over the rows, 1 of a site that is in none."""
        frame = self._row_frame(site)
        return 1.0 if frame is None else _scale(frame)

    def scale_inside(self, site: Any) -> Any:
        """Return the product of N / M of a site's other plates, those inside a row."""
        rows = self._row_frame(site)
        return math.prod(_scale(f) for f in site["cond_indep_stack"] if f is not rows)

    def ambiguous(self, site: Any) -> bool:
        """Return whether several plates of a site may be that over the rows."""
        return not self.plates and len(self._of_size(site)) > 1

    def row_dimension(self, site: Any) -> int:
        """Return the place, counted from the right, of the rows among a site's batch dimensions."""
        frame = self._row_frame(site)
        if frame is None and site["is_observed"] and site["infer"].get("is_auxiliary"):
            raise ValueError(
                f'site "{site["name"]}" is a factor outside the plate over the {self.rows} rows, '
                "so it has no term per row. A factor of each row belongs inside `with "
                'pyro.plate("data", len(x)):`; a penalty of the weights goes to the optimizer, as '
                "weight_decay=, or is trained by SGVB_A or SGVB_B, which need no such terms"
            )
        if frame is None and site["infer"].get("is_auxiliary"):
            raise ValueError(
                f'site "{site["name"]}" is one draw of {_autoguide_of(site["name"])} for all '
                f"{self.rows} rows, so it has no term per row. Take AutoNormal, which keeps each "
                "latent in its plates, or let a network compute the guide from x. What this guide "
                "has is the sum over the rows, -Trace_ELBO().loss(graph.model, graph.guide, x); "
                "annealed_log_evidence from the prior asks no guide"
            )
        if frame is None:
            raise ValueError(
                f'site "{site["name"]}" is not in a plate over the {self.rows} rows, so it has no '
                'term per row. Sample it inside `with pyro.plate("data", len(x)):`. If the rows '
                "share it, train with SGVB_A or SGVB_B, which need no such terms (in minibatches "
                "of M of N rows scale its sites by M / N, as a BayesianVAE does), and evaluate the "
                "graph at a draw w of it: draw() of a BayesianVAE, or an object whose model and "
                f'guide are each block(condition(program, {{"{site["name"]}": w}}), '
                f'hide=["{site["name"]}"]), with block and condition of pyro.poutine'
            )
        return frame.dim

    def _row_after(self, unused: list[int], site: Any) -> int:
        """Return the place of the rows, counted from the left, once dimensions are left out."""
        row = len(site["fn"].batch_shape) + self.row_dimension(site)
        return row - sum(dimension < row for dimension in unused)

    def _row_frame(self, site: Any) -> Any:
        frames = self._of_size(site)
        over_rows = [f for f in frames if not self.plates or f.name in self.plates]
        return over_rows[0] if over_rows else None  # the outermost

    def _of_size(self, site: Any) -> list[Any]:
        size = self.rows * self.draws if self.depth is None else self.rows
        frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != DRAWS]
        return [f for f in frames if f.size == size]


def _autoguide_of(name: str) -> str:
    """Return the name of the autoguide of Pyro's that draws an auxiliary site, as far as known."""
    if name.endswith("_aux"):
        return "the guide, such as AutoStructured,"
    own = name.removeprefix("_").removesuffix("_latent")
    return f"the guide {own}" if own.startswith("Auto") else "the guide, such as an autoguide,"


def _unused_dimensions(site: Any) -> list[int]:
    """Return the batch dimensions of size 1 that only hold the place of plates of other sites."""
    shape = site["fn"].batch_shape
    used = {len(shape) + frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
    return [i for i, size in enumerate(shape) if size == 1 and i not in used]


def _scale(frame: Any) -> Any:
    """Return N / M of a plate over N of which M are drawn."""
    whole = frame.size if frame.full_size is None else frame.full_size
    return 1.0 if whole is frame.size else whole / frame.size
