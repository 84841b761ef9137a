"""The two-latent count model for AnnData, under scverse's names; its mathematics is `CountVAE`.

    SingleCellVAE.setup_anndata(adata, batch_key="batch")
    model = SingleCellVAE(adata)
    model.train()
    adata.obsm["X_pyrovae"] = model.get_latent_representation()

Short methods are written here; the class lists the longer ones, functions of it in other files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import nn

from pyrovae import graphs, tasks
from pyrovae.files import History
from pyrovae.likelihoods import Dispersion
from pyrovae.singlecell import (
    bounds,
    decoding,
    differential,
    expression,
    minified,
    populations,
    query,
    saving,
    scverse,
    setup,
    training,
)
from pyrovae.singlecell.building import new_state
from pyrovae.singlecell.state import State, fit_of, selected, split_of

__all__ = ["SingleCellVAE"]


@final
class SingleCellVAE:
    """scVI's model (Lopez et al. 2018) of the raw counts of an AnnData.

    **The library size is a latent variable, as in the paper.** scvi-tools takes the observed total
    by default; `use_observed_lib_size=True` gives that model. ELBO and evidence of the two models
    are not comparable.

    Every count is checked when the model is made. No method but `setup_anndata` writes to an
    AnnData. Genes are matched by name, in every AnnData that a method is given; cells of a batch or
    category that was not seen in training are refused.

    Arguments that the methods share: `adata`, cells with the model's genes in any order, as an
    AnnData or by `open_shards` (None for the model's own); `indices`, row numbers or a mask of the
    cells to take (None for all); `seed` of draws (None continues the global random stream);
    `return_mean`, whether to average. Methods that need a trained model raise a RuntimeError before
    training, and a ValueError if the cells do not fit the model.

    Args:
        adata: the cells, after `setup_anndata`: an AnnData, or `open_shards`, on the disk.
        n_hidden: units per hidden layer.
        n_latent: dimensions of z.
        n_layers: hidden layers of encoder and decoder.
        dropout_rate: of the encoders.
        dispersion: "gene", "gene-batch", "gene-label" or "gene-cell" (`likelihoods.Dispersion`).
        gene_likelihood: "zinb", "nb" or "poisson".
        use_observed_lib_size: take the observed total as the library size instead of inferring it.
        encode_covariates: whether the encoders see batch and covariates.
        prior: p(z), any prior of the library, or a function from the posterior to a prior; standard
            normal by default.
        posterior: q(z | log(1 + x), c), any posterior of the library, or a function from `encoder`
            to a posterior, see `graphs.count_vae`; diagonal normal by default.
        seed: of the first weights and of the split; the global random state is left alone.

    Attributes:
        cells: the model's own cells, encoded (`singlecell.cells.Cells`).
        graph: the model and guide, a `CountVAE`: everything in pyrovae that takes a graph takes it.
        seed: see `Args`.
        fit_result: history and split of the last fit; None before.
        query: which weights are trained, of a model that `load_query_data` made; else None.

    Raises:
        ValueError: if a value is not a count, or an argument does not fit; names the cell, gene or
            key.
    """

    def __init__(
        self,
        adata: Any,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: str = Dispersion.GENE.value,
        gene_likelihood: str = "zinb",
        use_observed_lib_size: bool = False,
        *,
        encode_covariates: bool = False,
        prior: nn.Module | Callable[[nn.Module], nn.Module] | None = None,
        posterior: nn.Module | Callable[[graphs.Encoder], nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(adata, State):  # from `load`
            state = adata
        else:
            state = new_state(
                adata,
                n_hidden=n_hidden,
                n_latent=n_latent,
                n_layers=n_layers,
                dropout_rate=dropout_rate,
                dispersion=dispersion,
                gene_likelihood=gene_likelihood,
                use_observed_lib_size=use_observed_lib_size,
                encode_covariates=encode_covariates,
                prior=prior,
                posterior=posterior,
                seed=seed,
            )
        self.cells, self.graph = state.cells, state.graph
        self.seed, self.fit_result, self.query = state.seed, state.fit_result, state.query

    # Methods in other files: functions whose first argument is the model (but `setup_anndata`).
    setup_anndata = staticmethod(setup.setup_anndata)
    prepare_query_anndata = staticmethod(query.prepare_query_anndata)
    train = training.train
    get_normalized_expression = expression.get_normalized_expression
    normalized_expression_chunks = expression.normalized_expression_chunks
    get_elbo = bounds.get_elbo
    get_reconstruction_error = bounds.get_reconstruction_error
    get_marginal_ll = bounds.get_marginal_ll
    get_likelihood_parameters = expression.get_likelihood_parameters
    posterior_predictive_sample = expression.posterior_predictive_sample
    differential_expression = differential.differential_expression
    differential_abundance = populations.differential_abundance
    get_aggregated_posterior = populations.get_aggregated_posterior
    minify_adata = minified.minify_adata
    get_feature_correlation_matrix = populations.get_feature_correlation_matrix

    # ------------------------------------------------------------------------------------- the fit
    @property
    def is_trained(self) -> bool:
        """Whether `train` has ended, by itself or by Ctrl-C."""
        return self.fit_result is not None

    @property
    def fit_history(self) -> History:
        """The history of the fit, as `pyrovae.fit` returned it."""
        return fit_of(self, "fit_history").history

    @property
    def history(self) -> dict[str, Any]:
        """The history of the fit: a DataFrame by epoch for each of `History`'s lists.

        scvi-tools' keys are there too, such as "elbo_train" (a loss: lower is better).
        """
        return scverse.history_frames(fit_of(self, "history").history)

    @property
    def train_indices(self) -> np.ndarray:
        """Rows of the cells that the model was trained on."""
        return split_of(self, "train_indices").training.numpy()

    @property
    def validation_indices(self) -> np.ndarray:
        """Rows of the cells that the fit was validated on."""
        return split_of(self, "validation_indices").validation.numpy()

    @property
    def test_indices(self) -> np.ndarray:
        """Rows of the cells that the model was neither trained nor validated on."""
        used = np.concatenate([self.train_indices, self.validation_indices])
        return np.setdiff1d(np.arange(self.cells.own().n_obs), used)

    # -------------------------------------------------------------------------- cells and device
    def __repr__(self) -> str:
        return scverse.described(self)

    @property
    def adata(self) -> Any:
        """The model's own cells."""
        return self.cells.own()

    @property
    def registry(self) -> dict[str, Any]:
        """What `setup_anndata` and the cells fixed, as plain values."""
        return self.cells.encoding.to_dict()

    def view_anndata_setup(self) -> None:
        """Print the layer, the keys and their categories."""
        print(self.cells.encoding.described())

    @property
    def minified_data_type(self) -> str | None:
        """How the model's own cells are minified: "latent_posterior_parameters", or None."""
        return minified.KIND if isinstance(self.graph, minified.StoredPosteriors) else None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.graph.parameters()).device

    def to_device(self, device: str | int | torch.device) -> None:
        """Move the model to a device, such as "cuda:0" or the number of a GPU."""
        self.graph.to(device)

    # ----------------------------------------------------------------------------------- inference
    def get_latent_representation(
        self,
        adata: Any = None,
        indices: Any = None,
        give_mean: bool = True,
        seed: int | None = 0,
        *,
        return_dist: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Return E_q[z | x], with shape (N, D), or one draw from q(z | x) if not `give_mean`.

        With `return_dist` means and variances of q(z | x), each with shape (N, D). `batch_size` is
        scvi-tools'; memory is bounded here without it.
        """
        data = selected(self, "get_latent_representation", adata, indices).data
        if return_dist:
            return decoding.moments(self.graph, data)
        if give_mean:
            return tasks.embed(self.graph, *data).cpu().numpy()
        return decoding.latent_draws(self.graph, data, seed)

    def get_latent_library_size(
        self, adata: Any = None, indices: Any = None, give_mean: bool = True, seed: int | None = 0
    ) -> np.ndarray:
        """Return E_q[e^l | x] in transcripts, with shape (N, 1), or one draw if not `give_mean`.

        Where the library size is observed, this is the total.
        """
        data = selected(self, "get_latent_library_size", adata, indices).data
        return decoding.library_sizes(self.graph, data, give_mean, seed)

    # ------------------------------------------------------------------------- reference and files
    @classmethod
    def load_query_data(
        cls,
        adata: Any,
        reference_model: "SingleCellVAE | str | Path",
        *,
        unfrozen: bool = False,
    ) -> "SingleCellVAE":
        """Return a reference with new cells as its own, and what is new in them (scArches).

        z of the new cells is there at once, since by default the encoders do not see the batch.
        `train` then fits the decoder's weights of new batches and of new categories of covariates
        (and the encoders', with `encode_covariates`), and holds all others constant.

        Args:
            adata: new cells, as `prepare_query_anndata` returns them.
            reference_model: a trained model, or the folder of one. It is left unchanged.
            unfrozen: train all weights.

        Raises:
            ValueError: if the cells do not fit the reference.
        """
        return cls(query.query_state(adata, reference_model, unfrozen))

    def save(
        self,
        folder: str | Path,
        overwrite: bool = False,
        *,
        metrics: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the model to a folder, without the data: `pyrovae.save`'s files and cells.json.

        Args:
            folder: made if it does not exist.
            overwrite: replace a model that the folder holds.
            metrics: numbers and strings to keep with the model, see `pyrovae.save`.

        Raises:
            RuntimeError: if the model was not trained.
            FileExistsError: if the folder holds a model and `overwrite` is false.
        """
        return saving.write(self, folder, overwrite, metrics)

    @classmethod
    def load(
        cls, folder: str | Path, adata: Any = None, into: nn.Module | None = None
    ) -> "SingleCellVAE":
        """Read a model that `save` wrote.

        Args:
            folder: where it is.
            adata: the model's own cells, used where a method is given none; None for no own cells.
            into: a graph to load the weights into, if parts of it are your own (`pyrovae.load`).

        Raises:
            FileNotFoundError: if the folder holds no model.
            ValueError: if a file is truncated, or the cells do not fit the model.
        """
        return cls(saving.read(folder, adata, into))
