"""What a fitted model of cells is asked, under scverse's names: arrays and frames of cells, out of the count graph."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyrovae import evaluation, programs, tasks
from pyrovae.data import as_sources, batches_in_order, device_and_dtype, take
from pyrovae.singlecell import differential
from pyrovae.singlecell.cells import group_rows, rows_in
from pyrovae.singlecell.decoding import (
    Parameters,
    encoded,
    library,
    mapped,
    parameters,
    predictive,
    proportions,
)
from pyrovae.singlecell.training import CellTraining

__all__ = ["CellQueries"]

LibrarySize = float | Literal["latent"]


class CellQueries(CellTraining):
    """The questions. No method writes to an AnnData; genes are matched by name; cells of an unseen batch are refused.

    Common arguments: `adata`, cells with the model's genes in any order, None for the model's own; `indices`, numbers or a mask
    of the cells to take, None for all; `seed` of draws, None to continue the global stream.

    Every method raises RuntimeError before training, and ValueError if the cells do not fit the model, saying why.
    """

    def _query(self, what: str, adata: Any, indices: Any) -> tuple[Any, ...]:
        self._needs_training(what)
        return self.cells.query(adata, indices)

    # --------------------------------------------------------------------------------------------------------- inference
    def get_latent_representation(
        self, adata: Any = None, indices: Any = None, give_mean: bool = True, seed: int | None = 0
    ) -> np.ndarray:
        """Return E_q[z | x], with shape (N, D); a draw of z if `give_mean` is false.

        Example: `adata.obsm["X_pyrovae"] = model.get_latent_representation()`.
        """
        data = self._query("get_latent_representation", adata, indices)
        if give_mean:
            return tasks.embed(self.graph, *data).cpu().numpy()
        with programs.evaluation(self.graph, seed):
            draws = [
                programs.posterior(self.graph, batch, "z").sample()
                for batch in batches_in_order(self.graph, data)
            ]
        return torch.cat(draws).cpu().numpy()

    def get_latent_library_size(
        self, adata: Any = None, indices: Any = None, give_mean: bool = True, seed: int | None = 0
    ) -> np.ndarray:
        """Return E_q[e^l | x] in transcripts, with shape (N, 1), or a draw; the totals if the library is observed."""
        data = self._query("get_latent_library_size", adata, indices)
        with programs.evaluation(self.graph, seed):
            sizes = [
                library(self.graph, batch, give_mean)
                for batch in batches_in_order(self.graph, data)
            ]
        return torch.cat(sizes).cpu().numpy()

    def get_elbo(self, adata: Any = None, indices: Any = None, return_mean: bool = True) -> Any:
        """Return the ELBO in nats a cell, higher is better: the mean, or each cell's with shape (N,)."""
        terms = evaluation.elbo(self.graph, *self._query("get_elbo", adata, indices))
        return terms.elbo.mean().item() if return_mean else terms.elbo.cpu().numpy()

    def get_reconstruction_error(
        self, adata: Any = None, indices: Any = None, return_mean: bool = True
    ) -> dict[str, Any]:
        """Return {"reconstruction_loss": -E_q log p(x | z, l)} in nats a cell, the mean or with shape (N,)."""
        loss = -evaluation.elbo(
            self.graph, *self._query("get_reconstruction_error", adata, indices)
        ).reconstruction
        return {"reconstruction_loss": loss.mean().item() if return_mean else loss.cpu().numpy()}

    def get_marginal_ll(
        self,
        adata: Any = None,
        indices: Any = None,
        n_mc_samples: int = 1000,
        return_mean: bool = True,
    ) -> Any:
        """Return log p(x) in nats a cell by importance sampling (`pyrovae.log_evidence`): the mean over all cells, or (N,)."""
        evidence = evaluation.log_evidence(
            self.graph, *self._query("get_marginal_ll", adata, indices), samples=n_mc_samples
        )
        return evidence.log_p.mean().item() if return_mean else evidence.log_p.numpy()

    # -------------------------------------------------------------------------------------------------------- expression
    def get_normalized_expression(
        self,
        adata: Any = None,
        indices: Any = None,
        transform_batch: str | Sequence[str] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: LibrarySize = 1,
        n_samples: int = 1,
        return_mean: bool = True,
        batch_size: int = 128,
        return_numpy: bool = False,
        out: Any = None,
        seed: int | None = 0,
    ) -> Any:
        """Return the expression without noise and library size: rho, whose genes sum to one in a cell (dropout is not applied).

        Args:
            adata: see `get_latent_representation`.
            indices: see there.
            transform_batch: None decodes each cell in its own batch, a name in that one, a list in each of them, averaged.
            gene_list: the genes wanted; None for all.
            library_size: a number to scale by, or "latent" for the cell's own inferred size: mu instead of rho.
            n_samples: 1 decodes the posterior mean; more, so many draws of z (and l).
            return_mean: average over the draws.
            batch_size: cells decoded at once.
            return_numpy: an array instead of a DataFrame.
            out: anything with shape (N, G) that rows can be assigned to, such as a memory map or an h5py dataset: filled piece by
                piece and returned, so that a large result need not be held. See also `normalized_expression_chunks`.
            seed: of the draws.

        Returns:
            A DataFrame of cells by genes; with `return_mean=False` and several draws an array with shape (K, N, G).
        """
        _check_samples("get_normalized_expression", n_samples)
        x, genes = (
            self._query("get_normalized_expression", adata, indices),
            self.cells.genes(gene_list),
        )
        chunks = self._expression(
            x, transform_batch, genes, library_size, n_samples, batch_size, seed
        )
        if n_samples > 1 and not return_mean:
            if out is not None:
                raise ValueError(
                    "get_normalized_expression: out= holds means; with return_mean=False take the array that is returned"
                )
            return np.concatenate([rho for _, rho in chunks], 1)
        filled = np.empty((len(x[0]), len(genes)), np.float32) if out is None else out
        if tuple(filled.shape) != (len(x[0]), len(genes)):
            raise ValueError(
                f"get_normalized_expression: out has shape {tuple(filled.shape)}, expected {(len(x[0]), len(genes))}"
            )
        for span, rho in chunks:
            filled[span] = rho.mean(0)
        return (
            filled
            if return_numpy or out is not None
            else self.cells.frame(filled, adata, indices, genes)
        )

    def normalized_expression_chunks(
        self,
        adata: Any = None,
        indices: Any = None,
        transform_batch: str | Sequence[str] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: LibrarySize = 1,
        n_samples: int = 1,
        batch_size: int = 128,
        seed: int | None = 0,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (which of the cells, their expression with shape (B, G)); arguments as of `get_normalized_expression`."""
        x, genes = (
            self._query("normalized_expression_chunks", adata, indices),
            self.cells.genes(gene_list),
        )
        for span, rho in self._expression(
            x, transform_batch, genes, library_size, n_samples, batch_size, seed
        ):
            yield span, rho.mean(0)

    def get_likelihood_parameters(
        self,
        adata: Any = None,
        indices: Any = None,
        n_samples: int = 1,
        batch_size: int = 128,
        seed: int | None = 0,
    ) -> dict[str, np.ndarray]:
        """Return {"mean": mu, "dispersions": theta, "dropout": pi}, those that the likelihood has, with shape (N, G).

        At the posterior mean with one sample, else averaged over so many draws.
        """
        _check_samples("get_likelihood_parameters", n_samples)
        data = self._query("get_likelihood_parameters", adata, indices)
        found: dict[str, np.ndarray] = {}

        def decode(batch: tuple[Tensor, ...]) -> Parameters:
            return parameters(
                self.graph, encoded(self.graph, batch, n_samples, mean=n_samples == 1), batch[1:]
            )

        for span, of_batch in mapped(self.graph, data, batch_size, seed, decode):
            for name, value in of_batch._asdict().items():
                if value is not None:
                    filled = found.setdefault(
                        name, np.empty((len(data[0]), value.shape[-1]), np.float32)
                    )
                    filled[span] = value.mean(0).cpu().numpy()
        return found

    def posterior_predictive_sample(
        self,
        adata: Any = None,
        indices: Any = None,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        batch_size: int = 128,
        seed: int | None = 0,
    ) -> Any:
        """Return new counts x' ~ p(x' | x): a CSR matrix of cells by genes; for several samples an array with shape (N, G, K)."""
        from scipy import sparse

        _check_samples("posterior_predictive_sample", n_samples)
        data, genes = (
            self._query("posterior_predictive_sample", adata, indices),
            self.cells.genes(gene_list),
        )

        def draw(batch: tuple[Tensor, ...]) -> np.ndarray:
            return predictive(self.graph, batch, n_samples)[..., genes].cpu().numpy()

        drawn = [part for _, part in mapped(self.graph, data, batch_size, seed, draw)]
        if n_samples > 1:
            return np.concatenate(drawn, 1).transpose(1, 2, 0)
        return sparse.vstack([sparse.csr_matrix(part[0]) for part in drawn], format="csr")

    def differential_expression(
        self,
        groupby: str,
        group1: str | None = None,
        group2: str | None = None,
        adata: Any = None,
        mode: Literal["change", "vanilla"] = "change",
        delta: float = 0.25,
        batch_correction: bool = False,
        fdr_target: float = 0.05,
        n_samples: int = 5000,
        pseudocounts: float = 1e-6,
        seed: int = 0,
    ) -> Any:
        """Compare the expression of two groups of cells; see `pyrovae.differential` for what is computed.

        Args:
            groupby: column of `adata.obs`; cells in which it is missing are in no group, nor in the rest.
            group1: a group in it; None compares each with the rest.
            group2: another; None is the rest.
            adata: None for the model's own cells.
            mode: "change" asks whether the log2 fold change exceeds delta either way, "vanilla" which group is higher.
            delta: log2 fold change that counts.
            batch_correction: decode every cell in each batch and average, where batches and groups are confounded.
            fdr_target: largest probability that a gene called has not changed, and so of false ones among them.
            n_samples: pairs of cells drawn.
            pseudocounts: added to proportions: by default a transcript in a million, which a thousand cells of a thousand cannot tell from 0.
            seed: of the draws.

        Returns:
            A DataFrame by gene: comparison, proba_de, bayes_factor, lfc_mean, lfc_median, lfc_std (log2 of group1 over group2),
            raw_mean1, raw_mean2, is_de_fdr_<target>; the surest first.
        """
        import pandas as pd

        if mode not in ("change", "vanilla"):
            raise ValueError(f"mode is {mode!r}, expected 'change' or 'vanilla'")
        _check_samples("differential_expression", n_samples)
        if not 0 < fdr_target < 1 or not delta >= 0 or not pseudocounts > 0:
            got = f"fdr_target is {fdr_target}, delta {delta} and pseudocounts {pseudocounts}"
            raise ValueError(
                f"differential_expression: {got}, expected a share in (0, 1), at least 0, and above 0"
            )
        data, groups = (
            self._query("differential_expression", adata, None),
            self._groups(adata, groupby),
        )
        batches = list(range(len(self.cells.encoding.batches))) if batch_correction else [None]
        frames = []
        every = sorted({name for name in groups if name is not None and name != str(group2)})
        for one in [group1] if group1 is not None else every:
            rows = group_rows(groups, groupby, str(one), None if group2 is None else str(group2))
            with programs.evaluation(self.graph, seed):
                first, second = (
                    self._drawn_expression(data, cells, n_samples, batches) for cells in rows
                )
            change = differential.compared(
                first, second, delta if mode == "change" else None, pseudocounts
            )
            frame = pd.DataFrame(
                {name: value.numpy() for name, value in change._asdict().items()},
                index=self.cells.encoding.genes,
            )
            frame.insert(0, "comparison", f"{one} vs {'Rest' if group2 is None else group2}")
            for i, group in enumerate(rows, 1):
                frame[f"raw_mean{i}"] = (rows_in(data[0], group).sum(0) / len(group)).numpy()
            frame[f"is_de_fdr_{fdr_target}"] = differential.discoveries(
                change.proba_de, fdr_target
            ).numpy()
            frames.append(frame.sort_values("proba_de", ascending=False, kind="stable"))
        return pd.concat(frames)

    def _drawn_expression(
        self, data: tuple[Any, ...], group: Tensor, n: int, batches: Sequence[int | None]
    ) -> Tensor:
        """Return rho of so many draws from a group, with shape (P, G)."""
        drawn = group[torch.randint(len(group), (n,))]
        pieces = []
        for part in drawn.split(512):
            batch = tuple(take(tuple(as_sources(data)), part, *device_and_dtype(self.graph, data)))
            z = encoded(self.graph, batch, mean=False).z
            pieces.append(
                proportions(self.graph, z, batch[1:], batches, len(self.cells.encoding.batches))[
                    0
                ].cpu()
            )
        return torch.cat(pieces)

    def _expression(
        self,
        data: tuple[Any, ...],
        batch: Any,
        genes: Tensor,
        library_size: LibrarySize,
        draws: int,
        rows: int,
        seed: int | None,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (which cells, rho scaled, with shape (K, B, G))."""
        if isinstance(library_size, str) and library_size != "latent":
            raise ValueError(f"library_size is {library_size!r}, expected a number or 'latent'")
        batches, n = self.cells.batches(batch), len(self.cells.encoding.batches)

        def decode(part: tuple[Tensor, ...]) -> np.ndarray:
            codes = encoded(self.graph, part, draws, mean=draws == 1)
            rho = proportions(self.graph, codes.z, part[1:], batches, n)[..., genes]
            return (
                (rho * (codes.l.exp() if isinstance(library_size, str) else library_size))
                .cpu()
                .numpy()
            )

        yield from mapped(self.graph, data, rows, seed, decode)

    def _groups(self, adata: Any, key: str) -> list[str | None]:
        """Return the group of each cell; None where it is missing."""
        adata = self.cells.own() if adata is None else adata
        if key not in adata.obs:
            raise ValueError(
                f"groupby: key {key!r} is not in adata.obs, which has {list(adata.obs.columns)}"
            )
        missing = adata.obs[key].isna()
        return [
            None if none else name
            for name, none in zip(adata.obs[key].astype(str), missing, strict=True)
        ]


def _check_samples(what: str, n: int) -> None:
    if n < 1:
        raise ValueError(f"{what}: n_samples is {n}, expected at least one draw")
