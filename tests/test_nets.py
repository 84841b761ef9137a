"""Networks: the notes' convolutional pair, any image size, contexts, bfloat16 and errors."""

from collections import Counter

import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.nets import (
    MLP,
    AnyLeading,
    ConvDecoder,
    ConvEncoder,
    CoordinateDecoder,
    MapDecoder,
    ResidualMLP,
    WideLinear,
    WithoutContext,
    over_leading_axes,
)

SIZES = [(1, 8, 8), (1, 28, 28), (1, 28, 20), (3, 64, 48), (3, 65, 49), (2, 7, 1), (1, 1, 1)]


def kinds(net):
    return Counter(type(module).__name__ for module in net.modules())


def test_mlp_is_a_sequential():
    net, x = MLP(784, [400, 100], 40, activation=nn.Tanh), torch.randn(5, 784)
    plain = nn.Sequential(
        nn.Linear(784, 400), nn.Tanh(), nn.Linear(400, 100), nn.Tanh(), nn.Linear(100, 40)
    )
    plain.load_state_dict(
        {name.removeprefix("layers."): value for name, value in net.state_dict().items()}
    )
    assert torch.equal(net(x), plain(x))
    assert torch.equal(net(x.expand(3, 5, 784)), plain(x.expand(3, 5, 784)))


def test_equal_seeds_make_equal_networks():
    torch.manual_seed(0)
    net = MLP(6, [5], 4)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))


def test_the_notes_encoder():
    net = ConvEncoder((1, 28, 28), None)
    assert kinds(net)["Conv2d"] == 4
    assert kinds(net)["MaxPool2d"] == 3
    assert net.code == (8, 4, 4)
    assert net.layers(torch.zeros(2, 1, 28, 28)).shape == (2, 8, 4, 4)
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 128) == (2, *net.shape_out)


def test_the_notes_decoder():
    net = ConvDecoder(None, (1, 28, 28))
    assert kinds(net)["Conv2d"] == 5
    assert kinds(net)["Upsample"] == 3
    assert net.code == (8, 4, 4)
    sizes, h = [], torch.zeros(2, 8, 4, 4)
    for layer in net.layers:
        h = layer(h)
        sizes += [h.shape[-1]] if isinstance(layer, nn.Upsample) else []
    assert sizes == [7, 14, 28]
    assert net(torch.zeros(2, 128)).shape == (2, 1, 28, 28)


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("channels", [(4,), (16, 8, 8), (4, 4, 4, 2)], ids=str)
def test_any_image_size(shape, channels):
    encoder, decoder = ConvEncoder(shape, 6, channels), ConvDecoder(6, shape, channels)
    sizes = [
        tuple(layer(torch.zeros(1, 1, *decoder.code[1:])).shape[-2:])
        for layer in decoder.layers
        if isinstance(layer, nn.Upsample)
    ]
    assert encoder.layers(torch.zeros(1, *shape)).shape[1:] == encoder.code == decoder.code
    assert sizes[-1] == shape[1:]
    z = encoder(torch.rand(2, *shape))
    assert z.shape == (2, 6)
    assert decoder(z).shape == (2, *shape)


def test_contexts_have_an_effect_and_may_be_counted_with_x():
    torch.manual_seed(1)
    counted, told = MLP(5 + 3, [4], 2), MLP(5, [4], 2, context=3)
    told.load_state_dict(counted.state_dict())
    x, c = torch.randn(6, 5), torch.randn(6, 3)
    assert torch.equal(counted(x, c), told(x, c))
    assert torch.equal(counted(x, c), counted(torch.cat([x, c], -1)))
    assert torch.equal(told(x, c), told(x, c[:, :1], c[:, 1:]))
    assert not torch.equal(told(x, c), told(x, c + 1))


@pytest.mark.parametrize(
    ("make", "c"),
    [
        (lambda: MLP((1, 5, 3), [4], 2, context=3), torch.eye(3)[[0, 1, 2, 0]]),
        (lambda: ConvEncoder((1, 5, 3), 2, context=3), torch.eye(3)[[0, 1, 2, 0]]),
        (lambda: ResidualMLP((1, 5, 3), 4, 2, context=3), torch.eye(3)[[0, 1, 2, 0]].long()),
    ],
)
def test_contexts_of_images(make, c):
    net, x = make(), torch.rand(4, 1, 5, 3)
    assert net(x, c).shape == (4, 2)
    assert not torch.equal(net(x, c), net(x, 1 - c))


