"""The two-latent count model against scvi-tools' SCVI: held-out log p(x), clusters, training speed.

Both have the same split, seeds, epochs, batch size and architecture (10 latents, one hidden layer
of 128, ZINB, latent library size, one dispersion per gene). The fits alternate, each in a fresh
process of one environment that holds both libraries, which the benchmark makes from the registry if
it does not exist. Held-out log p(x) of either is estimated by this library's importance sampling,
with scvi-tools' weights copied into the same graph; `tests/test_scvi.py` shows that it is the same
model.

    python benchmarks/scvi.py DATA.h5ad [--quick] [--json FILE] [--environment FOLDER]
"""

import argparse
import copy
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# This file has the name of the package that it is compared with.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
sys.path.append(str(HERE.parent / "tests"))

KINDS = ("scvi-tools", "pyrovae", "pyrovae, float32")
# Lower bounds in ms on an idle machine, from ../shared/references.md.
FLOORS = {
    "encoder products": 1.7,
    "decoder products": 3.1,
    "likelihood": 2.7,
    "optimizer": 1.1,
}


# ------------------------------------------------------------------------------------------ one fit
def data_of(path: Path, seed: int) -> dict[str, Any]:
    """Return the AnnData and a random split of its cells: nine tenths and one tenth."""
    import anndata
    import torch

    adata = anndata.read_h5ad(path)
    order = torch.randperm(adata.n_obs, generator=torch.Generator().manual_seed(seed))
    held_out = order[: adata.n_obs // 10].sort().values.numpy()
    training = order[adata.n_obs // 10 :].sort().values.numpy()
    return {"adata": adata, "training": training, "held out": held_out}


def fit_scvi(data: dict[str, Any], epochs: int, seed: int) -> tuple[Any, float, dict[str, float]]:
    """Train scvi-tools' model; return this library's graph with its weights, and the seconds."""
    import scvi
    from scvi_weights import graph_like

    scvi.settings.seed = seed
    adata = data["adata"].copy()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, use_observed_lib_size=False)
    settings = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "logger": False,
        "enable_model_summary": False,
    }
    plan = {"n_epochs_kl_warmup": max(1, epochs // 4)}
    splits = [data["training"], data["held out"], data["held out"][:0]]
    started = time.perf_counter()
    model.train(
        epochs,
        batch_size=128,
        datasplitter_kwargs={"external_indexing": splits},
        plan_kwargs=plan,
        early_stopping=False,
        **settings,
    )
    seconds = time.perf_counter() - started
    return graph_like(model.module.state_dict(), adata.obs["batch"].nunique()), seconds, {}


def fit_pyrovae(
    data: dict[str, Any], epochs: int, seed: int, bf16: bool = True
) -> tuple[Any, float, dict[str, float]]:
    """Train this library's graph on the same cells; return it, seconds, and the time by part."""
    import torch

    import pyrovae as pv

    x, c = arrays(data, data["training"])
    library = [[v.item() for v in f(x, c)] for f in (library_mean, library_sd)]
    # torch imports its compiler with the first optimizer, which takes seconds once.
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    torch.manual_seed(seed)
    graph = pv.graphs.count_vae(x.shape[1], batches=c.shape[1], library=tuple(library), bf16=bf16)
    objective = pv.objectives.SGVB_B(beta=pv.objectives.warm_up(0.25), annealed={"z"})
    adam = functools.partial(torch.optim.Adam, lr=1e-3, eps=0.01, weight_decay=1e-6, fused=True)
    settings = {
        "objective": objective,
        "optimizer": adam,
        "batch_size": 128,
        "seed": seed,
        "progress": False,
    }
    started = time.perf_counter()
    pv.fit(graph, (data["adata"].X[data["training"]], c), epochs=epochs, **settings)
    seconds = time.perf_counter() - started
    return graph.eval(), seconds, pieces(graph, x[:128], c[:128])


def arrays(data: dict[str, Any], rows: Any) -> tuple[Any, Any]:
    """Return dense counts and one-hot batches of some cells."""
    import torch

    batch = torch.as_tensor(
        data["adata"].obs["batch"].astype("category").cat.codes.to_numpy().astype("int64")[rows]
    )
    x = torch.as_tensor(data["adata"].X[rows].toarray()).float()
    return x, torch.nn.functional.one_hot(batch).float()


def library_mean(x: Any, c: Any) -> Any:
    """Return the mean log total of each batch."""
    return (c * x.sum(1, keepdim=True).log()).sum(0) / c.sum(0)


def library_sd(x: Any, c: Any) -> Any:
    """Return the standard deviation of the log totals of each batch."""
    log_total = x.sum(1, keepdim=True).log()
    return ((c * (log_total - library_mean(x, c)) ** 2).sum(0) / c.sum(0)).sqrt()


# ---------------------------------------------------------------------- time of each part of a step
def pieces(graph: Any, x: Any, c: Any) -> dict[str, float]:
    """Return the milliseconds that each part of a step takes by itself, forward and backward."""
    import torch

    from pyrovae.data import as_sources
    from pyrovae.programs import run

    graph = copy.deepcopy(graph).train()  # a copy: its batch statistics change
    sparse = as_sources((to_csr(x),))[0]
    z, h, l = torch.randn(len(x), 10), torch.log1p(x), x.sum(1, keepdim=True).log()  # noqa: E741
    heads = [torch.zeros(len(x), x.shape[1], requires_grad=True) for _ in range(2)]
    theta = torch.zeros(x.shape[1], requires_grad=True)
    weights = [torch.nn.Parameter(p.detach().clone()) for p in graph.parameters()]
    adam = torch.optim.Adam(weights, fused=True)
    for weight in weights:
        weight.grad = torch.ones_like(weight)

    def likelihood() -> None:
        from pyrovae.distributions import ZeroInflatedNegativeBinomial

        log_mu = torch.log_softmax(heads[0], -1) + l
        ZeroInflatedNegativeBinomial.from_logs(log_mu, theta, heads[1]).to_event(1).log_prob(
            x
        ).sum().backward()

    def decoder() -> None:
        hidden = graph.likelihood.net(z, c)
        up = torch.ones(len(x), x.shape[1])
        torch.autograd.backward(
            [graph.likelihood.scale(hidden), graph.likelihood.gate(hidden)], [up, up]
        )

    def encoders() -> None:
        (graph.posterior.net(h).sum() + graph.library_posterior.net(h).sum()).backward()

    def handlers() -> None:
        with torch.no_grad():
            run(graph.model, graph.guide, x[:2, :], c[:2])

    rows = torch.arange(len(x))
    parts = {
        "minibatch": lambda: (sparse[rows], torch.log1p(x)),
        "encoder products": encoders,
        "decoder products": decoder,
    }
    parts |= {"likelihood": likelihood, "optimizer": adam.step, "handlers, at two cells": handlers}
    return {name: median_ms(part) for name, part in parts.items()}


def to_csr(x: Any) -> Any:
    """Return the matrix as SciPy's compressed rows."""
    from scipy.sparse import csr_matrix

    return csr_matrix(x.numpy())


def median_ms(part: Any, rounds: int = 40) -> float:
    """Return the median duration in milliseconds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        part()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


# --------------------------------------------------------------------------------------- evaluation
def evaluate(graph: Any, data: dict[str, Any], samples: int) -> dict[str, float]:
    """Return held-out ELBO and log p(x) per cell, and how k-means on z finds the cell types."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    import pyrovae as pv

    x, c = arrays(data, data["held out"])
    log_p = pv.log_evidence(graph, x, c, samples=samples).log_p
    figures = {
        "ELBO": pv.elbo(graph, x, c, samples=5).elbo.mean().item(),
        "log p(x)": log_p.mean().item(),
    }
    z = pv.embed(graph, *arrays(data, slice(None))).numpy()
    types = data["adata"].obs["cell_type"]
    found = KMeans(types.nunique(), n_init=10, random_state=0).fit_predict(z)
    return figures | {
        "ARI": adjusted_rand_score(types, found),
        "NMI": normalized_mutual_info_score(types, found),
    }


def work(arguments: argparse.Namespace) -> None:
    """Do one fit and write its figures; the benchmark calls this in a process of its own."""
    data = data_of(arguments.data, arguments.seed)
    fits = {
        "scvi-tools": fit_scvi,
        "pyrovae": fit_pyrovae,
        "pyrovae, float32": functools.partial(fit_pyrovae, bf16=False),
    }
    graph, seconds, where = fits[arguments.work](data, arguments.epochs, arguments.seed)
    cells = arguments.epochs * len(data["training"])
    figures = {
        "cells/s": cells / seconds,
        "ms a step": 1e3 * seconds / (cells / 128),
        **evaluate(graph, data, arguments.samples),
    }
    arguments.json.write_text(
        json.dumps({"figures": figures, "pieces": where, "versions": versions()})
    )


def versions() -> dict[str, str]:
    """Return the versions of what was compared."""
    from importlib.metadata import version

    return {
        name: version(name) for name in ("pyrovae", "scvi-tools", "torch", "pyro-ppl", "anndata")
    }


# ------------------------------------------------------------------------------------ the whole run
def environment(folder: Path) -> Path:
    """Return the Python of an environment with both libraries, made from the registry if absent."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "uv"], check=True)
        subprocess.run(
            [
                folder / "bin" / "uv",
                "pip",
                "install",
                "-q",
                "--python",
                python,
                "scvi-tools",
                "-e",
                f"{HERE.parent}[cells]",
            ],
            check=True,
        )
    return python


def one(python: Path, kind: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one fit in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        sizes = [
            "--epochs",
            str(arguments.epochs),
            "--samples",
            str(arguments.samples),
            "--seed",
            str(seed),
        ]
        command = [
            python,
            "-W",
            "ignore",
            Path(__file__).resolve(),
            arguments.data.resolve(),
            "--work",
            kind,
            "--json",
            out,
            *sizes,
        ]
        subprocess.run(
            [str(part) for part in command],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
        )
        return json.loads(out.read_text())


def report(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Print medians over seeds, ratios within a seed, and the time of each part of a step."""
    columns = ("cells/s", "ms a step", "ELBO", "log p(x)", "ARI", "NMI")
    print(f"{'':<20}" + "".join(f"{column:>12}" for column in columns) + f"{'speed ratio':>14}")
    summary: dict[str, Any] = {}
    for kind, runs in results.items():
        medians = {
            column: statistics.median(run["figures"][column] for run in runs) for column in columns
        }
        pairs = zip(runs, results["scvi-tools"], strict=True)
        medians["ratio"] = statistics.median(
            run["figures"]["cells/s"] / peer["figures"]["cells/s"] for run, peer in pairs
        )
        print(
            f"{kind:<20}"
            + "".join(f"{medians[column]:>12.3f}" for column in columns)
            + f"{medians['ratio']:>14.2f}"
        )
        summary[kind] = {"medians": medians, "runs": runs}
    print(
        "\nParts of a step, forward and backward, ms (lower bound in float32 on an idle machine):"
    )
    for name in results["pyrovae"][0]["pieces"]:
        ms = statistics.median(run["pieces"][name] for run in results["pyrovae"])
        print(f"  {name:<24}{ms:>8.2f}" + (f"   ({FLOORS[name]})" if name in FLOORS else ""))
    return summary


def main() -> None:
    """Alternate the fits over the seeds, print the table, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", type=Path, help="an .h5ad of raw counts with obs['batch'] and obs['cell_type']"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, 2 epochs: a check that it runs"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=200, help="importance samples per cell")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--environment", type=Path, default=HERE.parent / ".venv-scvi", help="made if absent"
    )
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return
    if arguments.quick:
        arguments.seeds, arguments.epochs, arguments.samples = 1, 2, 20
    python = environment(arguments.environment)
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for seed in range(arguments.seeds):
        for kind in KINDS:
            results[kind].append(one(python, kind, seed, arguments))
            print(f"seed {seed}, {kind}: {results[kind][-1]['figures']}", flush=True)
    summary = report(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
