"""Files: saved models, checkpoints, and the history of a fit, each written whole or not at all."""

from pyrovae.files import checkpoint, kinds
from pyrovae.files.atomic import write_atomically
from pyrovae.files.errors import FileError
from pyrovae.files.history import History, in_words
from pyrovae.files.model import description, inspect, load, save
from pyrovae.files.sealed import opened, sealed

__all__ = [
    "FileError",
    "History",
    "checkpoint",
    "description",
    "in_words",
    "inspect",
    "kinds",
    "load",
    "opened",
    "save",
    "sealed",
    "write_atomically",
]
