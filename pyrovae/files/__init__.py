"""Files: saved models, checkpoints, and the history of a fit, each written whole or not at all."""

from pyrovae.files import checkpoint, kinds
from pyrovae.files.atomic import remove_temporary, write_atomically
from pyrovae.files.errors import FileError
from pyrovae.files.history import History, in_words
from pyrovae.files.model import description, inspect, load, save
from pyrovae.files.sealed import opened, sealed
from pyrovae.files.stored import claim_parameters

__all__ = [
    "FileError",
    "History",
    "checkpoint",
    "claim_parameters",
    "description",
    "in_words",
    "inspect",
    "kinds",
    "load",
    "opened",
    "remove_temporary",
    "save",
    "sealed",
    "write_atomically",
]
