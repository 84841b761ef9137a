"""The words of the command line for what can be chosen, as enumerations.

`pyrovae.command.build` and `pyrovae.command.images.build` turn each word into a constructor. This
module imports nothing heavy, and so repeats the values of `likelihoods.expression.Dispersion`;
`tests/test_command_cells.py` holds the two equal.
"""

from enum import StrEnum

__all__ = [
    "Activation",
    "Dispersion",
    "Likelihood",
    "Method",
    "Network",
    "NoiseKind",
    "Objective",
    "Optimizer",
    "Part",
    "Posterior",
    "Precision",
    "Prior",
]


class Network(StrEnum):
    """Encoder and decoder."""

    MLP = "mlp"
    LINEAR_MLP = "linear-mlp"
    CONV = "conv"
    RESIDUAL = "residual"


class Activation(StrEnum):
    """Non-linearity between layers."""

    RELU = "relu"
    TANH = "tanh"
    ELU = "elu"
    GELU = "gelu"
    SILU = "silu"
    SOFTPLUS = "softplus"


class Prior(StrEnum):
    """p(z)."""

    STANDARD_NORMAL = "standard-normal"
    MIXTURE = "mixture"
    VAMP = "vamp"
    FLOW = "flow"
    FLAT = "flat"


class Posterior(StrEnum):
    """q(z | x)."""

    DIAGONAL_NORMAL = "diagonal-normal"
    FULL_RANK_NORMAL = "full-rank-normal"
    IAF = "iaf"
    MATRIX_NORMAL = "matrix-normal"
    POINT = "point"


class Likelihood(StrEnum):
    """p(x | z)."""

    BERNOULLI = "bernoulli"
    CONTINUOUS_BERNOULLI = "continuous-bernoulli"
    GAUSSIAN = "gaussian"
    HETEROSCEDASTIC_GAUSSIAN = "heteroscedastic-gaussian"
    BINOMIAL = "binomial"
    DISCRETIZED_LOGISTIC = "discretized-logistic"
    CATEGORICAL = "categorical"
    POISSON = "poisson"
    NEGATIVE_BINOMIAL = "negative-binomial"
    ZINB = "zinb"
    NB = "nb"

    @property
    def class_name(self) -> str:
        """Name of its class in `pyrovae.likelihoods`; `ZINB` and `NB` have none there."""
        return "".join(word.capitalize() for word in self.value.split("-"))


class Dispersion(StrEnum):
    """What the inverse dispersion of a negative binomial depends on."""

    GENE = "gene"
    GENE_BATCH = "gene-batch"
    GENE_LABEL = "gene-label"
    GENE_CELL = "gene-cell"


class Objective(StrEnum):
    """Estimator of the bound."""

    SGVB_A = "sgvb-a"
    SGVB_B = "sgvb-b"
    IWAE = "iwae"
    DREG = "dreg"


class Optimizer(StrEnum):
    """Optimizer of torch."""

    ADAM = "adam"
    ADAMW = "adamw"
    ADAMAX = "adamax"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    SGD = "sgd"


class Precision(StrEnum):
    """Of the factors of products while training."""

    BF16 = "bf16"
    TF32 = "tf32"


class Part(StrEnum):
    """Rows of a data set."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


class NoiseKind(StrEnum):
    """Noise on images."""

    GAUSSIAN = "gaussian"
    SALT_AND_PEPPER = "salt-and-pepper"
    MASKING = "masking"


class Method(StrEnum):
    """How the posterior given degraded images is found."""

    ENCODER = "encoder"
    REFINE = "refine"
    IMPORTANCE = "importance"
    HMC = "hmc"
