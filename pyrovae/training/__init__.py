"""Training of a graph: the loop, one optimizer step, and the diagnosis of a diverging fit."""

from pyrovae.training import hooks
from pyrovae.training.adam import Adam, AdamW, adam
from pyrovae.training.checking import check_programs
from pyrovae.training.clipping import ClipNorm
from pyrovae.training.distributed import Processes, processes
from pyrovae.training.divergence import TrainingError
from pyrovae.training.events import Hook
from pyrovae.training.fitting import fit
from pyrovae.training.optimization import MakeOptimizer
from pyrovae.training.svi import FusedSVI, Optimization
from pyrovae.training.threads import Products, threads_for

__all__ = [
    "Adam",
    "AdamW",
    "ClipNorm",
    "FusedSVI",
    "Hook",
    "MakeOptimizer",
    "Optimization",
    "Processes",
    "Products",
    "TrainingError",
    "adam",
    "check_programs",
    "fit",
    "hooks",
    "processes",
    "threads_for",
]
