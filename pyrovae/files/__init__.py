"""What is kept on disk: models, checkpoints, and the history of a fit, each written whole or not at all."""

from pyrovae.files import checkpoint
from pyrovae.files.atomic import replace
from pyrovae.files.history import History, in_words
from pyrovae.files.model import inspect, load, save

__all__ = [
    "History",
    "checkpoint",
    "in_words",
    "inspect",
    "load",
    "replace",
    "save",
]
