"""Call the command line inside the process of the tests."""

from typer.testing import CliRunner

from pyrovae.command.cli import app


def call(*args, code=0):
    """Return what a command printed, after its exit status was as expected."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exit_code != code:
        raise AssertionError(f"exit {result.exit_code}: {result.output}") from result.exception
    return result.output
