"""`PoseVAE`: coordinates, the plain decoder at zero pose, and the sense of turns and shifts."""

import copy
import math

import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.poutine import trace
from torch import nn

import pyrovae as pv
from pyrovae import graphs, likelihoods, nets, posteriors, priors

SHAPE = (1, 7, 7)


def pose_vae(shape=SHAPE, rotation=True, translation=True, scale=False, latents=2, **settings):
    decoder = nets.CoordinateDecoder(latents, shape, [16], **settings)
    encoder = nets.MLP(shape, [12], 12)
    pose = {}
    if rotation:
        pose["rotation_prior"] = priors.UniformAngle(1)
        pose["rotation_posterior"] = posteriors.WrappedNormal(nn.Linear(12, 2))
    if translation:
        pose["translation_prior"] = priors.CentredNormal(2, 0.1)
        pose["translation_posterior"] = posteriors.DiagonalNormal(nn.Linear(12, 4))
    if scale:
        pose["scale_prior"] = priors.CentredNormal(1, 0.2)
        pose["scale_posterior"] = posteriors.DiagonalNormal(nn.Linear(12, 2))
    return graphs.PoseVAE(
        priors.StandardNormal(latents),
        posteriors.DiagonalNormal(nn.Linear(12, 2 * latents)),
        likelihoods.Bernoulli(decoder),
        shape=shape,
        encoder=encoder,
        **pose,
    )


def pose_of(**parts):
    """Return a graph with a rotation, and some of its parts replaced."""
    settings = {
        "prior": priors.StandardNormal(2),
        "posterior": posteriors.DiagonalNormal(nn.Linear(12, 4)),
        "likelihood": likelihoods.Bernoulli(nets.CoordinateDecoder(2, SHAPE, [16])),
        "shape": SHAPE,
        "encoder": nets.MLP(SHAPE, [12], 12),
        "rotation_prior": priors.UniformAngle(1),
        "rotation_posterior": posteriors.WrappedNormal(nn.Linear(12, 2)),
    }
    return graphs.PoseVAE(**(settings | parts))


def content_at(graph, z, **pose):
    return graph.likelihood(z, graph.places(**pose)).mean


def test_zero_pose_is_the_plain_coordinate_decoder():
    torch.manual_seed(0)
    graph, z = pose_vae(scale=True), torch.randn(5, 2)
    plain = graph.likelihood.net(z, graphs.pixel_grid(7, 7).expand(5, 7, 7, 2)).sigmoid()
    zero = torch.zeros(5, 2)
    posed = content_at(graph, z, theta=zero[:, :1], dx=zero, s=zero[:, :1])
    torch.testing.assert_close(posed, plain)
    torch.testing.assert_close(content_at(graph, z), plain)
    decoded = pv.decode(graph, {"z": z, "theta": zero[:, :1], "dx": zero, "s": zero[:, :1]})
    torch.testing.assert_close(decoded, plain)


