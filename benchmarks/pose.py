"""Content apart from pose: does the model find the pose of images whose pose is known?

MNIST by the recipe of Bepler et al. 2019 (section 4.1), thresholded at 1/2: "rotated" by N(0, (pi /
4)^2), "moved" by N(0, 1.4^2) pixels besides, "any" turned by angles uniform on the circle.

VAE            no pose; fully connected networks
coordinates    PoseVAE, pyroVED's networks: the encoder reads all latents off the image; a decoder
               of coordinates
image          the same encoder; the decoder makes an image and reads it between its pixels; content
               is read off the aligned image. The mean of t is held at the centre of mass: learned,
               it gains 4 nats and loses 0.09 of the correlation of t, since each content finds a
               centre of its own
image, turns   the same, and a choice among 8 turns, summed out, after a quarter of the epochs.
               Where the angles are normal it is trained with p(theta) = N(0, 0.3^2), which keeps
               upright what is by then upright, and evaluated with the p(theta) of the other rows
pyroVED        iVAE of pyroved, where it is installed, trained by its own trainer

Two hidden layers of the same width everywhere, Adam at 1e-3, batches of 100, the same epochs.
Reported, over the seeds: test ELBO in nats; circular correlation of inferred and true angle (Fisher
& Lee 1983), its mean within the digits, since which way is up is each digit's own convention where
angles are uniform; correlation of inferred and true shift, the mean of both axes: dx, which is
along the axes of the content, so that an error of the angle is one of dx too, and the place of the
content in the image, t = -R(theta)^T dx; seconds of processor time an epoch.

    python benchmarks/pose.py [--quick] [--data rotated moved any] [--seeds 0 1 2] [--json FILE]
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import reports
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import Adam
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import graphs, likelihoods, nets, posteriors, priors
from pyrovae.evaluation.scores import circular_correlation as circular

SHAPE, BATCH, TURNS, LOOKED_AT_FIRST = (1, 28, 28), 100, 8, 0.25
SD, SD_IN_TRAINING = math.pi / 4, 0.3  # of the prior of normal angles
SPREAD = {"rotated": (math.pi / 4, 0.0), "moved": (math.pi / 4, 1.4), "any": (math.inf, 0.0)}
BUDGET = ("images", "epochs", "test", "hidden")
Figures = dict[str, float]


class Posed(NamedTuple):
    """Images, and of those for testing the pose and the digit."""

    x: Tensor
    test: Tensor
    theta: np.ndarray
    dx: np.ndarray
    digit: np.ndarray


def images(kind: str, rows: int, test_rows: int) -> Posed:
    """Return images of one kind."""
    data, (rotation, translation) = pv.datasets.mnist(), SPREAD[kind]
    n = rows + test_rows
    found = pv.datasets.posed(data.x[:n], rotation=rotation, translation=translation, seed=0)
    x = (torch.from_numpy(found.x).reshape(-1, *SHAPE) > 0.5 * float(data.x.max())).float()
    theta, dx, digit = found.theta[rows:, 0], found.dx[rows:], np.asarray(data.labels[rows:n])
    return Posed(x[:rows], x[rows:], theta, dx, digit)


def head(width: int, outputs: int, small: bool = False) -> nn.Module:
    """Return a layer from h to the parameters of a posterior, of small scale to begin with."""
    linear = nn.Linear(width, outputs)
    with torch.no_grad():
        linear.bias[outputs // 2 :] = -3.0 if small else -1.5
    return nn.Sequential(nn.ReLU(), linear)


class Unmoved(nn.Module):
    """Parameters of a normal with mean 0, whose standard deviation is learned."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor) -> Tensor:
        """Return (0, log sigma)."""
        mean, log_sigma = self.net(h).chunk(2, -1)
        return torch.cat([torch.zeros_like(mean), log_sigma], -1)


def pose(kind: str, width: int, centred: bool) -> dict[str, nn.Module]:
    """Return priors and posteriors of the pose of one kind of images."""
    parts: dict[str, nn.Module] = {}
    if kind == "any":
        parts["rotation_prior"] = priors.UniformAngle(1)
        parts["rotation_posterior"] = posteriors.WrappedNormal(head(width, 2))
    else:
        parts["rotation_prior"] = priors.CentredNormal(1, SD)
        parts["rotation_posterior"] = posteriors.DiagonalNormal(head(width, 2))
    if kind == "moved":
        parts["translation_prior"] = priors.CentredNormal(2, 0.1)
        net = head(width, 4, small=True)
        parts["translation_posterior"] = posteriors.DiagonalNormal(Unmoved(net) if centred else net)
    return parts


