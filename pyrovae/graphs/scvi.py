"""scVI's networks (Lopez et al. 2018; scvi-tools' settings) around `CountVAE`.

q(z | x, c), q(l | x, c)   `Blocks` of log(1 + x), and of the context on request
p(x | z, l, c)             `Blocks` of z, the context concatenated to the input of every layer
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from pyrovae import posteriors, priors
from pyrovae.graphs.count import CountVAE
from pyrovae.likelihoods import Dispersion, Expression, expression
from pyrovae.nets import Blocks, WithoutContext
from pyrovae.priors import LibraryNormal

__all__ = ["Encoder", "count_vae"]

Encoder = Callable[[int], nn.Module]  # the number of outputs -> the network

_FLOOR = 1e-4  # scVI's, added to the variances of q(z) and q(l)


def count_vae(
    genes: int,
    *,
    batches: int = 1,
    covariates: int = 0,
    labels: int = 0,
    hidden: int = 128,
    latents: int = 10,
    layers: int = 1,
    dropout: float = 0.1,
    likelihood: type[Expression] = expression.ZeroInflated,
    dispersion: Dispersion = expression.PER_GENE,
    library: tuple[Any, Any] | None = None,
    library_factor: float | None = 2.0,
    prior: nn.Module | Callable[[nn.Module], nn.Module] | None = None,
    posterior: nn.Module | Callable[[Encoder], nn.Module] | None = None,
    encode_covariates: bool = False,
    bf16: bool = True,
) -> CountVAE:
    """Return scVI's model as a graph.

    Args:
        genes: G.
        batches: S, the number of experimental batches. If S > 1, the first S columns of the context
            are the batch, one-hot.
        covariates: number of further columns of the context.
        labels: L. If dispersion is by label, the last L columns of the context are the label,
            one-hot.
        hidden: units of each hidden layer.
        latents: D.
        layers: number of hidden layers of q(z) and of the decoder; q(l) has one.
        dropout: fraction of units dropped in the encoders.
        likelihood: a class of `pyrovae.expression`.
        dispersion: what theta depends on beside the gene.
        library: mean and standard deviation of the log library size in each batch, S numbers each;
            None takes the library size as observed.
        library_factor: largest factor between the mean of q(l) and the observed total
            (`posteriors.LibraryNormal`); None leaves q(l) free, as in scVI.
        prior: p(z | c), or a function that builds it from the posterior, such as
            `lambda q: priors.Vamp(q, u)`; N(0, I) by default.
        posterior: q(z | log(1 + x), c), or a function that builds it from `encoder`, which builds
            scVI's network with a given number of outputs, such as
            `lambda encoder: posteriors.FullRankNormal(encoder(10 * 13 // 2))`; a diagonal normal by
            default.
        encode_covariates: whether the encoders get the batch and the covariates. They never get the
            label.
        bf16: multiply by the weights of all genes in bfloat16 while training, where the CPU can;
            see `pyrovae.nets.WideLinear`.

    Example:
        >>> import torch
        >>> graph = count_vae(50, batches=2, library=([5.0, 5.0], [0.4, 0.4]))
        >>> graph.model(torch.ones(3, 50), torch.eye(2)[[0, 1, 1]]).shape
        torch.Size([3, 50])
    """
    context = (batches if batches > 1 else 0) + covariates
    columns = context + (labels if Dispersion(dispersion) is expression.PER_LABEL else 0)
    encoded = context if encode_covariates else 0  # the first columns, which the encoders get

    def encoder(depth: int, outputs: int) -> nn.Module:
        net = Blocks(genes, [hidden] * depth, outputs, encoded, dropout, bf16)
        return net if 0 < encoded == columns else WithoutContext(net, encoded)

    decoder = Blocks(latents, [hidden] * layers, context=context)
    q_l: nn.Module | None = None
    if library is not None:
        q_l = _library_posterior(encoder(1, 2), library[0], library_factor)
    for name, part in (("prior", prior), ("posterior", posterior)):
        if part is not None and not callable(part):
            raise TypeError(
                f"count_vae: {name} is {part!r}, expected a part, such as priors.Mixture(10, 20) "
                "or a posterior of your own, or a function that builds one"
            )
    if posterior is None:
        posterior = posteriors.DiagonalNormal(encoder(layers, 2 * latents), _FLOOR)
    if prior is None:
        prior = priors.StandardNormal(latents)
    q = posterior if isinstance(posterior, nn.Module) else posterior(partial(encoder, layers))
    p = prior if isinstance(prior, nn.Module) else prior(q)
    return CountVAE(
        p,
        q,
        likelihood(decoder, genes, dispersion, batches, labels, bf16),
        None if library is None else LibraryNormal(*library),
        q_l,
    )


def _library_posterior(net: nn.Module, means: Any, factor: float | None) -> nn.Module:
    """Return q(l), given the means of the log library sizes of the batches."""
    if factor is None:
        return posteriors.DiagonalNormal(net, _FLOOR)
    mean = float(torch.as_tensor(means, dtype=torch.double).mean())
    return posteriors.LibraryNormal(net, mean, factor)
