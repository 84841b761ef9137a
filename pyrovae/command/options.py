"""What `pyrovae fit` can be told: one option for each field of the settings of any kind of data.

Options are values by name, as the user gave them, and None where the user did not.
`Experiment.resolve` makes settings of them.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args

from typer.models import ArgumentInfo

from pyrovae.command.cells.settings import CellSettings
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.settings import Settings

__all__ = ["DEFAULTS", "KINDS", "SIMULATED", "Options", "given", "settings_of", "with_options"]

SIMULATED = "simulated-cells"
CELL_FILES = (".h5ad", ".zarr")
Options = SimpleNamespace  # options.epochs, options.latents, ...: one attribute for each option
KINDS: tuple[type[Settings], ...] = (ImageSettings, CellSettings)
FIELDS: dict[str, Field] = {field.name: field for kind in KINDS for field in fields(kind)}
DEFAULTS: dict[str, Any] = {  # of options that were not given; None where it depends on the data
    name: None if field.default is MISSING else field.default for name, field in FIELDS.items()
}


def settings_of(data: str) -> type[Settings]:
    """Return which settings data have: those of cells, or of images and arrays."""
    path = Path(data)
    cells = path.suffix.lower() in CELL_FILES or data == SIMULATED
    if not cells and path.is_dir():
        cells = any(file.suffix.lower() in CELL_FILES for file in path.iterdir())
    return CellSettings if cells else ImageSettings


def given(options: Options) -> dict[str, Any]:
    """Return options by name, without those left open."""
    return {name: value for name, value in vars(options).items() if value is not None}


def with_options(run: Callable[[Options], None]) -> Callable[..., None]:
    """Return a function with one keyword for each option, from whose signature Typer reads them."""

    def command(**options: Any) -> None:
        run(Options(**options))

    parameters = [_parameter(field) for field in FIELDS.values()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = run.__doc__
    return command


def _parameter(field: Field) -> inspect.Parameter:
    """Return the parameter for a field: optional, and a list of words if the field is a tuple."""
    kind, description = get_args(field.type)
    if isinstance(description, ArgumentInfo):
        value = inspect.Parameter.empty
    else:
        value = DEFAULTS[field.name]
        kind = kind | None if value is None else kind
    words = {tuple[int, ...] | None: list[str] | None, tuple[str, ...] | None: list[str] | None}
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=value,
        annotation=Annotated[words.get(kind, kind), description],
    )
