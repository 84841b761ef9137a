"""scVI's networks (Lopez et al. 2018; scvi-tools' settings) around the graph of `pyrovae.graphs.count`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from pyrovae import posteriors, priors
from pyrovae.graphs.count import CountVAE
from pyrovae.likelihoods import Dispersion, Expression, expression
from pyrovae.likelihoods.expression import PER_LABEL
from pyrovae.nets import Blocks, WithoutContext
from pyrovae.priors import LibraryNormal

__all__ = ["Encoder", "count_vae"]

Encoder = Callable[[int], nn.Module]  # the number of its outputs -> the network

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
    prior: nn.Module | Callable[[nn.Module], nn.Module] | None = None,
    posterior: nn.Module | Callable[[Encoder], nn.Module] | None = None,
    encode_covariates: bool = False,
    bf16: bool = True,
) -> CountVAE:
    """Return scVI's model as a graph; the context enters every layer of the decoder, and the encoders on request.

    Args:
        genes: G.
        batches: S; a one-hot of S columns heads the context if S > 1.
        covariates: further columns of the context.
        labels: L; a one-hot of L columns ends the context if dispersion is by label.
        hidden: units of each hidden layer.
        latents: D.
        layers: hidden layers of q(z) and of the decoder; q(l) has one.
        dropout: of the encoders.
        likelihood: a class of `pyrovae.expression`.
        dispersion: what theta depends on beside the gene.
        library: mean and deviation of the log totals of each batch, S numbers each; None takes the library size as observed.
        prior: p(z | c), or a function that makes it of the posterior, as `lambda q: priors.Vamp(q, u)`; N(0, I) by default.
        posterior: q(z | log(1 + x), c), or a function that makes it of `encoder`, which makes scVI's network of the number of its
            outputs: `lambda encoder: posteriors.FullRankNormal(encoder(10 * 13 // 2))`; a diagonal normal by default.
        encode_covariates: whether the encoders see the batch and the covariates; labels they never see.
        bf16: take the products over the genes in bfloat16 while training, where the CPU can; see `pyrovae.blocks.WideLinear`.

    Example:
        >>> import torch
        >>> graph = count_vae(50, batches=2, library=([5.0, 5.0], [0.4, 0.4]))
        >>> graph.model(torch.ones(3, 50), torch.eye(2)[[0, 1, 1]]).shape
        torch.Size([3, 50])
    """
    context = (batches if batches > 1 else 0) + covariates
    seen = context if encode_covariates else 0
    all_of_it = context + (labels if Dispersion(dispersion) is PER_LABEL else 0)

    def encoder(depth: int, out: int) -> nn.Module:
        net = Blocks(genes, [hidden] * depth, out, seen, dropout, bf16)
        return net if 0 < seen == all_of_it else WithoutContext(net, seen)

    decoder = Blocks(latents, [hidden] * layers, context=context)
    q_l = None if library is None else posteriors.DiagonalNormal(encoder(1, 2), _FLOOR)
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
