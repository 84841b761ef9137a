"""The same terms as scvi-tools' SCVI at the same weights, where scvi-tools is installed.

It is a dependency of a benchmark, never of the library.
"""

import numpy as np
import pytest
import torch
from scvi_weights import graph_like
from torch.distributions import kl_divergence

import pyrovae as pv
from pyrovae import programs

scvi = pytest.importorskip("scvi")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import anndata

    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 3.0, (4, 60))[rng.integers(4, size=300)] * rng.lognormal(
        0, 0.4, (300, 1)
    )
    adata = anndata.AnnData(rng.poisson(rates).astype(np.float32) + (rng.random((300, 60)) < 0.01))
    adata.obs["batch"] = rng.choice(["a", "b", "c"], 300)
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, use_observed_lib_size=False)
    model.train(15, accelerator="cpu", enable_progress_bar=False, logger=False)
    return adata, model


def test_reconstruction_both_kl_and_the_latent_mean_agree(trained):
    adata, model = trained
    module = model.module.eval()
    x = torch.as_tensor(adata.X)
    batch = torch.as_tensor(
        adata.obs["batch"].astype("category").cat.codes.to_numpy().copy()
    ).long()
    c = torch.nn.functional.one_hot(batch, 3).float()
    graph = graph_like(module.state_dict(), batches=3)
    with programs.evaluation(graph):
        p, q = programs.run(graph.model, graph.guide, x, c)
        theirs = module.inference(x, batch[:, None])
        z, l = q["z"]["value"], q["l"]["value"]  # noqa: E741
        generated = module.generative(z, l, batch[:, None])
        reconstruction = generated["px"].log_prob(x).sum(-1)
        kl_z = kl_divergence(theirs["qz"], generated["pz"]).sum(-1)
        kl_l = kl_divergence(theirs["ql"], generated["pl"]).sum(-1)
        ours = (
            programs.log_prob(p["x"]),
            programs.analytic_kl(q["z"], p["z"]),
            programs.analytic_kl(q["l"], p["l"]),
        )
    for mine, other in zip(ours, (reconstruction, kl_z, kl_l), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pv.embed(graph, x, c), theirs["qz"].loc, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["prior", "posterior"])
def test_a_word_is_no_part_of_a_count_vae(name):
    with pytest.raises(TypeError, match=f"count_vae: {name} is 'vamp', expected a part"):
        pv.graphs.count_vae(5, **{name: "vamp"})