def vae(kind: str, z: int, width: int, steps: int) -> nn.Module:
    """Return a plain VAE."""
    f, g = nets.MLP(SHAPE, [width, width], 2 * z), nets.MLP(z, [width, width], SHAPE)
    return pv.VAE(priors.StandardNormal(z), posteriors.DiagonalNormal(f), likelihoods.Bernoulli(g))


def coordinates(kind: str, z: int, width: int, steps: int) -> nn.Module:
    """Return the model of Bepler et al. 2019 in the networks of pyroVED."""
    net = nets.CoordinateDecoder(z, SHAPE, [width, width], nn.Tanh)
    return graphs.PoseVAE(
        priors.StandardNormal(z),
        posteriors.DiagonalNormal(head(width, 2 * z)),
        likelihoods.Bernoulli(net),
        shape=SHAPE,
        encoder=nets.MLP(SHAPE, [width], width, nn.Tanh),
        **pose(kind, width, centred=False),
    )


def image(kind: str, z: int, width: int, steps: int, turns: int = 0) -> nn.Module:
    """Return a model whose decoder makes an image, with or without turns."""
    net = nets.InterpolatedImage(nets.MLP(z, [width, width], SHAPE), SHAPE)
    encoder: nn.Module = nets.MLP(SHAPE, [width], width)
    parts: dict[str, Any] = pose(kind, width, centred=True)
    if turns:
        encoder = nets.TurnedCopies(encoder, turns)
        parts["turn"], parts["turns_from"] = head(width, 1), int(LOOKED_AT_FIRST * steps)
        if kind != "any":
            parts["rotation_prior"] = priors.CentredNormal(1, SD_IN_TRAINING)
    return graphs.PoseVAE(
        priors.StandardNormal(z),
        posteriors.DiagonalNormal(nets.MLP(SHAPE, [width, width], 2 * z)),
        likelihoods.Bernoulli(net),
        shape=SHAPE,
        encoder=encoder,
        align=True,
        centre=kind == "moved",
        **parts,
    )


SETTINGS: dict[str, Callable[..., nn.Module]] = {
    "VAE": vae,
    "coordinates": coordinates,
    "image": image,
    "image, turns": partial(image, turns=TURNS),
}


def of_pose(theta: np.ndarray, dx: np.ndarray | None, data: Posed) -> Figures:
    """Return the correlations of an inferred pose with the true one."""
    within = [circular(theta[data.digit == k], data.theta[data.digit == k]) for k in range(10)]
    found = {
        "rotation": abs(circular(theta, data.theta)),
        "within digits": statistics.mean(abs(each) for each in within),
    }
    if dx is not None and data.dx.any():
        places = place(theta, dx), place(data.theta, data.dx)
        for name, shifts in (("translation", (dx, data.dx)), ("place", places)):
            both = np.corrcoef(*(shift.T for shift in shifts))[:2, 2:]
            found[name] = float(np.diag(both).mean())
    return found


