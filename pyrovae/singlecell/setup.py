"""Which layer and columns of an AnnData a model uses, stored in `adata.uns["_pyrovae_setup"]`."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyrovae.data import Rows
from pyrovae.singlecell.columns import check_column
from pyrovae.singlecell.messages import listed, warn_user

__all__ = ["Setup", "check_anndata", "setup_anndata"]

KEY = "_pyrovae_setup"  # under adata.uns
MINIFIED = "_pyrovae_minified"  # under adata.uns of cells without counts


@dataclass(frozen=True)
class Setup:
    """The layer with the counts and the columns of `adata.obs` to use, as in `setup_anndata`."""

    layer: str | None = None
    batch_key: str | None = None
    labels_key: str | None = None
    categorical_covariate_keys: tuple[str, ...] = ()
    continuous_covariate_keys: tuple[str, ...] = ()

    @classmethod
    def read(cls, adata: Any) -> "Setup":
        """Return the setup that `write` stored in an AnnData.

        Raises:
            TypeError: if it is none.
            ValueError: if there is no setup.
        """
        check_anndata(adata)
        if KEY not in adata.uns:
            raise ValueError(
                "this AnnData is not set up: call "
                "SingleCellVAE.setup_anndata(adata, batch_key=...) first"
            )
        stored: dict[str, Any] = {
            key: value if isinstance(value, str) else tuple(map(str, value))
            for key, value in adata.uns[KEY].items()
        }
        return cls(**stored)

    def write(self, adata: Any, labels: bool = True) -> None:
        """Store the keys that are set in `adata.uns`, as plain values that an h5ad file can hold.

        Args:
            adata: the cells.
            labels: see `check`.

        Raises:
            ValueError: if the AnnData lacks the layer or one of the columns.
        """
        self.check(adata, labels)
        found = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value
        }
        if adata.is_view and adata.isbacked:
            raise ValueError(
                "setup_anndata: these cells are a view of a file, to which no setup can be "
                "written: set the whole file's up, or call adata.to_memory() first"
            )
        with warnings.catch_warnings():  # that a view becomes an AnnData of its own
            warnings.simplefilter("ignore")
            adata.uns[KEY] = found

    def check(self, adata: Any, labels: bool = True) -> None:
        """Raise a ValueError if the AnnData lacks the layer or a column; lists those it has.

        Args:
            adata: the cells.
            labels: whether the column of labels is needed.
        """
        self.check_layer(adata)
        categorical, continuous = self.categorical_covariate_keys, self.continuous_covariate_keys
        for key in (self.batch_key, self.labels_key if labels else None, *categorical, *continuous):
            if key is not None:
                check_column(adata, key)

    def check_layer(self, adata: Any) -> None:
        """Raise a ValueError if the AnnData lacks the layer; lists those it has."""
        if self.layer is not None and self.layer not in adata.layers:
            raise ValueError(
                f"layer {self.layer!r} is not in adata.layers, "
                f"which has {listed(adata.layers.keys())}"
            )


def check_anndata(adata: Any) -> None:
    """Refuse what is no AnnData, as a matrix, the path of a file, `adata.raw` or a MuData."""
    several = _tables_of(adata)
    if several is not None or not hasattr(adata, "uns"):
        one = "anndata.AnnData(counts) makes one of a matrix of cells by genes"
        if hasattr(adata, "adatas"):  # an AnnCollection
            one = "anndata.concat(collection.adatas) makes one of it"
        elif hasattr(adata, "to_adata"):
            one = "adata.raw.to_adata() makes one of it"
        elif isinstance(adata, str | Path):
            one = "pyrovae.singlecell.read(path) reads one"
        elif several is not None:
            one = f"pass one of those in it, which are {listed(several)}"
        raise TypeError(f"expected an AnnData, got a {type(adata).__name__}: {one}")
    if not isinstance(adata, Rows) and type(getattr(adata, "obs", None)).__name__ == "Dataset2D":
        raise TypeError(
            "these cells were opened by anndata.experimental.read_lazy, with obs on the disk: call "
            "adata.to_memory(), or open the file by pyrovae.singlecell.open_shards(path), which "
            "leaves the counts there"
        )


def _tables_of(cells: Any) -> Any:
    """Return the names of what a dict, a MuData or a SpatialData holds; None of anything else."""
    if isinstance(cells, Mapping):
        return cells.keys()
    return getattr(cells, "mod", getattr(cells, "tables", None))


def setup_anndata(
    adata: Any,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
) -> None:
    """Say where the counts and covariates are; stored in `adata.uns["_pyrovae_setup"]`.

    Nothing else is ever written to an AnnData.

    Args:
        adata: the cells.
        layer: of `adata.layers` with raw counts; None for `adata.X`, or what `open_shards` was
            told.
        batch_key: column of `adata.obs` with the experimental batch.
        labels_key: column with cell types, used by dispersion "gene-label".
        size_factor_key: not supported: the library size is inferred, or the observed total.
        categorical_covariate_keys: columns that enter the decoder as one-hot vectors.
        continuous_covariate_keys: columns that enter the decoder standardized.

    Raises:
        ValueError: if a layer or column does not exist; lists those that do. If a column is named
            twice among batch and covariates.

    Warns:
        UserWarning: if the names of the cells of an AnnData are not unique, so that a model cannot
            notice by them that its cells were put in another order.
    """
    if size_factor_key is not None:
        raise ValueError(
            "size_factor_key: the library size is inferred here, or is the total count with "
            "use_observed_lib_size=True. Leave size_factor_key out"
        )
    if isinstance(adata, Rows) and not hasattr(adata, "obs"):
        raise TypeError(
            "setup_anndata: these are rows of shards, without obs. Take what open_shards returned, "
            "or some of its cells by cells.select(rows)"
        )
    check_anndata(adata)
    layer = getattr(adata, "layer", None) if layer is None else layer  # of `open_shards`
    categorical = _several("categorical_covariate_keys", categorical_covariate_keys)
    continuous = _several("continuous_covariate_keys", continuous_covariate_keys)
    _check_named_once(batch_key, categorical, continuous)
    Setup(layer, batch_key, labels_key, categorical, continuous).write(adata)
    _warn_of_equal_names(adata)


def _warn_of_equal_names(adata: Any) -> None:
    # `Shards` stay in order, and to look at their names would read them.
    if hasattr(adata, "obs_names_make_unique") and not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()].unique()
        warn_user(
            f"names of cells are not unique ({listed(twice)}), and by them a model notices that "
            "its AnnData was put in another order. Call adata.obs_names_make_unique(), or leave "
            "the order as it is"
        )


def _check_named_once(
    batch_key: str | None, categorical: tuple[str, ...], continuous: tuple[str, ...]
) -> None:
    """Refuse a column that would enter the decoder twice."""
    names = ("categorical_covariate_keys", "continuous_covariate_keys")
    for name, keys in zip(names, (categorical, continuous), strict=True):
        if batch_key in keys:
            raise ValueError(
                f"batch_key {batch_key!r} is also in {name}, and would enter the decoder twice: "
                f"leave it out of {name}"
            )
    both = [key for key in categorical if key in continuous]
    if both:
        raise ValueError(
            f"{listed(both)} in both {' and '.join(names)}: name it in one, as categories or as "
            "a number"
        )


def _several(name: str, keys: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise ValueError(f"{name} is {keys!r}, expected a list of columns: [{keys!r}]")
    found = tuple(keys or ())
    if len(set(map(str, found))) < len(found):
        raise ValueError(f"{name} is {list(found)}: name each column once")
    return found
