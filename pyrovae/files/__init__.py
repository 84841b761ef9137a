"""Files: saved models, checkpoints, and the history of a fit, each written whole or not at all."""

from pyrovae.files import checkpoint
from pyrovae.files.atomic import write_atomically
from pyrovae.files.history import History, in_words
from pyrovae.files.model import description, inspect, load, save

__all__ = [
    "History",
    "checkpoint",
    "description",
    "in_words",
    "inspect",
    "load",
    "save",
    "write_atomically",
]
