"""Figures that a notebook shows, whether or not pyplot was imported there.

matplotlib teaches IPython to draw figures only once pyplot, or `%matplotlib inline`, is in use.
This module imports matplotlib, so `style` imports it when a figure is made.
"""

from io import BytesIO

from matplotlib.figure import Figure

__all__ = ["ShownFigure"]


class ShownFigure(Figure):
    """A figure that is its picture at the end of a notebook's cell."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
