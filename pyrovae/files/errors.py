"""The error of a file that cannot be used."""

__all__ = ["FileError"]


class FileError(ValueError):
    """A file is truncated, damaged, altered, of another program, or of another model or fit.

    Everything that reads a saved model, a checkpoint or a run raises it, and nothing else, for a
    file that is there: the message names the file, what is wrong with it, and the remedy. What was
    to be filled from the file (a graph, an optimizer, a random stream) is then as it was before.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pyrovae as pv
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "model.json").write_text("{")
        >>> try:
        ...     pv.load(folder)
        ... except pv.FileError as error:
        ...     print("model.json: truncated" in str(error))
        True
    """
