"""From the prior to data: generate.

x ~ p(x | z), z ~ p(z)

The model runs forwards with an x that holds no values, since most models only count its rows. One
that reads more, such as the number of time steps, is given rows of data by `like`.
"""

from collections.abc import Collection, Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Inputs, inputs_of, slices
from pyrovae.programs import Trace
from pyrovae.tasks.embedding import expectation
from pyrovae.tasks.forwards import Looked, Values, alone, joined, look_at
from pyrovae.tasks.given import Given, fixed_values

__all__ = ["generate"]


def generate(
    graph: Any,
    n: int,
    *c: Array,
    mean: bool = True,
    seed: int | None = None,
    observed: str | None = None,
    like: Array | None = None,
    from_guide: Collection[str] = (),
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """Return n generated x: z ~ p(z | c), then E[x | z, c] or a draw x ~ p(x | z, c).

    A latent that all rows share, such as the weights of a `BayesianVAE`, is drawn from its prior as
    the others are, unless `from_guide` names it: then it is drawn from its posterior.

    Args:
        graph: any graph.
        n: number of observations.
        c: context, n rows each. A site that observes a context itself, such as the label of a
            semi-supervised model, keeps it and is not returned. Factors of the model are ignored.
        mean: return E[x | z, c], as papers show, instead of a draw. For a site of class numbers
            (`Categorical`) these are the probabilities of the K classes, with shape (n, K). A site
            that depends on another observed site has its expectation given that site's draw.
        seed: seed of the random draws; None continues the global random stream.
        observed: name of the observed site to return; by default the only one, or all of them.
        like: rows of data with shape (B, *event), for a model that reads x: row i for observation
            i, and again from the first where B < n. Values that the model computes with, as an
            autoregressive decoder does, stay those of `like`: then x is predicted from them, and is
            no draw from p(x). Where each value is a site, let the next one read what `pyro.sample`
            returned, in place of x: that is what is generated here.
        from_guide: names of latents to draw from the guide, which is given `like` as x.
        fixed: values of latents by name, that are not drawn: a number, or an array that broadcasts
            to (n, *event), such as `{"theta": 0.5}` for images at one angle.

    Returns:
        A tensor with shape (n, *event); a dict of them by name where several sites are observed and
        none is named.

    Raises:
        ValueError: if the prior cannot be sampled, such as an autoencoder's flat one; the model
            reads x and `like` is not given; a site that observes a context depends on latents that
            are drawn; or a name is not that of a site.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> pv.generate(vae, 16).shape
        torch.Size([16, 6])
    """
    if not isinstance(n, Integral) or n < 1:
        raise ValueError(f"generate: n is {n!r}, expected the number of observations, at least 1")
    inputs = inputs_of(graph, n, c, like, "generate")
    with programs.evaluation(graph, seed), inputs.hint("generate"):
        try:
            looked = _look(graph, inputs, n, fixed)
            given = fixed_values(looked.latents, fixed, (n,), "generate")
            run = _Run(graph, inputs, given, from_guide, observed, mean)
            values = joined(_generated(run, n, looked), n)
        except NotImplementedError as error:
            raise ValueError(
                "generate: the prior is flat (improper), or another distribution that cannot be "
                f"sampled ({error}). Use a VAE, whose prior can"
            ) from error
        inputs.check_drawn("generate", list(values.values()))
        return alone(values)


def _look(graph: Any, inputs: Inputs, n: int, fixed: Mapping[str, Any] | None) -> Looked:
    """Look at the model; one of a single number of rows is run on all rows at once."""
    try:
        return look_at(graph.model, inputs.first)
    except Exception as error:  # whatever a user's model raises
        if isinstance(error, NotImplementedError) or fixed is not None:
            raise
    latents = Trace()
    latents.layout = programs.Layout(n)
    return Looked(latents, {}, n)


class _Run(NamedTuple):
    """What is generated, apart from the rows: the arguments of `generate`."""

    graph: Any
    inputs: Inputs
    given: Given
    from_guide: Collection[str]
    observed: str | None
    mean: bool

    def at(self, rows: slice, shared: Values, looked: Looked) -> programs.Simulated:
        """Run the model at some rows.

        Args:
            rows: which.
            shared: values of latents that all rows share, as drawn with rows before.
            looked: what the model shows on few rows.
        """
        model, batch = self.graph.model, self.inputs.at(torch.arange(rows.start, rows.stop))
        given = _drawn_by_guide(self.graph, batch, self.from_guide) | self.given.at(rows) | shared
        if rows.start == 0:
            programs.check_forwards(model, *batch, given=given, factors=False)
        unread = looked.unread if self.mean else None
        return programs.simulated(model, *batch, given=given, observed=self.observed, unread=unread)

    def values(self, sites: dict[str, programs.Site], layout: programs.Layout) -> Values:
        """Return the values of observed sites, rows first."""
        return {
            name: layout.rows_first(expectation(site["fn"]) if self.mean else site["value"], site)
            for name, site in sites.items()
        }


def _generated(run: _Run, n: int, looked: Looked) -> Iterator[tuple[slice, Values]]:
    """Yield what is generated at some rows after the other; all rows share what they share."""
    latents, layout = looked.latents, looked.latents.layout
    apart = [name for name, site in latents.items() if not layout.has_rows(site)]
    shared = Values()
    for rows in slices(n, looked.rows):
        layout = layout._replace(rows=rows.stop - rows.start)
        found = run.at(rows, shared, looked)
        shared = {name: found.latent[name]["value"] for name in apart}
        in_rows = all(layout.has_rows(site) for site in found.observed.values())
        if (
            any(z.shape != latents[name]["value"].shape for name, z in shared.items())
            or not in_rows
        ):
            rows, layout = slice(0, n), layout._replace(rows=n)  # rows that no plate tells apart
            yield rows, run.values(run.at(rows, {}, looked).observed, layout)
            return
        yield rows, run.values(found.observed, layout)


def _drawn_by_guide(graph: Any, batch: tuple[Tensor, ...], names: Collection[str]) -> Values:
    if not names:
        return {}
    drawn = programs.latent_by_name(programs.record(graph.guide, *batch))
    unknown = sorted(set(names) - set(drawn))
    if unknown:
        raise ValueError(
            f"generate: from_guide names {unknown}, but the guide has the latents {list(drawn)}"
        )
    return {name: drawn[name]["value"] for name in names}
