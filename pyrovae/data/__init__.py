"""Data sets, sparse tables, batches_in_order (x, *c), and the values that data may take."""

from pyrovae.data import batches, datasets, supports
from pyrovae.data.batches import (
    Array,
    Data,
    Transform,
    as_tensors,
    batches_in_order,
    device_and_dtype,
    fingerprint,
    shuffled_batches,
    split,
    take,
)
from pyrovae.data.datasets import Dataset, Kind
from pyrovae.data.sparse import SparseRows, is_sparse
from pyrovae.data.supports import COUNTS, Support, suggest_likelihoods

__all__ = [
    "COUNTS",
    "Array",
    "Data",
    "Dataset",
    "Kind",
    "SparseRows",
    "Support",
    "Transform",
    "as_tensors",
    "batches",
    "batches_in_order",
    "datasets",
    "device_and_dtype",
    "fingerprint",
    "is_sparse",
    "shuffled_batches",
    "split",
    "suggest_likelihoods",
    "supports",
    "take",
]