@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 8, 8)])
def test_a_quarter_turn_of_the_content_is_a_quarter_turn_of_the_picture(shape):
    torch.manual_seed(0)
    graph, z = pose_vae(shape), torch.randn(5, 2)
    upright = content_at(graph, z)
    turned = content_at(graph, z, theta=torch.full((5, 1), math.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(upright, -1, (-2, -1)))  # clockwise


def test_turns_add_up_and_pictures_of_other_than_square_shape_do_not_shear():
    graph = pose_vae((1, 5, 9))
    a, b = torch.tensor([[0.3]]), torch.tensor([[1.1]])
    lengths = graph.places(theta=a).square().sum(-1)
    torch.testing.assert_close(lengths[0], graph.grid.square().sum(-1))
    step = graph.grid[0, 1] - graph.grid[0, 0], graph.grid[0, 0] - graph.grid[1, 0]
    torch.testing.assert_close(step[0].norm(), step[1].norm())

    def turn(t):
        return torch.stack(
            [torch.stack([t.cos(), -t.sin()], -1), torch.stack([t.sin(), t.cos()], -1)], -2
        ).squeeze()

    torch.testing.assert_close(turn(a) @ turn(b), turn(a + b))
    torch.testing.assert_close(graph.places(theta=a)[0], graph.grid @ turn(a).T)


def test_a_shift_by_one_pixel_moves_the_picture_by_one_pixel():
    torch.manual_seed(0)
    graph, z = pose_vae(), torch.randn(5, 2)
    pixel = 2 / 6
    upright = content_at(graph, z)
    right_up = torch.tensor([[pixel, pixel]]).expand(5, 2)
    moved = content_at(graph, z, dx=right_up)  # the content moves to the left and down
    torch.testing.assert_close(moved[..., 1:, :-1], upright[..., :-1, 1:])


def test_scale_enlarges_the_field_of_view():
    graph = pose_vae(scale=True)
    s = torch.tensor([[math.log(2.0)]])
    torch.testing.assert_close(graph.places(s=s)[0], 2 * graph.grid)


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("translation", [False, True])
def test_each_latent_of_the_pose_is_optional(rotation, translation):
    graph = pose_vae(rotation=rotation, translation=translation)
    x = torch.rand(20, *SHAPE).round()
    history = pv.fit(graph, x, epochs=2, batch_size=10, progress=False, seed=0)
    assert math.isfinite(history.loss[-1])
    named = set(trace(graph.guide).get_trace(x).nodes)
    assert ("theta" in named, "dx" in named) == (rotation, translation)
    assert pv.generate(graph, 3, seed=0).shape == (3, *SHAPE)
    assert pv.embed(graph, x).shape == (20, 2)
    if rotation:
        assert pv.embed(graph, x, site="theta").shape == (20, 1)


# ---------------------------------------------------------------------------------- turned copies
def test_an_image_at_an_angle_is_upright_in_the_copy_of_that_angle():
    grid = graphs.pixel_grid(9, 9)
    inside = grid.square().sum(-1) < 0.8

    def content(u):
        return torch.exp(-2 * ((u[..., 0] - 0.3).square() + (2 * u[..., 1] - 0.2).square()))

    image = content(pose_vae((1, 9, 9)).places(theta=torch.tensor([[math.pi / 2 + 0.3]]))[0])
    copies = nets.TurnedCopies(nn.Identity(), turns=4)(image)
    expected = content(pose_vae((1, 9, 9)).places(theta=torch.tensor([[0.3]]))[0])
    torch.testing.assert_close(copies[1][inside], expected[inside], atol=1e-4, rtol=0)
    wrong = min((copies[k] - expected)[inside].abs().max() for k in (0, 2, 3))
    assert wrong > 0.1


def turned_vae(turns=4):
    decoder = nets.CoordinateDecoder(2, SHAPE, [16])
    return graphs.PoseVAE(
        priors.StandardNormal(2),
        posteriors.DiagonalNormal(nn.Linear(12, 4)),
        likelihoods.Bernoulli(decoder),
        shape=SHAPE,
        encoder=nets.TurnedCopies(nets.MLP(SHAPE, [12], 12), turns),
        turn=nn.Linear(12, 1),
        rotation_prior=priors.UniformAngle(1),
        rotation_posterior=posteriors.WrappedNormal(nn.Linear(12, 2)),
    )


def test_the_turn_is_summed_out():
    """The enumerated bound is the sum over turns, each weighted by its probability."""
    torch.manual_seed(0)
    graph, x = turned_vae(), torch.rand(3, *SHAPE).round()
    h = graph.encoder(x)
    q_k = graph.turn(h).squeeze(-1).softmax(0)  # (K, B)
    torch.manual_seed(1)
    elbo = TraceEnum_ELBO(max_plate_nesting=1, num_particles=400, vectorize_particles=False)
    found = -elbo.loss(graph.model, graph.guide, x)
    terms = []
    for k in range(4):  # the prior of the angle is uniform, so the turns' is too
        pose = graph.rotation_posterior(h[k])
        q_z = graph.posterior(h[k])
        theta, z = pose.rsample((400,)), q_z.rsample((400,))
        angle = theta + graph.phi[k]
        log_p = graph.likelihood(z, graph.places(theta=angle)).log_prob(x)
        log_p = log_p + graph.prior().log_prob(z) - math.log(2 * math.pi)
        near = ((angle - graph.phi).cos() * (4 / math.pi) ** 2).log_softmax(-1)[..., k]
        log_q = q_z.log_prob(z) + pose.log_prob(theta) + q_k[k].log()
        terms.append((q_k[k] * (log_p + near - log_q)).sum(-1))
    draws = torch.stack(terms).sum(0)
    error = draws.std() * (2 / 400) ** 0.5  # of the difference of two such means
    assert abs(found - draws.mean()) < 4 * error


def test_an_objective_that_does_not_sum_the_turn_out_names_one_that_does():
    with pytest.raises(ValueError, match="TraceEnum_ELBO"):
        pv.fit(turned_vae(), torch.rand(6, *SHAPE).round(), epochs=1, progress=False)


def test_an_image_of_one_column_is_turned_without_an_error():
    copies = nets.TurnedCopies(nn.Identity(), turns=4)(torch.rand(2, 1, 9, 1))
    assert copies.isfinite().all()


def test_turns_start_at_the_prior_of_the_angle():
    graph, x = turned_vae(), torch.rand(3, *SHAPE)
    graph.rotation_prior = priors.CentredNormal(1, 0.8)
    nn.init.zeros_(graph.turn.weight)
    q = trace(graph.guide).get_trace(x).nodes["turn"]["fn"].probs
    angles = torch.tensor([0.0, math.pi / 2, -math.pi, -math.pi / 2])
    expected = torch.distributions.Normal(0.0, 0.8).log_prob(angles).softmax(0)
    torch.testing.assert_close(q, expected.expand(3, 4))


def test_the_first_steps_read_the_angle_off_the_image_itself(tmp_path):
    torch.manual_seed(0)
    graph, x = turned_vae(), torch.rand(8, *SHAPE).round()
    graph.turns_from = 3

    def sites():
        return trace(graph.model).get_trace(x).nodes, trace(graph.guide).get_trace(x).nodes

    pv.fit(graph, x, objective=TraceEnum_ELBO(max_plate_nesting=1), epochs=1, batch_size=4, seed=0)
    assert graph.steps == 2
    graph.eval()
    assert not any("turn" in nodes for nodes in sites())
    mean = graph.rotation_posterior(graph.encoder.net(x)).mean
    torch.testing.assert_close(pv.embed(graph, x, site="theta"), mean)
    pv.save(graph, tmp_path / "model")
    again = turned_vae()
    again.turns_from = 3
    graph = pv.load(tmp_path / "model", into=again)
    assert (graph.turns_from, int(graph.steps)) == (3, 2)
    pv.fit(graph, x, objective=TraceEnum_ELBO(max_plate_nesting=1), epochs=1, batch_size=4, seed=0)
    assert graph.steps == 4
    graph.eval()
    assert all("turn" in nodes for nodes in sites())


def test_turns_go_with_turned_copies_and_a_rotation():
    with pytest.raises(ValueError, match="TurnedCopies"):
        graphs.PoseVAE(
            priors.StandardNormal(2),
            posteriors.DiagonalNormal(nn.Linear(12, 4)),
            likelihoods.Bernoulli(nets.CoordinateDecoder(2, SHAPE, [16])),
            shape=SHAPE,
            encoder=nets.MLP(SHAPE, [12], 12),
            turn=nn.Linear(12, 1),
        )


# ------------------------------------------------------------------------------ interpolated images
@pytest.mark.parametrize("size", [(7, 7), (6, 9), (9, 4), (1, 5)])
def test_an_interpolated_image_is_itself_at_its_own_pixels(size):
    torch.manual_seed(0)
    shape = (2, *size)
    image = nets.MLP(3, [8], shape)
    net, z, grid = nets.InterpolatedImage(image, shape), torch.randn(4, 3), graphs.pixel_grid(*size)
    torch.testing.assert_close(net(z, grid), image(z))
    between = net(z, (grid[:, 1:] + grid[:, :-1]) / 2)
    torch.testing.assert_close(between, (image(z)[..., 1:] + image(z)[..., :-1]) / 2)
    several = net(z[:, None], grid.expand(4, 3, *grid.shape))
    torch.testing.assert_close(several, image(z)[:, None].expand(4, 3, *shape))


def test_an_interpolated_image_is_trained_and_turned_like_a_network_of_places():
    torch.manual_seed(0)
    graph = turned_vae()
    graph.likelihood = likelihoods.Bernoulli(
        nets.InterpolatedImage(nets.MLP(2, [16], SHAPE), SHAPE)
    )
    graph.pixels = 20
    x, z = torch.rand(20, *SHAPE).round(), torch.randn(3, 2)
    upright = content_at(graph, z)
    turned = content_at(graph, z, theta=torch.full((3, 1), math.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(upright, -1, (-2, -1)))
    history = pv.fit(
        graph, x, objective=TraceEnum_ELBO(max_plate_nesting=1), epochs=2, batch_size=10, seed=0
    )
    assert math.isfinite(history.loss[-1])
    assert pv.generate(graph.at_resolution(13, 13), 4, seed=0).shape == (4, 1, 13, 13)


def test_an_image_of_another_shape_than_named_is_refused():
    net = nets.InterpolatedImage(nets.MLP(2, [8], (1, 7, 7)), (1, 7, 8))
    with pytest.raises(ValueError, match="InterpolatedImage"):
        net(torch.zeros(2, 2), graphs.pixel_grid(7, 8))
    with pytest.raises(ValueError, match="places"):
        net(torch.zeros(2, 2), torch.zeros(2, 7))


# -------------------------------------------------------------------------------- the guide's parts
def smooth(places):
    right, up = places[..., 0], places[..., 1]
    return torch.exp(-6 * ((right - 0.2).square() + (1.5 * up + 0.1).square() + right * up))


@pytest.mark.parametrize("size", [(41, 41), (41, 31)])
def test_an_image_is_aligned_by_its_own_pose(size):
    grid = graphs.pixel_grid(*size)
    theta, s = torch.tensor([[0.7], [-2.0]]), torch.tensor([[0.1], [-0.2]])
    dx = torch.tensor([[0.1, -0.05], [0.0, 0.15]])
    posed = smooth(graphs.posed_places(grid, theta, dx, s))
    found = graphs.aligned(posed[:, None], grid, theta, dx, s)[:, 0]
    inside = grid.square().sum(-1) < 0.15
    assert (found - smooth(grid))[:, inside].abs().max() < 0.02  # bilinear interpolation
    assert (posed - smooth(grid))[:, inside].abs().max() > 0.2
    several = graphs.aligned(posed, grid, theta.expand(3, 2, 1), dx, s)  # grey images, K poses each
    torch.testing.assert_close(several, found.expand(3, *found.shape))
    torch.testing.assert_close(graphs.aligned(posed, grid), posed)


def test_the_guide_finds_the_centre_of_the_content_whatever_the_angle():
    """Its translation, read off the image, is the place t that the pose maps to u = 0."""
    torch.manual_seed(0)
    graph, x = pose_vae(scale=True), torch.rand(4, *SHAPE)
    sites = trace(graph.guide).get_trace(x)
    t = graph.translation_posterior(graph.encoder(x)).mean
    pose = {name: sites.nodes[name]["value"] for name in ("theta", "s")}
    cos, sin = pose["theta"].cos(), pose["theta"].sin()
    turn = torch.stack([torch.cat([cos, -sin], -1), torch.cat([sin, cos], -1)], -2)
    u = pose["s"].exp() * (turn @ t[..., None]).squeeze(-1) + sites.nodes["dx"]["fn"].mean
    torch.testing.assert_close(u, torch.zeros(4, 2))


class KnownAngle(nn.Module):
    """Stands for a network that finds the angle, with a standard deviation of 1."""

    def __init__(self, theta):
        super().__init__()
        self.theta = theta

    def forward(self, x):
        return torch.cat([self.theta, torch.zeros_like(self.theta)], -1)


def test_content_is_read_off_the_aligned_image():
    """Images that differ by a known pose alone have the same q(z) at that pose."""
    torch.manual_seed(0)
    shape = (1, 31, 31)
    content = posteriors.DiagonalNormal(nets.MLP(shape, [16], 4))
    theta = torch.tensor([[0.0], [0.4], [1.5], [-2.5]])
    graph = graphs.PoseVAE(
        priors.StandardNormal(2),
        content,
        likelihoods.Bernoulli(nets.CoordinateDecoder(2, shape, [16])),
        shape=shape,
        rotation_prior=priors.UniformAngle(1),
        rotation_posterior=posteriors.WrappedNormal(KnownAngle(theta)),
        align=True,
    )
    x = smooth(graph.places(theta=theta))[:, None]
    mean = trace(graph.guide).get_trace(x).nodes["z"]["fn"].mean
    apart = content(x).mean
    assert (mean - mean[0]).abs().max() < 0.05 * (apart - apart[0]).abs().max()


def test_some_pixels_stand_for_all_in_training():
    torch.manual_seed(0)
    graph, x = pose_vae(), torch.rand(4, *SHAPE).round()
    values = {"z": torch.randn(4, 2), "theta": torch.randn(4, 1), "dx": 0.1 * torch.randn(4, 2)}

    def log_p(pixels):
        graph.pixels = pixels
        return trace(poutine.condition(graph.model, values)).get_trace(x).log_prob_sum()

    graph.train()
    torch.testing.assert_close(log_p(49), log_p(None))
    draws = torch.stack([log_p(10) for _ in range(500)])
    assert draws.std() > 0
    assert (draws.mean() - log_p(None)).abs() < 4 * draws.std() / 500**0.5
    graph.eval()
    torch.testing.assert_close(log_p(10), log_p(None))
    assert math.isfinite(pv.fit(graph, x, epochs=1, progress=False).loss[-1])


def test_the_mean_of_the_angle_is_free_in_training_alone():
    """The loss is smaller by mu^2 / (2 s^2) (Bepler et al. 2019, section 3.2)."""
    torch.manual_seed(0)
    sd, x = 0.5, torch.rand(6, *SHAPE).round()
    graph = graphs.PoseVAE(
        priors.StandardNormal(2),
        posteriors.DiagonalNormal(nets.MLP(SHAPE, [8], 4)),
        likelihoods.Bernoulli(nets.CoordinateDecoder(2, SHAPE, [16])),
        shape=SHAPE,
        rotation_prior=priors.CentredNormal(1, sd),
        rotation_posterior=posteriors.DiagonalNormal(nets.MLP(SHAPE, [8], 2)),
    )

    def loss(free):
        graph.free_mean = free
        torch.manual_seed(1)
        return pv.objectives.SGVB_B().differentiable_loss(graph.model, graph.guide, x)

    mean = graph.rotation_posterior(x).mean.squeeze(-1)
    torch.testing.assert_close(loss(False) - loss(True), (mean / sd).square().sum() / 2)
    graph.eval()
    torch.testing.assert_close(loss(False), loss(True))


def test_another_resolution_shares_the_weights():
    torch.manual_seed(0)
    graph, z = pose_vae(), torch.randn(3, 2)
    fine = graph.at_resolution(13, 13)
    values = {"z": z, "theta": torch.zeros(3, 1), "dx": torch.zeros(3, 2)}
    torch.testing.assert_close(pv.decode(fine, values)[..., ::2, ::2], pv.decode(graph, values))
    assert pv.generate(fine, 5, seed=0).shape == (5, 1, 13, 13)
    assert graph.shape == SHAPE
    assert fine.likelihood is graph.likelihood


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"pixels": 0}, "pixels"), ({"pixels": 50}, "pixels"), ({"free_mean": True}, "free_mean")],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        graphs.PoseVAE(
            priors.StandardNormal(2),
            posteriors.DiagonalNormal(nn.Linear(12, 4)),
            likelihoods.Bernoulli(nets.CoordinateDecoder(2, SHAPE, [16])),
            shape=SHAPE,
            rotation_prior=priors.UniformAngle(1),
            rotation_posterior=posteriors.WrappedNormal(nn.Linear(12, 2)),
            **settings,
        )


