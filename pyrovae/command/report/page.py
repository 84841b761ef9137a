"""One self-contained HTML page about a run: its figures, its pictures, and what was run.

`page.html` is the template; it needs no script, no link and no server. All text is escaped, and the
pictures are PNGs inside the page.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING

from pyrovae.command.report import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Report", "Row", "render"]


@dataclass(frozen=True)
class Row:
    """One figure of the table: its name, its value with the unit, and what it means."""

    name: str
    value: str
    note: str = ""

    def line(self) -> str:
        """Return the figure as a line for the terminal."""
        return f"{self.name:<22} {self.value:<22} {self.note}".rstrip()


@dataclass(frozen=True)
class Picture:
    """One picture with its heading and its caption, and figures that belong to it."""

    title: str
    figure: Figure
    caption: str = ""
    rows: Sequence[Row] = ()

    @property
    def source(self) -> str:
        """The picture as a PNG in a data URI."""
        data = base64.b64encode(plots.png(self.figure)).decode("ascii")
        return f"data:image/png;base64,{data}"


@dataclass(frozen=True)
class Report:
    """The content of the page, top to bottom.

    Attributes:
        title: Heading of the page.
        subtitle: One line below it.
        warnings: Sentences that a reader must not miss.
        rows: The table of figures.
        pictures: The pictures, in order.
        facts: What was run: names and values.
    """

    title: str
    subtitle: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    rows: Sequence[Row] = ()
    pictures: Sequence[Picture] = ()


def render(report: Report) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, StrictUndefined

    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(template).render(report=report)
