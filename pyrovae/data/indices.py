"""The check of a sparse matrix that comes from outside: that its indices are in its shape."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_indices"]


def check_indices(x: Any) -> None:
    """Raise a ValueError if a sparse matrix of SciPy's or torch's has indices outside its shape.

    Such a matrix comes from a damaged file, and SciPy's compiled loops would crash the process.
    """
    try:
        if isinstance(x, Tensor) and x.layout == torch.sparse_csr:
            parts = x.crow_indices(), x.col_indices(), x.values()
            torch.sparse_csr_tensor(*parts, x.shape, check_invariants=True)
        elif hasattr(x, "check_format"):
            x.check_format(full_check=True)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the sparse matrix of shape {tuple(x.shape)} is damaged: {error}. Read or build it "
            "again from its source"
        ) from error
