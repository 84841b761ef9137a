"""What a distribution of Pyro's lacks, in words that name the sample site.

Pyro raises a NotImplementedError, often without a word, deep inside the handlers of a site; the
site is found in the frames that the error came through.
"""

import re
from types import FrameType
from typing import Any

__all__ = ["named_error", "without_inverse"]

_TRACE = re.compile(r"\s*Trace Shapes:.*$", re.DOTALL)  # that Pyro adds
_METHODS = "expand", "expand_by", "rsample", "sample", "log_prob"
_NO_INVERSE = "intermediates cache"  # of a transform in Pyro that keeps what it made last


def named_error(error: Exception) -> NotImplementedError:
    """Return an error that names the site, its distribution, and the method that it lacks.

    Args:
        error: as it was caught, a NotImplementedError or one that `without_inverse` knows.
    """
    frames = _frames_of(error)
    site = next((found for found in map(_site_in, reversed(frames)) if found), None)
    if site is None or str(error).startswith("site "):
        return NotImplementedError(*error.args)
    methods = [frame.f_code.co_name for frame in frames if frame.f_code.co_name in _METHODS]
    reason = _TRACE.sub("", str(error)).strip("\"' \n") or "Pyro says no more"
    if without_inverse(error):
        return NotImplementedError(
            f'site "{site["name"]}": a transform has no inverse, by which the density of a value '
            f"that another program drew is found ({reason}). Use it in the guide alone, or a flow "
            "with an inverse, as priors.Flow"
        )
    fn = site["fn"]
    while hasattr(fn, "base_dist"):  # inside wrappers such as those of plates
        fn = fn.base_dist
    return NotImplementedError(
        f'site "{site["name"]}": {type(fn).__name__} has no '
        f"{methods[-1] if methods else 'such method'} ({reason}). Use another distribution, or "
        "write that method in a class of your own"
    )


def without_inverse(error: Exception) -> bool:
    """Return whether the error is that of a transform of Pyro's that cannot be inverted."""
    return isinstance(error, KeyError) and _NO_INVERSE in str(error)


def _frames_of(error: Exception) -> list[FrameType]:
    frames, here = list[FrameType](), error.__traceback__
    while here is not None:
        frames.append(here.tb_frame)
        here = here.tb_next
    return frames


def _site_in(frame: FrameType) -> Any:
    """Return the sample site that a frame of Pyro or of this library is at, None if at none."""
    for name in ("msg", "site"):
        found = frame.f_locals.get(name)
        if isinstance(found, dict) and {"name", "fn", "value"} <= found.keys():
            return found
    return None
