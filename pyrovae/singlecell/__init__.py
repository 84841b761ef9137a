"""The count model for AnnData: `SingleCellVAE` under scverse's names, and simulated cells."""

from pyrovae.singlecell.cells import rows_in, some_cells
from pyrovae.singlecell.comparison import compare
from pyrovae.singlecell.counts import read
from pyrovae.singlecell.label_columns import reads_as_none
from pyrovae.singlecell.labels import CellLabels
from pyrovae.singlecell.messages import listed
from pyrovae.singlecell.model import SingleCellVAE
from pyrovae.singlecell.saving import saved_setup
from pyrovae.singlecell.shards import Shards, open_shards
from pyrovae.singlecell.simulation import Simulation, simulate
from pyrovae.singlecell.training import WARM_UP, default_epochs

__all__ = [
    "WARM_UP",
    "CellLabels",
    "Shards",
    "Simulation",
    "SingleCellVAE",
    "compare",
    "default_epochs",
    "listed",
    "open_shards",
    "read",
    "reads_as_none",
    "rows_in",
    "saved_setup",
    "simulate",
    "some_cells",
]
