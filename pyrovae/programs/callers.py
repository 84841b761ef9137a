"""Where the user's code is, for warnings that name its line and not one of this library."""

import inspect

__all__ = ["level_of_user"]


def level_of_user() -> int:
    """Return the stacklevel of the user's innermost line, for `warnings.warn` beside this call."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("pyrovae."):
        level, frame = level + 1, frame.f_back
    return max(1, level)
