"""One side of a comparison: a library's fit of one model, in a process of that library's own.

`benchmarks/peers.py` starts one process for each row of its table, with the Python of the
environment that the library is installed in, and sends a line for each fit. A fit makes the model
anew, so that all fits do the same work. What it took, and the held-out log p(x) that it reached,
come back as one line of JSON.

    python benchmarks/contenders.py NAME CASE.json
"""

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# benchmarks/scvi.py has the name of a package that is compared.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
sys.path.append(str(HERE.parent / "tests"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

LATENTS, PIXELS, CELL_TYPES = 20, 784, 6
Case = dict[str, Any]
Fit = Callable[[], Any]  # what is timed; returns what `Quality` reads
Quality = Callable[[Any], float]


# -------------------------------------------------------------------------------------------- cells
def cells(case: Case) -> Any:
    """Return simulated counts: types with their own proportions, so many non-zeros as asked."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    generator = np.random.default_rng(0)
    n, genes = case["rows"], case["genes"]
    kind = generator.integers(CELL_TYPES, size=n)
    log_rho = generator.normal(0, 1.5, genes) + generator.normal(0, 0.4, (CELL_TYPES, genes))
    rho = np.exp(log_rho) / np.exp(log_rho).sum(1, keepdims=True)
    size = generator.lognormal(0, 0.4, n)
    low, high = 1.0, 1e8
    for _ in range(40):  # the total that gives the share of non-zeros: NB(0) at theta = 2
        total = math.sqrt(low * high)
        some = total * size[:200, None] * rho[kind[:200]]
        share = 1 - ((1 + some / 2) ** -2).mean()
        low, high = (total, high) if share < case["share"] else (low, total)
    rate = total * size[:, None] * rho[kind] * generator.gamma(2, 0.5, (n, genes))
    names = [f"cell {i}" for i in range(n)]
    return anndata.AnnData(
        csr_matrix(generator.poisson(rate).astype(np.float32)), obs=pd.DataFrame(index=names)
    )


def parts(case: Case) -> tuple[Any, Any]:
    """Return training cells and held-out cells."""
    adata = cells(case | {"rows": case["rows"] + case["test"]})
    return adata[: case["rows"]].copy(), adata[case["rows"] :].copy()


def held_out(graph: Any, adata: Any, samples: int) -> float:
    """Return the mean log p(x) of cells by importance sampling, whoever trained the graph."""
    import pyrovae as pv

    x = torch.as_tensor(adata.X.toarray())
    return pv.log_evidence(graph.eval(), x, samples=samples).log_p.mean().item()


def scvi_tools(case: Case) -> tuple[Fit, Quality]:
    """SCVI with a latent library size, as `SCVI.train` runs it."""
    import scvi
    from scvi_weights import graph_like

    train, test = parts(case)
    scvi.model.SCVI.setup_anndata(train)
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "logger": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }

    def fit() -> Any:
        model = scvi.model.SCVI(train, use_observed_lib_size=False)
        plan = {"n_epochs_kl_warmup": max(1, case["epochs"] // 4)}
        model.train(case["epochs"], batch_size=128, train_size=1.0, plan_kwargs=plan, **quiet)
        return model

    def quality(model: Any) -> float:
        return held_out(graph_like(model.module.state_dict(), 1), test, case["samples"])

    return fit, quality


def pyrovae_cells(case: Case) -> tuple[Fit, Quality]:
    """`SingleCellVAE`, as `train` runs it."""
    from pyrovae.singlecell import SingleCellVAE

    train, test = parts(case)
    SingleCellVAE.setup_anndata(train)

    def fit() -> Any:
        model = SingleCellVAE(train, seed=torch.initial_seed())
        warmup = max(1, case["epochs"] // 4)
        settings: dict[str, Any] = {"n_epochs_kl_warmup": warmup, "progress": False}
        model.train(case["epochs"], batch_size=128, train_size=1.0, **settings)
        return model

    return fit, lambda model: held_out(model.graph, test, case["samples"])


def pyrovae_cells_torch(case: Case) -> tuple[Fit, Quality]:
    """The same, where numba is not installed."""
    from pyrovae.distributions import negative_binomial_log_prob

    negative_binomial_log_prob._compiled = lambda: None
    return pyrovae_cells(case)


# ------------------------------------------------------------------------------------------- images
def images(case: Case) -> tuple[Tensor, Tensor]:
    """Return simulated binary images, for training and held out: a mixture of smooth shapes."""
    generator = torch.Generator().manual_seed(0)
    n = case["rows"] + case["test"]
    z = torch.randn(n, 8, generator=generator)
    maps = torch.randn(8, 1, 7, 7, generator=generator)
    smooth = functional.interpolate(maps, size=(28, 28), mode="bicubic").flatten(1)
    p = torch.sigmoid(4 * (z @ smooth) - 2)
    x = torch.bernoulli(p, generator=generator)
    return x[: case["rows"]], x[case["rows"] :]


def networks(case: Case) -> tuple[nn.Sequential, nn.Sequential]:
    """Return encoder and decoder of one hidden layer."""
    hidden = case["hidden"]
    encoder = nn.Sequential(nn.Linear(PIXELS, hidden), nn.Tanh(), nn.Linear(hidden, 2 * LATENTS))
    decoder = nn.Sequential(nn.Linear(LATENTS, hidden), nn.Tanh(), nn.Linear(hidden, PIXELS))
    return encoder, decoder


@torch.no_grad()
def log_p(encode: Callable[[Tensor], Any], decode: Callable[[Tensor], Tensor], case: Case) -> float:
    """Return the mean log p(x) of held-out images by importance sampling.

    Args:
        encode: x -> mean and log standard deviation of q(z | x).
        decode: z -> logits of x.
        case: data and number of samples.
    """
    x = images(case)[1]
    mean, log_sd = encode(x)
    q, k = torch.distributions.Normal(mean, log_sd.exp()), case["samples"]
    weights = []
    for _ in range(k):
        z = q.sample()
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)
        cross_entropy = functional.binary_cross_entropy_with_logits
        weights.append(prior.sum(1) - cross_entropy(decode(z), x, reduction="none").sum(1))
    return (torch.stack(weights).logsumexp(0) - math.log(k)).mean().item()


def pytorch(case: Case) -> tuple[Fit, Quality]:
    """Hand-written PyTorch: analytic KL, one fused Adam, minibatches by index from memory."""
    x = images(case)[0]

    def fit() -> Any:
        encoder, decoder = networks(case)
        weights = [*encoder.parameters(), *decoder.parameters()]
        adam = torch.optim.Adam(weights, lr=1e-3, fused=True)
        for _ in range(case["epochs"]):
            total = 0.0
            for rows in torch.randperm(len(x)).split(case["batch"]):
                b = x[rows]
                mean, log_sd = encoder(b).chunk(2, -1)
                z = mean + log_sd.exp() * torch.randn_like(mean)
                kl = 0.5 * (mean.square() + (2 * log_sd).exp() - 1 - 2 * log_sd).sum()
                lost = functional.binary_cross_entropy_with_logits(decoder(z), b, reduction="sum")
                adam.zero_grad()
                loss = (lost + kl) / len(b)
                loss.backward()
                adam.step()
                total += loss.item()
        return encoder, decoder

    return fit, lambda nets: log_p(lambda x: nets[0](x).chunk(2, -1), nets[1], case)


def pyrovae_images(case: Case, **settings: Any) -> tuple[Fit, Quality]:
    """`pyrovae.fit` of the same model."""
    import pyrovae as pv

    x = images(case)[0]

    def fit() -> Any:
        encoder, decoder = networks(case)
        vae = pv.VAE(
            pv.priors.StandardNormal(LATENTS),
            pv.posteriors.DiagonalNormal(encoder),
            pv.likelihoods.Bernoulli(decoder),
        )
        sizes = {"epochs": case["epochs"], "batch_size": case["batch"]}
        pv.fit(vae, x, progress=False, **sizes, **settings)
        return encoder, decoder

    return fit, lambda nets: log_p(lambda x: nets[0](x).chunk(2, -1), nets[1], case)


def pyro_example(case: Case) -> tuple[Fit, Quality]:
    """Pyro's VAE as in its tutorial: `Trace_ELBO`, Pyro's Adam, a torch `DataLoader`."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, Trace_ELBO

    x = images(case)[0]

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = networks(case)

        def model(self, x: Tensor) -> None:
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                loc = torch.zeros(x.shape[0], LATENTS)
                z = pyro.sample("latent", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
                p = torch.sigmoid(self.decoder(z))
                pyro.sample("obs", dist.Bernoulli(p, validate_args=False).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", x.shape[0]):
                loc, log_scale = self.encoder(x).chunk(2, -1)
                pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))

    def fit() -> Any:
        pyro.clear_param_store()
        vae = VAE()
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
        loader = torch.utils.data.DataLoader(x, batch_size=case["batch"], shuffle=True)
        for _ in range(case["epochs"]):
            for batch in loader:
                svi.step(batch)
        return vae.encoder, vae.decoder

    return fit, lambda nets: log_p(lambda x: nets[0](x).chunk(2, -1), nets[1], case)


def pythae_vae(case: Case) -> tuple[Fit, Quality]:
    """The VAE of pythae with the same networks, by its own trainer."""
    import tempfile

    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    x = images(case)[0].view(-1, 1, 28, 28)

    class Encoder(BaseEncoder):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Any:
            mean, log_sd = self.net(x.flatten(1)).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=2 * log_sd)

    class Decoder(BaseDecoder):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid().view(-1, 1, 28, 28))

    def fit() -> Any:
        nets = networks(case)
        config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce")
        with tempfile.TemporaryDirectory() as folder:
            how = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=case["epochs"],
                learning_rate=1e-3,
                per_device_train_batch_size=case["batch"],
                optimizer_cls="Adam",
                no_cuda=True,
            )
            data = BaseDataset(x, torch.ones(len(x)))
            model = VAE(config, Encoder(nets[0]), Decoder(nets[1]))
            BaseTrainer(model, train_dataset=data, training_config=how).train()
        return nets

    return fit, lambda nets: log_p(lambda x: nets[0](x).chunk(2, -1), nets[1], case)


