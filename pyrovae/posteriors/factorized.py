"""Posteriors that factorize over the latent dimensions: q(z | x) = prod_d q(z_d; network(x)_d).

location and scale       z = mu + sigma * eps,  eps standard Laplace, Student t or logistic
inverse distribution     z = F^-1(u),  u ~ U(0, 1): exponential -log(1 - u) / r,
                         Cauchy mu + sigma tan(pi (u - 1/2))
composition              log normal exp(mu + sigma * eps)
implicit gradients       gamma, dz/da = -(dF/da) / q(z)  (Figurnov et al. 2018)

In each of them a draw is a differentiable function of noise (Kingma & Welling 2014, section 2.4).
"""

from abc import abstractmethod
from typing import ClassVar

import pyro.distributions as dist
from pyro.distributions import Distribution, TorchDistribution
from torch import Tensor, nn

from pyrovae.distributions import Conditional, check_network, chunk_parameters

__all__ = [
    "Cauchy",
    "Exponential",
    "Factorized",
    "Gamma",
    "Laplace",
    "LogNormal",
    "Logistic",
    "StudentT",
]


class Factorized(Conditional):
    """Abstract: a posterior whose author writes the distribution of one dimension.

    A concrete class names what the network outputs for each latent, in `outputs`, and builds the
    distribution from it, in `distribution`.

    Args:
        net: maps x (and c) to n D numbers, for n names in `outputs`: D of the first, D of the
            second, and so on.

    Raises:
        ValueError: when it is called, if n does not divide the size of the network's output.

    Example:
        >>> import torch
        >>> class Gumbel(Factorized):
        ...     outputs = ("mu", "log beta")
        ...
        ...     def distribution(self, mu, log_beta):
        ...         return dist.Gumbel(mu, log_beta.exp())
        >>> Gumbel(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    outputs: ClassVar[tuple[str, ...]] = ("mu", "log sigma")

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        check_network(net, type(self).__name__)
        self.net = net

    @abstractmethod
    def distribution(self, *parameters: Tensor) -> TorchDistribution:
        """Return the distribution of each dimension, batch shape (*, D), event shape ().

        Args:
            parameters: one tensor with shape (*, D) for each name in `outputs`.
        """

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        meaning = f"{' and '.join(self.outputs)} of each latent"
        y = self.net(x, *c)
        parameters = chunk_parameters(y, len(self.outputs), type(self).__name__, meaning)
        return self.distribution(*parameters).to_event(1)


class Laplace(Factorized):
    """q(z | x) = prod_d exp(-|z_d - mu_d| / b_d) / 2 b_d.

    Args:
        net: maps x (and c) to 2 D numbers, mu and log b.

    Example:
        >>> import torch
        >>> Laplace(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    outputs = ("mu", "log b")

    def distribution(self, mu: Tensor, log_b: Tensor) -> TorchDistribution:
        """Return Laplace(mu, b)."""
        return dist.Laplace(mu, log_b.exp())


class StudentT(Factorized):
    """q(z | x) = prod_d StudentT(z_d; nu, mu_d, sigma_d).

    Its tails are heavier than those of the normal, which is its limit at nu = infinity.

    Args:
        net: maps x (and c) to 2 D numbers, mu and log sigma.
        df: degrees of freedom nu, above 0; above 2 the variance is finite.

    Raises:
        ValueError: if `df` is not above 0.

    Example:
        >>> import torch
        >>> StudentT(nn.Linear(784, 40), df=5.0)(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module, df: float = 5.0) -> None:
        super().__init__(net)
        if not df > 0:
            raise ValueError(f"StudentT: df is {df}, expected degrees of freedom above 0, e.g. 5")
        self.df = df

    def distribution(self, mu: Tensor, log_sigma: Tensor) -> TorchDistribution:
        """Return StudentT(nu, mu, sigma)."""
        return dist.StudentT(self.df, mu, log_sigma.exp())


class Logistic(Factorized):
    """q(z | x), with distribution functions sigmoid((z_d - mu_d) / s_d).

    Args:
        net: maps x (and c) to 2 D numbers, mu and log s.

    Example:
        >>> import torch
        >>> Logistic(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    outputs = ("mu", "log s")

    def distribution(self, mu: Tensor, log_s: Tensor) -> TorchDistribution:
        """Return Logistic(mu, s)."""
        return dist.Logistic(mu, log_s.exp())


class Cauchy(Factorized):
    """q(z | x) = prod_d Cauchy(z_d; mu_d, sigma_d), which has no mean.

    Its KL to a normal prior is infinite: use it with a heavy-tailed prior.

    Args:
        net: maps x (and c) to 2 D numbers, mu and log sigma.

    Example:
        >>> import torch
        >>> Cauchy(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def distribution(self, mu: Tensor, log_sigma: Tensor) -> TorchDistribution:
        """Return Cauchy(mu, sigma)."""
        return dist.Cauchy(mu, log_sigma.exp())


class Exponential(Factorized):
    """q(z | x) = prod_d r_d exp(-r_d z_d) over positive z, for a prior over positive z.

    Args:
        net: maps x (and c) to D numbers, log r.

    Example:
        >>> import torch
        >>> Exponential(nn.Linear(784, 20))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    outputs = ("log r",)

    def distribution(self, log_r: Tensor) -> TorchDistribution:
        """Return Exponential(r)."""
        return dist.Exponential(log_r.exp())


class LogNormal(Factorized):
    """q(z | x) where log z ~ N(mu(x), diag sigma(x)^2), over positive z.

    Args:
        net: maps x (and c) to 2 D numbers, mu and log sigma of log z.

    Example:
        >>> import torch
        >>> LogNormal(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def distribution(self, mu: Tensor, log_sigma: Tensor) -> TorchDistribution:
        """Return LogNormal(mu, sigma)."""
        return dist.LogNormal(mu, log_sigma.exp())


class Gamma(Factorized):
    """q(z | x) = prod_d Gamma(z_d; a_d, r_d) over positive z (Figurnov et al. 2018).

    Args:
        net: maps x (and c) to 2 D numbers, log shape a and log rate r; the mean is a / r.

    Example:
        >>> import torch
        >>> Gamma(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    outputs = ("log shape", "log rate")

    def distribution(self, log_a: Tensor, log_r: Tensor) -> TorchDistribution:
        """Return Gamma(a, r)."""
        return dist.Gamma(log_a.exp(), log_r.exp())