@pytest.mark.parametrize(
    ("name", "d", "words"),
    [
        ("rotation", 2, r"rotation_prior has shape \(2,\), expected \(1,\), one angle"),
        ("translation", 1, r"translation_prior has shape \(1,\), expected \(2,\), two numbers"),
        ("scale", 2, r"scale_prior has shape \(2,\), expected \(1,\), one log scale"),
    ],
)
def test_a_prior_of_another_shape_than_its_latent_is_named(name, d, words):
    pose = {
        f"{name}_prior": priors.CentredNormal(d, 0.5),
        f"{name}_posterior": posteriors.DiagonalNormal(nn.Linear(12, 2 * d)),
    }
    with pytest.raises(ValueError, match=words):
        pose_of(**pose)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"rotation_prior": priors.UniformAngle}, "rotation_prior is the class UniformAngle"),
        ({"encoder": nn.Linear}, "encoder is the class Linear, expected a network"),
        ({"turn": 3}, "turn is 3"),
        ({"posterior": None}, "posterior is None"),
    ],
)
def test_classes_in_place_of_parts_are_named(parts, words):
    with pytest.raises(TypeError, match=f"PoseVAE: {words}"):
        pose_of(**parts)


def test_images_of_another_shape_are_refused_before_training():
    with pytest.raises(ValueError, match="shape"):
        pv.fit(pose_vae(), torch.zeros(4, 1, 8, 8), epochs=1, progress=False)


