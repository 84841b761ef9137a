"""Files: saved models, checkpoints, and the history of a fit, each written whole or not at all."""

from pyrovae.files import checkpoint, kinds
from pyrovae.files.atomic import check_writable, remove_temporary, write_atomically
from pyrovae.files.beside import opened_beside, save_beside
from pyrovae.files.comparison import difference
from pyrovae.files.construction import describe
from pyrovae.files.errors import FileError
from pyrovae.files.history import History, in_words
from pyrovae.files.model import description, inspect, load, save
from pyrovae.files.sealed import opened, sealed
from pyrovae.files.stored import claim_parameters

__all__ = [
    "FileError",
    "History",
    "check_writable",
    "checkpoint",
    "claim_parameters",
    "describe",
    "description",
    "difference",
    "in_words",
    "inspect",
    "kinds",
    "load",
    "opened",
    "opened_beside",
    "remove_temporary",
    "save",
    "save_beside",
    "sealed",
    "write_atomically",
]