def place(theta: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Return t = -R(theta)^T dx, where in the image the content has its centre, shape (N, 2)."""
    cos, sin = np.cos(theta), np.sin(theta)
    right, up = dx.T
    return -np.stack([cos * right + sin * up, cos * up - sin * right], -1)


def ours(row: str, kind: str, data: Posed, z: int, seed: int, given: Any) -> Figures:
    """Fit one of our graphs, and return its figures."""
    torch.manual_seed(seed)
    steps = given.epochs * math.ceil(len(data.x) / BATCH)
    graph: Any = SETTINGS[row](kind, z, given.hidden, steps)
    objective = TraceEnum_ELBO(max_plate_nesting=1) if row == "image, turns" else None
    started = time.process_time()
    options = {"epochs": given.epochs, "batch_size": BATCH, "seed": seed, "progress": False}
    pv.fit(graph, data.x, objective=objective, **options)
    seconds = (time.process_time() - started) / given.epochs
    graph.eval()
    if row == "image, turns" and kind != "any":
        graph.rotation_prior = priors.CentredNormal(1, SD)
    figures = {"ELBO": pv.elbo(graph, data.test, samples=5).elbo.mean().item()}
    if row != "VAE":
        sites = ("theta", "dx") if kind == "moved" else ("theta",)
        found = pv.embed(graph, data.test, site=sites)
        dx = found["dx"].numpy() if "dx" in found else None
        figures |= of_pose(found["theta"].squeeze(-1).numpy(), dx, data)
    return {**figures, "s an epoch": seconds}


def pyroved(kind: str, data: Posed, z: int, seed: int, given: Any) -> Figures:
    """Fit pyroVED's model by its trainer, and return its figures."""
    import pyroved

    invariances = ["r", "t"] if kind == "moved" else ["r"]
    widths = {f"hidden_dim_{part}": [given.hidden, given.hidden] for part in "ed"}
    model = pyroved.models.iVAE(SHAPE[1:], z, invariances, seed=seed, device="cpu", **widths)
    trainer = pyroved.trainers.SVItrainer(model, lr=1e-3, seed=seed, device="cpu")
    loader = pyroved.utils.init_dataloader(data.x[:, 0], batch_size=BATCH)
    started = time.process_time()
    for _ in range(given.epochs):
        trainer.step(loader)
    seconds = (time.process_time() - started) / given.epochs
    # its evaluate() takes a training step on the test images
    judge = SVI(model.model, model.guide, Adam({"lr": 1e-3}), Trace_ELBO(num_particles=5))
    loss = sum(judge.evaluate_loss(batch) for batch in data.test[:, 0].split(BATCH))
    latents = model.encode(data.test[:, 0])[0].numpy()
    # its places are (down, left)
    dx = -latents[:, [2, 1]] * model.t_prior.numpy() if kind == "moved" else None
    found = of_pose(latents[:, 0], dx, data)
    found.pop("place", None)  # its angle runs the other way in its axes, which is not converted
    return {"ELBO": -loss / len(data.test), **found, "s an epoch": seconds}


def show(results: dict[str, Any]) -> None:
    """Print means over the seeds and their standard errors."""
    for kind, rows in results.items():
        for row, by_seed in rows.items():
            print(f"\n{kind}, {row}, seeds {', '.join(by_seed)}")
            for key in next(iter(by_seed.values())):
                values = [figures[key] for figures in by_seed.values()]
                error = statistics.stdev(values) / len(values) ** 0.5 if values[1:] else math.nan
                print(f"  {key:<16}{statistics.mean(values):10.3f} +- {error:.3f}")


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, known = parser.add_argument, [*SETTINGS]
    if util.find_spec("pyroved"):
        known.append("pyroVED")
    add("--quick", action="store_true", help="a check that it runs")
    add("--data", nargs="+", choices=list(SPREAD), default=list(SPREAD))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--latents", nargs="+", type=int, default=[2], help="of z")
    add("--only", nargs="+", choices=known, default=known)
    add("--images", type=int, default=10_000, help="training images")
    add("--epochs", type=int, default=10)
    add("--test", type=int, default=1_000, help="test images")
    add("--hidden", type=int, default=128, help="width of the hidden layers")
    add("--json", type=Path, help="file for the results; fits that it holds are not run again")
    found = parser.parse_args()
    if found.quick:
        found.images, found.epochs, found.test, found.seeds = 300, 2, 100, [0]
    return found


def main() -> None:
    """Fit what the file does not hold, and print the table."""
    given = options()
    torch.set_num_threads(1)
    report = reports.started(given.json, {key: getattr(given, key) for key in BUDGET}, "results")
    parts = {kind: images(kind, given.images, given.test) for kind in given.data}
    for seed in given.seeds:
        for kind, data in parts.items():
            for z in given.latents:
                for row in given.only:
                    known = report["results"].setdefault(kind, {}).setdefault(f"{row}, z {z}", {})
                    if str(seed) in known:
                        continue
                    fitted = pyroved if row == "pyroVED" else partial(ours, row)
                    known[str(seed)] = fitted(kind, data, z, seed, given)
                    shown = ", ".join(f"{k} {v:.3f}" for k, v in known[str(seed)].items())
                    print(f"{kind}, z {z}, seed {seed}, {row}: {shown}", flush=True)
                    if given.json:
                        given.json.write_text(json.dumps(report, indent=1))
    show(report["results"])


if __name__ == "__main__":
    main()
