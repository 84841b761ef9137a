"""The other distributions of which a draw is a differentiable function of noise (Kingma & Welling 2014, section 2.4).

location and scale    z = mu + sigma * eps,  eps a standard Laplace, Student t or logistic
inverse distribution  z = F^-1(u),  u ~ U(0, 1):  exponential -log(1 - u) / rate,  Cauchy mu + sigma tan(pi (u - 1/2))
composition           log normal exp(mu + sigma * eps);  gamma by implicit gradients, dz/da = -(dF/da) / f (Figurnov et al. 2018)
"""

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.distributions import Conditional, chunk_parameters

__all__ = ["Cauchy", "Exponential", "Gamma", "Laplace", "LogNormal", "Logistic", "StudentT"]


class Laplace(Conditional):
    """q(z | x) = prod_d exp(-|z_d - mu_d| / b_d) / 2 b_d.

    Args:
        net: maps x (and c) to 2 D numbers, mu and log b.

    Example:
        >>> import torch
        >>> Laplace(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        mu, log_b = chunk_parameters(self.net(x, *c), 2, "Laplace", "mu and log b of each latent")
        return dist.Laplace(mu, log_b.exp()).to_event(1)


class StudentT(Conditional):
    """q(z | x) = prod_d StudentT(z_d; nu, mu_d, sigma_d): heavier tails than the normal's, which it is at nu = infinity.

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
        super().__init__()
        if not df > 0:
            raise ValueError(f"StudentT: df is {df}, expected degrees of freedom above 0, e.g. 5")
        self.net, self.df = net, df

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        mu, log_sigma = chunk_parameters(
            self.net(x, *c), 2, "StudentT", "mu and log sigma of each latent"
        )
        return dist.StudentT(self.df, mu, log_sigma.exp()).to_event(1)


class Logistic(Conditional):
    """q(z | x) whose distribution functions are sigmoid((z_d - mu_d) / s_d).

    Args:
        net: maps x (and c) to 2 D numbers, mu and log s.

    Example:
        >>> import torch
        >>> Logistic(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        mu, log_s = chunk_parameters(self.net(x, *c), 2, "Logistic", "mu and log s of each latent")
        return dist.Logistic(mu, log_s.exp()).to_event(1)


class Exponential(Conditional):
    """q(z | x) = prod_d r_d exp(-r_d z_d) over positive z, for a prior that has mass there.

    Args:
        net: maps x (and c) to D numbers, log r.

    Example:
        >>> import torch
        >>> Exponential(nn.Linear(784, 20))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        return dist.Exponential(self.net(x, *c).exp()).to_event(1)


class Cauchy(Conditional):
    """q(z | x) = prod_d Cauchy(z_d; mu_d, sigma_d), which has no mean: a normal prior's KL to it is infinite, so give it a heavy one.

    Args:
        net: maps x (and c) to 2 D numbers, mu and log sigma.

    Example:
        >>> import torch
        >>> Cauchy(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        mu, log_sigma = chunk_parameters(
            self.net(x, *c), 2, "Cauchy", "mu and log sigma of each latent"
        )
        return dist.Cauchy(mu, log_sigma.exp()).to_event(1)


class LogNormal(Conditional):
    """q(z | x) where log z ~ N(mu(x), diag sigma(x)^2), over positive z.

    Args:
        net: maps x (and c) to 2 D numbers, mu and log sigma.

    Example:
        >>> import torch
        >>> LogNormal(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        mu, log_sigma = chunk_parameters(
            self.net(x, *c), 2, "LogNormal", "mu and log sigma of each latent's logarithm"
        )
        return dist.LogNormal(mu, log_sigma.exp()).to_event(1)


class Gamma(Conditional):
    """q(z | x) = prod_d Gamma(z_d; a_d, r_d) over positive z, with implicit gradients for the shape a (Figurnov et al. 2018).

    Args:
        net: maps x (and c) to 2 D numbers, log a and log r (shape and rate; the mean is a / r).

    Example:
        >>> import torch
        >>> Gamma(nn.Linear(784, 40))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        log_a, log_r = chunk_parameters(
            self.net(x, *c), 2, "Gamma", "log shape and log rate of each latent"
        )
        return dist.Gamma(log_a.exp(), log_r.exp()).to_event(1)