# ------------------------------------------------------------------------------------------- tasks
def test_contents_are_shown_at_zero_pose_and_at_a_chosen_one():
    torch.manual_seed(0)
    graph, x = pose_vae(), torch.rand(5, *SHAPE).round()
    z = pv.embed(graph, x)
    zero = {"theta": torch.zeros(5, 1), "dx": torch.zeros(5, 2)}
    upright = pv.reconstruct(graph, x, fixed={"theta": 0.0, "dx": 0})
    torch.testing.assert_close(upright, pv.decode(graph, {"z": z, **zero}))
    turned = pv.reconstruct(graph, x, fixed={"theta": math.pi / 2, "dx": [0.0, 0.0]})
    torch.testing.assert_close(turned, torch.rot90(upright, -1, (-2, -1)))
    same = pv.generate(graph, 4, seed=0, fixed={"z": z[:1], "theta": 0.0, "dx": 0.0})
    torch.testing.assert_close(same, upright[:1].expand(4, *SHAPE))


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ({"angle": 0.0}, "angle"),
        ({"dx": [0.0, 0.0, 0.0]}, "dx"),
        ({"theta": math.nan}, "theta"),
        ({"theta": "left"}, "theta"),
    ],
)
def test_fixed_values_that_fit_no_latent_are_refused(fixed, words):
    with pytest.raises(ValueError, match=words):
        pv.generate(pose_vae(), 3, fixed=fixed)
    with pytest.raises(ValueError, match=words):
        pv.reconstruct(pose_vae(), torch.zeros(3, *SHAPE), fixed=fixed)


