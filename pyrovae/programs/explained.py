"""The messages of Pyro and torch about a pair of programs, in words that say what to do."""

import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.programs.checks import OTHER_ROWS
from pyrovae.programs.plates import check_callable, check_subsample
from pyrovae.programs.unimplemented import named_error, without_inverse

__all__ = ["explained"]

_EMPTY_TRACE = re.compile(r"\s*Trace Shapes:\s*Param Sites:\s*Sample Sites:\s*$")
_REFUSED = re.compile(r"Expected parameter .*? to satisfy the constraint .*?(?=, but|$)", re.M)
_CONVOLUTION = re.compile(r"unbatched\) or|to have \d+ channels, but got")
_SIZES = re.compile(r"Shape mismatch inside plate.* site (\S+) dim -\d+, (\d+) vs (\d+)")
_STORED = re.compile(r"invalid shape of pyro\.param\((\S+?),.*?torch\.Size\((\[.*?\])\)")
_TOO_FEW = re.compile(r"forward\(\) missing \d+ required positional argument")
_NO_CONTEXT = re.compile(r"forward\(\) takes .*positional arguments? but \d+ (was|were) given")


class _RefuseOthers(Messenger):
    """Refuse what is no distribution of Pyro's, and latents of another shape than the prior's."""

    def _pyro_sample(self, msg: Any) -> None:
        check_callable(msg)
        check_subsample(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        expected = tuple(getattr(msg["fn"], "event_shape", ()))
        drawn = tuple(getattr(msg["value"], "shape", expected))
        if not msg["is_observed"] and drawn[len(drawn) - len(expected) :] != expected:
            raise ValueError(
                f'site "{msg["name"]}": the prior has the shape {expected} for each row, the guide '
                f"drew {drawn[len(drawn) - len(expected) :]}. Give prior and posterior the same "
                "dimensions: a network of DiagonalNormal has two outputs for each"
            )


@contextmanager
def explained(batch: tuple[Tensor, ...]) -> Iterator[None]:
    """Context in which Pyro's messages about a program's structure say what to do.

    Its warning that a plate is in the guide only is left out: `data_plate` has no site of its own,
    by which Pyro would find it.

    Args:
        batch: the minibatch (x, *c), for messages about it.
    """
    with warnings.catch_warnings(), _RefuseOthers():
        warnings.filterwarnings("ignore", "Found plate statements in guide but not model")
        try:
            yield
        except Exception as error:
            error.args = tuple(map(_without_empty_trace, error.args))
            told = _told(error, *batch)
            if told is None:
                raise
            raise told from error


def _told(error: Exception, x: Tensor, *c: Tensor) -> Exception | None:
    """Return the error that says what to do instead; None if this one is not known."""
    text = str(error)
    if isinstance(error, NotImplementedError) or without_inverse(error):
        return named_error(error)
    if c and isinstance(error, TypeError) and _NO_CONTEXT.search(text):
        return TypeError(_without_context(len(c), error))
    if isinstance(error, TypeError) and _TOO_FEW.search(text):
        return TypeError(
            f"a part or a network takes more than it is given ({error}). The parts of a VAE are in "
            "the order prior, posterior, likelihood: they are called with c, with x and c, and "
            "with z and c, of the data (x, *c)"
        )
    if "shapes cannot be multiplied" in text:
        return ValueError(
            "a network takes another number of features than it gets; x has shape "
            f"{tuple(x.shape)}. Give x, and each latent, the features that the networks "
            "were made for; nn.Linear takes images as x.flatten(1), and one image alone is "
            f"x[None] (torch: {error})"
        )
    if _CONVOLUTION.search(text):
        return ValueError(
            "a convolution takes images of another shape than it gets; x has shape "
            f"{tuple(x.shape)}, expected (rows, channels, height, width). Give channels "
            "that come last as x.movedim(-1, 1), images without channels as x[:, None], "
            f"one image as x[None] (torch: {error})"
        )
    of_rows = _of_rows(error, len(x))
    if of_rows is not None:
        return ValueError(of_rows)
    refused = _REFUSED.search(text)
    if refused and isinstance(error, ValueError):
        return ValueError(
            "at the first weights a distribution refuses what it was given. Map what is "
            "positive, as a scale, by softplus; and give data of about unit size, for "
            f"larger ones overflow (here |x| goes up to {x.float().abs().max():.3g}). "
            f"Torch: {refused[0]}"
        )
    if "Shape mismatch inside plate" in text:
        return ValueError(
            "a site's batch shape holds dimensions that are no plate. Declare those of one "
            "row as its event by .to_event(1), as in Normal(mu, sigma).to_event(1); of a "
            "likelihood of pyrovae, whose network returns images, by event_dim=3, as in "
            f"Bernoulli(net, event_dim=3). Pyro: {error}"
        )
    return None


def _without_context(members: int, error: TypeError) -> str:
    if members > 1:
        return (
            f"the data are a list or tuple of {1 + members} items, which is read as x and "
            f"{members} contexts c, and a network of the graph takes none ({error}). Items that "
            "are the rows go into one array: torch.stack(items) of tensors, "
            "numpy.array(items) of numbers"
        )
    return (
        "the second item of the data, such as the labels of pairs (x, y), is read as "
        f"the context c, and a network of the graph takes none ({error}). Pass x "
        "alone; or build a conditional VAE, whose networks take c, as pyrovae.nets.MLP "
        "does by context=; one that shall ignore c goes into nets.WithoutContext"
    )


def _of_rows(error: Exception, rows: int) -> str | None:
    """Return what to do about a guide of other rows than x has, None if that is not the error."""
    stored, sizes = _STORED.search(str(error)), _SIZES.search(str(error))
    if stored or (isinstance(error, AssertionError) and _is_of_autoguide(error)):
        which = f'a parameter "{stored[1]}" of shape {stored[2]}' if stored else "parameters"
        return (
            f"Pyro's store has {which} of an earlier autoguide, which was for other rows; x has "
            f"{rows}. Call pyro.clear_param_store() before a new autoguide is made"
        )
    if sizes and int(sizes[2]) > int(sizes[3]) == rows:
        return (
            f'site "{sizes[1]}": the distribution has {sizes[2]} rows, x has {rows}. {OTHER_ROWS}; '
            "or declare what is no row as its event by .to_event(1)"
        )
    return None


def _is_of_autoguide(error: Exception) -> bool:
    """Return whether an error was raised in one of Pyro's autoguides."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "autoguide" in frames[-1].filename


def _without_empty_trace(text: Any) -> Any:
    """Return a message without the table of sites that Pyro adds to it where there are none yet."""
    return _EMPTY_TRACE.sub("", text) if isinstance(text, str) else text
