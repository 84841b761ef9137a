"""The settings of a run on single cells; each field carries the option that sets it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pyrovae.command.choices import Dispersion, Likelihood
from pyrovae.command.settings import Settings, option

__all__ = ["CellSettings"]

CELLS = "Cells (an .h5ad file, a folder of such files, or simulated-cells)"


@final
@dataclass(frozen=True, kw_only=True)
class CellSettings(Settings):
    """Settings of a run on single cells."""

    HOLDS: ClassVar[str] = "cells"
    LIKELIHOODS: ClassVar[tuple[Likelihood, ...]] = (
        Likelihood.ZINB,
        Likelihood.NB,
        Likelihood.POISSON,
    )
    EVIDENCE_SAMPLES: ClassVar[int] = 200  # 1,000 cells of 2,500 genes: half a minute on one core

    batch_key: Annotated[str | None, option("Column of obs with the batch.", panel=CELLS)] = None
    labels_key: Annotated[
        str | None,
        option("Column of obs with cell types, for colours and clustering scores.", panel=CELLS),
    ] = None
    layer: Annotated[str | None, option("Layer with the raw counts (default: X).", panel=CELLS)] = (
        None
    )
    categorical_key: Annotated[
        tuple[str, ...] | None,
        option("Column of obs that enters the decoder as a one-hot; may be repeated.", panel=CELLS),
    ] = None
    continuous_key: Annotated[
        tuple[str, ...] | None,
        option("Column of obs that enters the decoder standardized; may be repeated.", panel=CELLS),
    ] = None
    layers: Annotated[
        int,
        option("Hidden layers, each of the width --hidden (default: 1).", min=1, panel=CELLS),
    ]
    dropout: Annotated[
        float,
        option("Dropout rate of the encoders (default: 0.1).", min=0, max=0.99, panel=CELLS),
    ]
    dispersion: Annotated[
        Dispersion | None,
        option("What the inverse dispersion depends on (default: the gene).", panel=CELLS),
    ] = None
    observed_library: Annotated[
        bool,
        option(
            "Take the total count of a cell as its library size, instead of inferring it.",
            "--observed-library",
            panel=CELLS,
        ),
    ] = False
    encode_covariates: Annotated[
        bool,
        option("Give batch and covariates to the encoders.", "--encode-covariates", panel=CELLS),
    ] = False
