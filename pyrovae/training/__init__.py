"""Fit a graph: the loop, one optimizer step, batch normalization, and the diagnosis of a diverging fit."""

from pyrovae.training.divergence import TrainingError
from pyrovae.training.fitting import fit
from pyrovae.training.step import MakeOptimizer, Step, adam, parameters

__all__ = [
    "MakeOptimizer",
    "Step",
    "TrainingError",
    "adam",
    "fit",
    "parameters",
]
