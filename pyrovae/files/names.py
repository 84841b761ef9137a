"""The public names by which a model file refers to classes of this library.

A file holds `priors.Mixture`, never a module's path: the name stays when the class moves, and only
classes in this table are ever called. A class that is renamed keeps its old name as a further row;
the first row of a class is the name that is written.
"""

from functools import cache
from importlib import import_module

__all__ = ["class_named", "name_of"]

_CLASSES = {  # the name in a file: (folder of the library that exports the class, the class)
    "blocks.Blocks": ("nets", "Blocks"),
    "blocks.WideLinear": ("nets", "WideLinear"),
    "conditional.Standardized": ("distributions", "Standardized"),
    "expression.LibraryNormal": ("priors", "LibraryNormal"),
    "expression.NegativeBinomial": ("likelihoods.expression", "NegativeBinomial"),
    "expression.Poisson": ("likelihoods.expression", "Poisson"),
    "expression.ZeroInflated": ("likelihoods.expression", "ZeroInflated"),
    "graphs.BayesianVAE": ("graphs", "BayesianVAE"),
    "graphs.CountVAE": ("graphs", "CountVAE"),
    "graphs.Denoising": ("graphs", "Denoising"),
    "graphs.GaussianNoise": ("graphs", "GaussianNoise"),
    "graphs.HierarchicalVAE": ("graphs", "HierarchicalVAE"),
    "graphs.LabelledCountVAE": ("graphs", "LabelledCountVAE"),
    "graphs.MaskingNoise": ("graphs", "MaskingNoise"),
    "graphs.Missing": ("graphs", "Missing"),
    "graphs.PoseVAE": ("graphs", "PoseVAE"),
    "graphs.SaltAndPepperNoise": ("graphs", "SaltAndPepperNoise"),
    "graphs.VAE": ("graphs", "VAE"),
    "likelihoods.Bernoulli": ("likelihoods", "Bernoulli"),
    "likelihoods.Binomial": ("likelihoods", "Binomial"),
    "likelihoods.Categorical": ("likelihoods", "Categorical"),
    "likelihoods.ContinuousBernoulli": ("likelihoods", "ContinuousBernoulli"),
    "likelihoods.DiscretizedLogistic": ("likelihoods", "DiscretizedLogistic"),
    "likelihoods.Gaussian": ("likelihoods", "Gaussian"),
    "likelihoods.HeteroscedasticGaussian": ("likelihoods", "HeteroscedasticGaussian"),
    "likelihoods.NegativeBinomial": ("likelihoods", "NegativeBinomial"),
    "likelihoods.Poisson": ("likelihoods", "Poisson"),
    "nets.AnyLeading": ("nets", "AnyLeading"),
    "nets.ConvDecoder": ("nets", "ConvDecoder"),
    "nets.ConvEncoder": ("nets", "ConvEncoder"),
    "nets.CoordinateDecoder": ("nets", "CoordinateDecoder"),
    "nets.InterpolatedImage": ("nets", "InterpolatedImage"),
    "nets.MLP": ("nets", "MLP"),
    "nets.MapDecoder": ("nets", "MapDecoder"),
    "nets.PlusLinear": ("nets", "PlusLinear"),
    "nets.ResidualMLP": ("nets", "ResidualMLP"),
    "nets.TurnedCopies": ("nets", "TurnedCopies"),
    "nets.WithoutContext": ("nets", "WithoutContext"),
    "posteriors.Cauchy": ("posteriors", "Cauchy"),
    "posteriors.DiagonalNormal": ("posteriors", "DiagonalNormal"),
    "posteriors.Exponential": ("posteriors", "Exponential"),
    "posteriors.FullRankNormal": ("posteriors", "FullRankNormal"),
    "posteriors.Gamma": ("posteriors", "Gamma"),
    "posteriors.IAF": ("posteriors", "IAF"),
    "posteriors.Laplace": ("posteriors", "Laplace"),
    "posteriors.LibraryNormal": ("posteriors", "LibraryNormal"),
    "posteriors.LogNormal": ("posteriors", "LogNormal"),
    "posteriors.Logistic": ("posteriors", "Logistic"),
    "posteriors.LowRankNormal": ("posteriors", "LowRankNormal"),
    "posteriors.MatrixNormal": ("posteriors", "MatrixNormal"),
    "posteriors.Mixture": ("posteriors", "Mixture"),
    "posteriors.NeuralSplineFlow": ("posteriors", "NeuralSplineFlow"),
    "posteriors.Point": ("posteriors", "Point"),
    "posteriors.StudentT": ("posteriors", "StudentT"),
    "posteriors.WrappedNormal": ("posteriors", "WrappedNormal"),
    "priors.CentredNormal": ("priors", "CentredNormal"),
    "priors.ConditionalNormal": ("priors", "ConditionalNormal"),
    "priors.Flat": ("priors", "Flat"),
    "priors.Flow": ("priors", "Flow"),
    "priors.Learned": ("priors", "ConditionalNormal"),
    "priors.Mixture": ("priors", "Mixture"),
    "priors.NeuralSplineFlow": ("priors", "NeuralSplineFlow"),
    "priors.StandardNormal": ("priors", "StandardNormal"),
    "priors.UniformAngle": ("priors", "UniformAngle"),
    "priors.Vamp": ("priors", "Vamp"),
    "priors.VonMises": ("priors", "VonMises"),
}


@cache
def _by_name() -> dict[str, type]:
    return {
        name: getattr(import_module(f"pyrovae.{home}"), cls)
        for name, (home, cls) in _CLASSES.items()
    }


@cache
def _by_class() -> dict[type, str]:
    return {cls: name for name, cls in reversed(_by_name().items())}


def class_named(name: object) -> type | None:
    """Return the class with that name in a file, None for a name that is not in the table."""
    return _by_name().get(str(name))


def name_of(cls: type) -> str | None:
    """Return the name of a class in a file, None for a class that is not in the table."""
    return _by_class().get(cls)
