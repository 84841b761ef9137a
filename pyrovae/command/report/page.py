"""One self-contained HTML page about a run: what was run, its figures, its pictures. No script, no link, no server.

All text is escaped; pictures are PNGs inside the page; the file is replaced in one step, so a crash leaves the old one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pyrovae.command.report import plots
from pyrovae.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Report", "Row", "render", "write"]

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #222; background: #fff;
       max-width: 64rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
.subtitle { color: #666; margin: 0 0 1.2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; width: 17rem; } td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.note, figcaption { color: #666; font-size: .9rem; } figure { margin: 0; } figure img { max-width: 100%; }
.facts th { width: 9rem; } code { font-size: .9em; overflow-wrap: anywhere; }
.warning { background: #fff4e0; border-left: 4px solid #d55e00; padding: .6rem .9rem; margin: .8rem 0; }
@media print { body { margin: 0; max-width: none; } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Row:
    """One figure of the table: its name, its value with the unit, and what it means."""

    name: str
    value: str
    note: str = ""

    def line(self) -> str:
        """Return it as a line for the terminal."""
        return f"{self.name:<22} {self.value:<22} {self.note}".rstrip()


@dataclass(frozen=True)
class Picture:
    """One figure with its heading and what to see in it."""

    title: str
    figure: Figure
    caption: str = ""


@dataclass(frozen=True)
class Report:
    """What the page says, top to bottom.

    Attributes:
        title: Heading of the page.
        subtitle: One line under it.
        facts: What was run: names and values.
        warnings: Sentences that a reader must not miss.
        rows: The table of figures.
        pictures: The pictures, in order.
    """

    title: str
    subtitle: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    rows: Sequence[Row] = ()
    pictures: Sequence[Picture] = ()


def render(report: Report) -> str:
    """Return the page as HTML."""
    title = escape(report.title)
    body = [f"<h1>{title}</h1>", f'<p class="subtitle">{escape(report.subtitle)}</p>']
    body += [f'<p class="warning">{escape(text)}</p>' for text in report.warnings]
    body += ["<h2>Figures</h2>", _table("figures", map(_row, report.rows))] if report.rows else []
    body += map(_picture, report.pictures)
    facts = (
        f"<tr><th>{escape(k)}</th><td><code>{escape(v)}</code></td></tr>"
        for k, v in report.facts.items()
    )
    body += ["<h2>What was run</h2>", _table("facts", facts)] if report.facts else []
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}\n<style>{CSS}</style></head>\n<body>\n'
        + "\n".join([*body, "</body>\n</html>\n"])
    )


def write(report: Report, path: str | Path) -> None:
    """Write the page to a file, in one step."""
    write_atomically(Path(path), lambda file: file.write_text(render(report), encoding="utf-8"))


def _table(kind: str, rows: Iterable[str]) -> str:
    """Return table rows as a table."""
    return f'<table class="{kind}">\n' + "\n".join(rows) + "\n</table>"


def _row(row: Row) -> str:
    """Return one figure as a table row."""
    name, value, note = escape(row.name), escape(row.value), escape(row.note)
    return f'<tr><th>{name}</th><td class="number">{value}</td><td class="note">{note}</td></tr>'


def _picture(picture: Picture) -> str:
    """Return a picture with its heading."""
    data = base64.b64encode(plots.png(picture.figure)).decode("ascii")
    title, caption = escape(picture.title), escape(picture.caption)
    image = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    return f"<h2>{title}</h2>\n<figure>{image}<figcaption>{caption}</figcaption></figure>"
