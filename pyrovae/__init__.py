"""Variational autoencoders as probabilistic programs, in Pyro.

A prior p(z | c), a posterior q(z | x, c) and a likelihood p(x | z, c) make a graph, a pair of Pyro
programs `model` and `guide`; `fit` trains them by stochastic variational inference.

What is named here is imported when it is first used: `__init__.pyi` says from where. So
`pyrovae --help` does not wait for PyTorch.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
