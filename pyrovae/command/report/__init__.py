"""The report of a run: pictures (matplotlib) and one self-contained HTML page (Jinja2)."""

from pyrovae.command.report import plots
from pyrovae.command.report.page import Picture, Report, Row, render

__all__ = ["Picture", "Report", "Row", "plots", "render"]
