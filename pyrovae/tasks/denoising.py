"""Denoise: x given a noisy copy y, by the encoder alone or under a known noise p(y | x).

E[x | z],  z ~ q(z | y)                                         the encoder's answer
p(x | y) = E_p(z | y)[ p(x | z, y) ],   p(y | z) = E_p(x | z)[ p(y | x) ]
"""

from typing import Any

from pyrovae.data import Array, as_sources, device_and_dtype
from pyrovae.distributions import Noise
from pyrovae.tasks.measurements import Corrupted, Measurement, Nothing
from pyrovae.tasks.proposals import Effort
from pyrovae.tasks.restoring import Options, Restored, restore

__all__ = ["denoise"]


def denoise(
    graph: Any,
    y: Array,
    *c: Array,
    noise: Noise | None = None,
    method: str | None = None,
    draws: int = 16,
    samples: int = 256,
    steps: int = 100,
    components: int = 4,
    batch_size: int = 64,
    progress: bool = False,
    seed: int | None = None,
    observed: str | None = None,
) -> Restored:
    """Return x given a noisy copy y: its mean, draws and intervals.

    Without a noise it is the encoder's answer: x ~ p(x | z), z ~ q(z | y), which is what a model
    that was trained to denoise (`Denoising`) wants, an autoencoder too. With one it is the
    posterior under that noise, for a model that was trained on clean data.

    Args:
        graph: any graph; with a noise, one whose likelihood is independent over the values of x.
        y: noisy data with shape (B, *event).
        c: context, B rows each.
        noise: p(y | x), such as `graphs.GaussianNoise(0.5)`, `graphs.SaltAndPepperNoise(0.2)` or
            `graphs.MaskingNoise(0.3)`; None if it is not known.
        method: as for `impute`; None is "refine" with a noise, and "encoder" without.
        draws: as for `impute`.
        samples: as for `impute`.
        steps: as for `impute`.
        components: as for `impute`.
        batch_size: as for `impute`.
        progress: as for `impute`.
        seed: as for `impute`.
        observed: as for `impute`.

    Returns:
        Restored.

    Raises:
        ValueError: if a value is not finite, another method than the encoder is asked for without a
            noise, nothing is known of that noise on such a likelihood, or as `impute`.

    Warns:
        RestorationWarning: as `impute`.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> noise = pv.graphs.GaussianNoise(0.5)
        >>> pv.denoise(vae, noise(torch.ones(5, 6)), noise=noise).mean.shape
        torch.Size([5, 6])
    """
    method = method or ("encoder" if noise is None else "refine")
    if noise is None and method != "encoder":
        raise ValueError(
            f'denoise: method="{method}" infers x under a known noise, and noise is None. Give '
            'one, such as pyrovae.graphs.GaussianNoise(0.5), or use method="encoder"'
        )
    if noise is not None and not isinstance(noise, Noise):
        raise ValueError(
            f"denoise: noise is a {type(noise).__name__}, expected a GaussianNoise, "
            "SaltAndPepperNoise or MaskingNoise of pyrovae.graphs, or your own subclass of "
            "pyrovae.distributions.Noise, which tells p(y | x)"
        )
    data = as_sources((y, *c), "denoise")

    def measurement(rows: slice) -> Measurement:
        part = data[0][rows].to(*device_and_dtype(graph, data))
        return Nothing(part) if noise is None else Corrupted(part, noise)

    effort = Effort(draws, samples, steps, components)
    options = Options("denoise", method, effort, observed, batch_size, progress, seed)
    return restore(graph, measurement, len(data[0]), data[1:], options)
