"""Weights of a trained SCVI of scvi-tools (with one hidden layer) copied into this library's graph.

Only a state dict is read; scvi-tools is not imported.
"""

import torch
from torch import Tensor, nn

import pyrovae as pv

State = dict[str, Tensor]


def graph_like(state: State, batches: int) -> pv.CountVAE:
    """Return the same model with the same weights, in eval() mode."""
    hidden, genes = state["z_encoder.encoder.fc_layers.Layer 0.0.weight"].shape
    latents = state["z_encoder.mean_encoder.weight"].shape[0]
    variances = state["library_log_vars"].flatten()
    library = (state["library_log_means"].flatten(), variances.sqrt())
    graph = pv.graphs.count_vae(
        genes,
        batches=batches,
        hidden=hidden,
        latents=latents,
        library=library,
        library_factor=None,
    )
    _encoder(graph.posterior.net.net, state, "z_encoder")
    _encoder(graph.library_posterior.net.net, state, "l_encoder")
    _block(graph.likelihood.net.blocks[0], state, "decoder.px_decoder.fc_layers.Layer 0")
    _linear(graph.likelihood.scale, state, "decoder.px_scale_decoder.0")
    _linear(graph.likelihood.gate, state, "decoder.px_dropout_decoder")
    graph.likelihood.log_theta.data.copy_(state["px_r"])
    return graph.eval()


def _encoder(net: nn.Module, state: State, name: str) -> None:
    _block(net.blocks[0], state, f"{name}.encoder.fc_layers.Layer 0")
    # scvi-tools' network outputs the log of a variance, ours the log of a standard deviation.
    net.last.weight.data, net.last.bias.data = (
        torch.cat([state[f"{name}.mean_encoder.{kind}"], state[f"{name}.var_encoder.{kind}"] / 2])
        for kind in ("weight", "bias")
    )


def _block(block: nn.Sequential, state: State, name: str) -> None:
    _linear(block[0], state, f"{name}.0")
    for key in ("weight", "bias", "running_mean", "running_var"):
        getattr(block[1], key).data.copy_(state[f"{name}.1.{key}"])


def _linear(layer: nn.Linear, state: State, name: str) -> None:
    layer.weight.data.copy_(state[f"{name}.weight"])
    layer.bias.data.copy_(state[f"{name}.bias"])
