"""Training of a graph: the loop, one optimizer step, and the diagnosis of a diverging fit."""

from pyrovae.training.divergence import TrainingError
from pyrovae.training.fitting import fit
from pyrovae.training.svi import FusedSVI, MakeOptimizer, adam, check_programs

__all__ = ["FusedSVI", "MakeOptimizer", "TrainingError", "adam", "check_programs", "fit"]