def test_the_pose_is_that_of_the_most_probable_turn():
    """The means of all latents given one turn, where a mean over turns is the pose of no turn."""
    torch.manual_seed(0)
    graph, x = turned_vae(), torch.rand(6, *SHAPE).round()
    found = pv.embed(graph, x, site=("turn", "theta", "z"))
    h = graph.encoder(x)
    k = graph.turn(h).squeeze(-1).argmax(0)
    assert torch.equal(found["turn"], k)
    h = h[k, torch.arange(6)]
    apart = found["theta"] - graph.rotation_posterior(h).mean - graph.phi[k, None]
    torch.testing.assert_close(apart.cos(), torch.ones(6, 1))
    torch.testing.assert_close(found["z"], graph.posterior(h).mean)
    assert pv.reconstruct(graph, x).shape == x.shape  # the factor of the turns is no output
    assert pv.generate(graph, 4, seed=0).shape == (4, *SHAPE)
    with pytest.raises(ValueError, match="shift"):
        pv.embed(graph, x, site=["shift"])
    with pytest.raises(ValueError, match="draws"):
        pv.embed(graph, x, site=["z"], draws=3)


def test_a_saved_graph_has_the_same_poses(tmp_path):
    torch.manual_seed(0)
    graph, x = pose_vae(), torch.rand(5, *SHAPE).round()
    graph.centre, graph.pixels = True, 10
    pv.save(graph, tmp_path / "model")
    again = pv.load(tmp_path / "model", into=copy.deepcopy(graph))
    assert (again.centre, again.pixels, again.shape) == (True, 10, SHAPE)
    for site in ("theta", "dx", "z"):
        torch.testing.assert_close(pv.embed(again, x, site=site), pv.embed(graph, x, site=site))