def test_whole_numbers_become_floating_point():
    x = torch.randint(256, (4, 1, 5, 3), dtype=torch.uint8)
    for net in (MLP((1, 5, 3), [4], 2), ConvEncoder((1, 5, 3), 2).double()):
        dtype = next(net.parameters()).dtype
        torch.testing.assert_close(net(x), net(x.to(dtype)))
    assert MLP(3, [], 2)(torch.ones(4, 3, dtype=torch.long)).shape == (4, 2)


def test_batch_norm_takes_all_batch_dimensions_as_rows():
    norm, x = nn.BatchNorm1d(4), torch.randn(4, 4, 4) + torch.arange(4.0)[:, None, None]
    # Without the wrapper there is no error, but another result.
    assert not torch.allclose(norm(x), over_leading_axes(norm, x, event_dims=[1]))
    y = AnyLeading(norm, 4, 4)(x)
    torch.testing.assert_close(y, norm(x.reshape(16, 4)).reshape(4, 4, 4))
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("capabilities", [{"avx512_bf16": False}, {}, None])
def test_products_are_in_single_precision_where_the_cpu_or_torch_has_no_bfloat16(
    capabilities, monkeypatch
):
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    layer, x = WideLinear(2000, 50).train(), torch.randn(3, 2000)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_few_weights_are_not_rounded(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    layer, x = WideLinear(158, 128, bf16=True), torch.randn(3, 158)
    assert torch.equal(layer.train()(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("bf16", [True, False])
def test_products_are_rounded_in_training_only(bf16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    layer, x = WideLinear(2000, 50, bf16), torch.randn(3, 2000)
    exact = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer.eval()(x), exact)
    assert torch.equal(layer.train()(x), exact) is not bf16
    torch.testing.assert_close(layer(x), exact, rtol=0.02, atol=0.02)
    assert layer(x).dtype == torch.float32
    assert layer.double()(x.double()).dtype == torch.float64


def test_a_wide_linear_layer_is_kept_by_a_file(tmp_path):
    posterior = pv.posteriors.DiagonalNormal(WideLinear(6, 4))
    likelihood = pv.likelihoods.Bernoulli(WideLinear(2, 6, bf16=False))
    graph = pv.VAE(pv.priors.StandardNormal(2), posterior, likelihood)
    loaded = pv.load(pv.save(graph, tmp_path))
    assert torch.equal(loaded.posterior.net.weight, graph.posterior.net.weight)
    assert (loaded.posterior.net.bf16, loaded.likelihood.net.bf16) == (True, False)


def test_without_context_has_the_shape_of_its_network():
    assert WithoutContext(MLP(5, [4], (1, 2))).shape_out == (1, 2)
    assert not hasattr(WithoutContext(nn.Linear(5, 4)), "shape_out")


@pytest.mark.parametrize(
    ("net", "shapes", "text"),
    [
        (
            MLP(784, [5], 3),
            [(2, 784), (2, 10)],
            r"MLP: expected 784 features, got 784 \+ 10 context features "
            r".*context=10.*WithoutContext",
        ),
        (MLP(784, [5], 3), [(2, 784), (2,)], r"Pass x alone; .*one_hot\(labels\).*WithoutContext"),
        (
            MLP(784, [5], 3, context=9),
            [(2, 784), (2, 10)],
            r"expected 784 \+ 9 context features, got 784 \+ 10 context features",
        ),
        (
            MLP(784, [5], 3, context=9),
            [(2, 784)],
            r"expected 784 \+ 9 context features, got 784 features .*pass the context",
        ),
        (MLP(784, [5], 3), [(2, 783)], r"expected 784 features, got 783 features .*\(2, 783\)"),
        (MLP(784, [5], 3), [()], r"expected 784 features, got \(\) features"),
        (
            MLP(784, [5], 3),
            [(2, 1, 28, 28)],
            r"reshape the input to \(\*, 784\), or build the network for \(1, 28, 28\)",
        ),
        (
            MLP((1, 28, 28), [5], 3),
            [(2, 784)],
            r"expected \(1, 28, 28\) features.*reshape the input to \(\*, 1, 28, 28\)",
        ),
        (
            ConvEncoder((1, 28, 28), 3),
            [(2, 28, 28)],
            r"ConvEncoder: expected \(1, 28, 28\) features, got \(2, 28, 28\)",
        ),
        (
            ConvEncoder((1, 28, 28), 3),
            [(2, 1, 28, 28), (2, 10)],
            r"got \(1, 28, 28\) \+ 10 context features.*context=10",
        ),
        (
            ConvDecoder(20, (1, 28, 28)),
            [(2, 19)],
            "ConvDecoder: expected 20 features, got 19 features",
        ),
        (ResidualMLP(20, 4, 3), [(2, 19)], "ResidualMLP: expected 20 features, got 19 features"),
        (
            AnyLeading(nn.BatchNorm1d(4), 4, 4),
            [(2, 3)],
            "AnyLeading: expected 4 features, got 3 features",
        ),
        (
            MLP(64, [5], 3, context=10),
            [(128, 64), (128,)],
            r"one number per row.*one_hot\(labels\)",
        ),
        (MLP(64, [5], 3, context=10), [(10, 64), (10,)], r"one number per row.*one_hot\(labels\)"),
        (
            MLP(5, [4], 3, context=2),
            [(4, 5), (3, 2)],
            r"batch dimensions of \(4, 5\) and \(3, 2\) do not broadcast.*one_hot",
        ),
    ],
)
def test_errors_say_what_was_expected_what_came_and_what_to_do(net, shapes, text):
    with pytest.raises(ValueError, match=text):
        net(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(
    ("size", "channels", "reach"), [(7, (4, 4), 12), (7, (4, 4, 4), 16), (3, (4, 4, 4), 28)]
)
def test_a_row_of_the_maps_reaches_rows_of_the_image(size, channels, reach):
    """Each convolution reaches one row further, each upsampling repeats the rows."""
    torch.manual_seed(0)
    net = MapDecoder(2, size, (1, 28, 28), channels, nn.Tanh).double()
    z = torch.randn(5, 2, size, size, dtype=torch.double)
    other = z.clone()
    other[:, :, 0] = torch.randn(5, 2, size, dtype=torch.double)
    changed = (net(z.flatten(1)) != net(other.flatten(1))).any((0, 1, 3))
    assert changed.nonzero().flatten().tolist() == list(range(reach))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvEncoder((1, 8, 8), None, context=3),
        lambda: ConvDecoder(None, (1, 8, 8), context=3),
    ],
)
def test_a_context_needs_a_linear_layer(make):
    with pytest.raises(ValueError, match="3 context features need the linear layer"):
        make()


@pytest.mark.parametrize("make", [ConvEncoder, lambda shape, d: ConvDecoder(d, shape)])
@pytest.mark.parametrize("shape", [(8, 8), 28, (1, 0, 8), (1, 8.0, 8)])
def test_a_shape_that_is_no_image_is_refused(make, shape):
    with pytest.raises(ValueError, match=r"Conv(En|De)coder: .*expected \(C, H, W\)"):
        make(shape, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: MLP(4, [3], 2, activation=a),
        lambda a: ResidualMLP(4, 3, 2, activation=a),
        lambda a: ConvEncoder((1, 8, 8), 2, activation=a),
        lambda a: ConvDecoder(2, (1, 8, 8), activation=a),
        lambda a: MapDecoder(2, 7, (1, 28, 28), (4,), a),
        lambda a: CoordinateDecoder(2, (1, 8, 8), activation=a),
    ],
)
@pytest.mark.parametrize(
    "activation", ["relu", torch.relu, nn.ReLU(), nn.Threshold, 3], ids=lambda a: str(a)[:20]
)
def test_an_activation_is_a_class(make, activation):
    with pytest.raises(TypeError, match=r"(MLP|coder): activation is .*expected a class of torch"):
        make(activation)
    assert make(nn.Tanh).activation is nn.Tanh
