"""Data: sources of rows, minibatches (x, *c), data sets, and the values that data may take."""

from pyrovae.data import batches, datasets, supports
from pyrovae.data.batches import (
    Array,
    Data,
    Sources,
    Transform,
    as_source,
    as_sources,
    batches_in_order,
    device_and_dtype,
    fingerprint,
    rows_at_once,
    shuffled_batches,
    split,
    spread,
    take,
)
from pyrovae.data.datasets import Dataset
from pyrovae.data.dense import ArrayRows, TensorRows, TransformedRows
from pyrovae.data.indices import check_indices
from pyrovae.data.inputs import Inputs, inputs_of
from pyrovae.data.loading import as_minibatches
from pyrovae.data.minibatches import ArrayMinibatches, Minibatch, Minibatches, Share
from pyrovae.data.scan import Off, Scan
from pyrovae.data.source import Rows, Selected, Source, row_numbers, rows_within, slices
from pyrovae.data.sparse import SparseRows, is_sparse, to_scipy
from pyrovae.data.supports import COUNTS, Kind, Suggestion, Support, kind_of, suggest_likelihoods
from pyrovae.data.threads import ThreadWatch, torch_threads

__all__ = [
    "COUNTS",
    "Array",
    "ArrayMinibatches",
    "ArrayRows",
    "Data",
    "Dataset",
    "Inputs",
    "Kind",
    "Minibatch",
    "Minibatches",
    "Off",
    "Rows",
    "Scan",
    "Selected",
    "Share",
    "Source",
    "Sources",
    "SparseRows",
    "Suggestion",
    "Support",
    "TensorRows",
    "ThreadWatch",
    "Transform",
    "TransformedRows",
    "as_minibatches",
    "as_source",
    "as_sources",
    "batches",
    "batches_in_order",
    "check_indices",
    "datasets",
    "device_and_dtype",
    "fingerprint",
    "inputs_of",
    "is_sparse",
    "kind_of",
    "row_numbers",
    "rows_at_once",
    "rows_within",
    "shuffled_batches",
    "slices",
    "split",
    "spread",
    "suggest_likelihoods",
    "supports",
    "take",
    "to_scipy",
    "torch_threads",
]