def even_turns(read, spread=0.1):
    """Return a graph of 8 turns, of which the fourth and the fifth, a half turn, are as probable.

    Args:
        read: angle that its guide reads off each copy.
        spread: sigma of that angle.
    """
    graph = turned_vae(turns=8)
    with torch.no_grad():
        graph.rotation_posterior.net.weight.zero_()
        graph.rotation_posterior.net.bias.copy_(torch.tensor([read, math.log(spread)]))
    logits = torch.full((8,), -50.0).scatter(0, torch.tensor([3, 4]), 0.0)
    graph.turn = Constant(logits)
    return graph


class Constant(nn.Module):
    """The same number for each copy, whatever the image."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, h):
        return self.values.reshape(-1, *[1] * (h.dim() - 1)).expand(*h.shape[:-1], 1)


def test_the_mean_of_an_angle_over_turns_is_its_direction():
    """Half at 3 pi / 4, half at pi: the mean of the numbers 3 pi / 4 and -pi is on neither side."""
    torch.manual_seed(0)
    graph, x = even_turns(read=math.pi / 8), torch.rand(5, *SHAPE).round()
    apart = pv.embed(graph, x, site="theta") - math.pi  # 7 pi / 8 and 9 pi / 8
    torch.testing.assert_close(apart.cos(), torch.ones(5, 1), atol=0.01, rtol=0)


def around_a_half_turn(spread):
    """Return a graph and images, whose angles are around pi with that standard deviation."""
    torch.manual_seed(0)
    graph, x = pose_vae(translation=False), torch.rand(40, *SHAPE).round()
    net = graph.rotation_posterior.net
    with torch.no_grad():
        net.weight.mul_(spread / net(graph.encoder(x))[:, 0].std())
        net.bias += torch.tensor([math.pi, -3.0]) - net(graph.encoder(x)).mean(0)
    return graph, x


def test_angles_around_a_half_turn_that_hardly_vary_are_no_active_unit():
    """Their numbers are near -pi and pi, their variance as numbers pi^2."""
    graph, x = around_a_half_turn(spread=0.03)
    theta = pv.embed(graph, x, site="theta")
    assert theta.min() < -3 < 3 < theta.max()
    assert not pv.evaluation.active_units(graph, x, site="theta").any()
    turned = even_turns(read=math.pi / 8)
    assert not pv.evaluation.active_units(turned, x, site="theta").any()
    graph, x = around_a_half_turn(spread=0.3)
    assert pv.evaluation.active_units(graph, x, site="theta").all()


def test_a_walk_between_angles_turns_the_shorter_way():
    graph, x = around_a_half_turn(spread=0.3)
    theta, z = pv.embed(graph, x, site="theta"), torch.ones(2)
    a, b = theta.argmax(), theta.argmin()
    found = pv.interpolate(graph, x[a], x[b], site="theta", steps=3, fixed={"z": z})
    middle = (theta[a] + theta[b] + 2 * math.pi) / 2
    at = torch.stack([theta[a], middle, theta[b]])
    expected = content_at(graph, z.expand(3, 2), theta=at).detach()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_half_a_turn_in_double_precision_is_inside_the_circle():
    torch.manual_seed(0)
    graph = turned_vae()
    graph.rotation_prior = priors.VonMises(1, 2.0)
    graph.double()
    x = torch.rand(3, *SHAPE, dtype=torch.double).round()
    assert pv.log_evidence(graph, x, samples=50).log_p.isfinite().all()


def test_a_full_rank_shift_is_moved_and_a_point_is_named():
    torch.manual_seed(0)
    graph, x = pose_vae(), torch.rand(4, *SHAPE).round()
    graph.translation_posterior = posteriors.FullRankNormal(nn.Linear(12, 5))
    q = trace(graph.guide).get_trace(x).nodes
    t = graph.translation_posterior(graph.encoder(x))
    torch.testing.assert_close(q["dx"]["fn"].scale_tril, t.scale_tril)
    angle = q["theta"]["value"]
    expected = -torch.stack(
        [
            angle[:, 0].cos() * t.mean[:, 0] - angle[:, 0].sin() * t.mean[:, 1],
            angle[:, 0].sin() * t.mean[:, 0] + angle[:, 0].cos() * t.mean[:, 1],
        ],
        -1,
    )
    torch.testing.assert_close(q["dx"]["fn"].mean, expected)
    graph.translation_posterior = posteriors.Point(nn.Linear(12, 2))
    with pytest.raises(ValueError, match=r'posterior of "dx" is a Delta.*DiagonalNormal'):
        graph.guide(x)
