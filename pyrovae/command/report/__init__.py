"""The report of a run: pictures (matplotlib) and one self-contained HTML page."""

from pyrovae.command.report import plots
from pyrovae.command.report.page import Picture, Report, Row, render, write

__all__ = ["Picture", "Report", "Row", "plots", "render", "write"]