def pyroved_vae(case: Case) -> tuple[Fit, Quality]:
    """The iVAE of pyroVED without invariances, by its own trainer."""
    import pyroved

    x = images(case)[0]

    def fit() -> Any:
        sizes: dict[str, Any] = {"hidden_dim_e": [case["hidden"]], "hidden_dim_d": [case["hidden"]]}
        vae = pyroved.models.iVAE((28, 28), LATENTS, invariances=None, activation="tanh", **sizes)
        trainer = pyroved.trainers.SVItrainer(vae)
        loader = pyroved.utils.init_dataloader(x, batch_size=case["batch"])
        for _ in range(case["epochs"]):
            trainer.step(loader)
        return vae

    def quality(vae: Any) -> float:
        def encode(x: Tensor) -> Any:
            mean, sd = vae.encoder_z(x)
            return mean, sd.log()

        decode = vae.decoder
        return log_p(encode, lambda z: decode(z).flatten(1).clamp(1e-6, 1 - 1e-6).logit(), case)

    return fit, quality


CONTENDERS: dict[str, Callable[[Case], tuple[Fit, Quality]]] = {
    "pyrovae": pyrovae_cells,
    "pyrovae, no numba": pyrovae_cells_torch,
    "scvi-tools": scvi_tools,
    "pyrovae.fit": pyrovae_images,
    "pyrovae.fit, bf16": functools.partial(pyrovae_images, precision="bf16"),
    "PyTorch": pytorch,
    "Pyro's example": pyro_example,
    "pythae": pythae_vae,
    "pyroVED": pyroved_vae,
}


# ---------------------------------------------------------------------------------- the process
def peak() -> float:
    """Return the largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(fit: Fit, quality: Quality, seed: int, wanted: bool) -> dict[str, float]:
    """Return what one fit took, and what it reached if that is wanted."""
    torch.manual_seed(seed)
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = fit()
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": peak()}
    return found | ({"log p(x)": quality(fitted)} if wanted else {})


def main() -> None:
    """Answer each line of the input, {"seed": ..., "quality": ...}, with a line of figures."""
    name, case = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    torch.set_num_threads(case["threads"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is not read
    fit, quality = CONTENDERS[name](case)
    ready = {"before": peak(), "versions": {"torch": torch.__version__}}
    for package in ("pyrovae", "scvi-tools", "pythae", "pyroved", "pyro-ppl"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            ready["versions"][package] = importlib.metadata.version(package)
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(timed(fit, quality, **asked)), file=answers, flush=True)


if __name__ == "__main__":
    main()
