"""Weights of a trained scvi-tools SCVI (single-batch decoder injection, one layer) copied into this library's graph.

scvi-tools is imported by nobody here: a state dict is all that is looked at.
"""

import torch
from torch import Tensor, nn

import pyrovae as pv

State = dict[str, Tensor]


def graph_like(state: State, batches: int) -> pv.CountVAE:
    """Return the same model with the same weights, in eval() mode."""
    hidden, genes = state["z_encoder.encoder.fc_layers.Layer 0.0.weight"].shape
    latents = state["z_encoder.mean_encoder.weight"].shape[0]
    library = (
        state["library_log_means"].flatten(),
        state["library_log_vars"].flatten().sqrt(),
    )  # they keep a variance
    graph = pv.graphs.count_vae(
        genes, batches=batches, hidden=hidden, latents=latents, library=library
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
    heads = [
        torch.cat([state[f"{name}.mean_encoder.{kind}"], state[f"{name}.var_encoder.{kind}"] / 2])
        for kind in ("weight", "bias")
    ]
    net.last.weight.data, net.last.bias.data = (
        heads  # theirs is the log of a variance, ours of a deviation
    )


def _block(block: nn.Sequential, state: State, name: str) -> None:
    _linear(block[0], state, f"{name}.0")
    for key in ("weight", "bias", "running_mean", "running_var"):
        getattr(block[1], key).data.copy_(state[f"{name}.1.{key}"])


def _linear(layer: nn.Linear, state: State, name: str) -> None:
    layer.weight.data.copy_(state[f"{name}.weight"])
    layer.bias.data.copy_(state[f"{name}.bias"])
