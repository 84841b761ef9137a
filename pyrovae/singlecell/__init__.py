"""The count model for AnnData users: `SingleCellVAE` with scverse's names, and simulated cells."""

from pyrovae.singlecell.cells import rows_in
from pyrovae.singlecell.columns import listed
from pyrovae.singlecell.counts import read
from pyrovae.singlecell.model import SingleCellVAE
from pyrovae.singlecell.simulation import Simulation, simulate

__all__ = [
    "Simulation",
    "SingleCellVAE",
    "listed",
    "read",
    "rows_in",
    "simulate",
]
