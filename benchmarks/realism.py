"""How real an autoencoder's and a VAE's images are: at random codes, and from a 3 to an 8.

The same fully connected networks, 784-400-16-400-784 with ReLU, pixels in [0, 1], Adam at 1e-3,
batches of 100. The VAE has N(0, I) as prior. Both have the same likelihood:

    gaussian     of grey values; sigma learned, for the autoencoder 1, which is the squared error
    bernoulli    of bits, drawn from the grey values again at each visit

An image is the mean of p(x | z) at

    N(0, I)             random codes z ~ N(0, I): the VAE's prior; for an autoencoder any guess
    fitted Gaussian     z ~ N(m, S), mean and covariance of the codes of training images
    middle of walks     half of the way between the codes of a 3 and an 8, 100 pairs of test images
    walks               all points of these walks but their ends, on a line and on an arc

Each image is scored by the confidence of a classifier, calibrated on images that it has not seen,
and by its distance to the nearest training image (`pyrovae.realism`). Either can be fooled, the
first by bold shapes, the second by a blur: "both" is the share of the images that are not below the
worst 5 % of test images by either. The table has means over the seeds, with standard errors; the
last columns are VAE - autoencoder, paired by seed.

    python benchmarks/realism.py [--quick] [--json FILE] [--images N] [--seeds 0 1 2] [--epochs N]
                                 [--data mnist fashion-mnist] [--likelihoods gaussian bernoulli]
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, posteriors, priors, realism

D, HIDDEN, BATCH, STEPS, PAIRS, DRAWS = 16, 400, 100, 9, 100, 1_000
LIKELIHOODS = "gaussian", "bernoulli"
SHAPE = (1, 28, 28)
SOURCES = {"mnist": datasets.mnist, "fashion-mnist": datasets.fashion_mnist}
Figures = dict[str, dict[str, float]]  # by name of the images: confidence and distance


class Images(NamedTuple):
    """Training images of models and classifier, others to calibrate by, and test images."""

    train: Tensor
    labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load(name: str, n: int) -> Images:
    """Return images in [0, 1] with their classes."""
    data = SOURCES[name]()
    x, test = (torch.from_numpy(part).float() for part in (data.x, data.x_test))
    y, test_y = (torch.from_numpy(part).long() for part in (data.labels, data.labels_test))
    return Images(x[:n], y[:n], x[-2_000:], y[-2_000:], test[:2_000], test_y[:2_000])


def judge(images: Images, epochs: int, seed: int) -> realism.Judge:
    """Return a judge whose classifier is a small convolutional network."""
    torch.manual_seed(seed)
    net = nn.Sequential(nets.ConvEncoder(SHAPE, 64, (16, 32, 64)), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters())
    net.to(memory_format=torch.channels_last)
    for _ in range(epochs):
        for rows in torch.randperm(len(images.train)).split(BATCH):
            optimizer.zero_grad()
            logits = net(images.train[rows])
            nn.functional.cross_entropy(logits, images.labels[rows]).backward()
            optimizer.step()
    return realism.Judge(net.eval(), images.train, images.held_out, images.held_out_labels)


def autoencoder(likelihood: str) -> pv.VAE:
    """Return the autoencoder."""
    encoder, decoder = nets.MLP(SHAPE, [HIDDEN], D), nets.MLP(D, [HIDDEN], SHAPE)
    bits = likelihood == "bernoulli"
    p = likelihoods.Bernoulli(decoder) if bits else likelihoods.Gaussian(decoder, 1.0)
    return pv.VAE(priors.Flat(D), posteriors.Point(encoder), p)


def variational(likelihood: str) -> pv.VAE:
    """Return the VAE."""
    encoder, decoder = nets.MLP(SHAPE, [HIDDEN], 2 * D), nets.MLP(D, [HIDDEN], SHAPE)
    bits = likelihood == "bernoulli"
    p = likelihoods.Bernoulli(decoder) if bits else likelihoods.Gaussian(decoder, 0.3, learned=True)
    return pv.VAE(priors.StandardNormal(D), posteriors.DiagonalNormal(encoder), p)


MODELS: dict[str, Callable[[str], pv.VAE]] = {"autoencoder": autoencoder, "VAE": variational}


def generated(graph: pv.VAE, images: Images, seed: int) -> dict[str, Tensor]:
    """Return images that a model makes, by name."""
    stream = torch.Generator().manual_seed(seed)
    eps = torch.randn(DRAWS, D, generator=stream)
    codes = pv.embed(graph, images.train)
    fitted = codes.mean(0) + eps @ torch.linalg.cholesky(codes.T.cov()).T
    found = {
        "reconstructions of test images": pv.reconstruct(graph, images.test),
        "N(0, I)": pv.decode(graph, eps),
        "fitted Gaussian": pv.decode(graph, fitted),
    }
    threes, eights = (images.test[images.test_labels == k][:PAIRS] for k in (3, 8))
    for name, path in {"line": pv.tasks.linear, "arc": pv.tasks.spherical}.items():
        pairs = zip(threes, eights, strict=False)
        walks = torch.stack(
            [pv.interpolate(graph, *ends, steps=STEPS, path=path) for ends in pairs]
        )
        found[f"middle of walks, {name}"] = walks[:, STEPS // 2]
        found[f"walks, {name}"] = walks[:, 1:-1].flatten(0, 1)
    return found


def measure(
    images: Images, likelihood: str, seed: int, epochs: int, judge_epochs: int
) -> dict[str, Figures]:
    """Return both scores of each kind of images, for test images and each model."""
    score = judge(images, judge_epochs, seed)
    logits = score.logits(images.test)
    accuracy = (logits.argmax(1) == images.test_labels).double().mean().item()
    error = realism.calibration_error(logits, images.test_labels)
    print(
        f"seed {seed}: classifier {accuracy:.3f} right, calibration error {error:.3f}", flush=True
    )

    real = score(images.test)

    def scores(x: Tensor) -> dict[str, float]:
        found = score(x.clamp(0, 1))
        means = {"confidence": found.confidence.mean, "distance": found.distance.mean}
        return means | {"both": realism.passing(found, real).mean}

    found: dict[str, Figures] = {"test images": {"": scores(images.test)}}
    for name, make in MODELS.items():
        torch.manual_seed(seed)
        graph = make(likelihood)
        pv.fit(
            graph,
            images.train,
            epochs=epochs,
            batch_size=BATCH,
            seed=seed,
            transform=pv.batches.binarize if likelihood == "bernoulli" else None,
            progress=False,
        )
        made = generated(graph, images, seed)
        found[name] = {kind: scores(x) for kind, x in made.items()}
        print(f"seed {seed}: {name} {found[name]}", flush=True)
    return found


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return the mean over seeds, and its standard error."""
    n = len(values)
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan


def show(seeds: list[dict[str, Figures]], data: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Print the table; return the differences VAE - autoencoder with their errors."""
    differences: dict[str, dict[str, tuple[float, float]]] = {}
    print(f"\n{data}: means over {len(seeds)} seeds")
    for key in ("confidence", "distance", "both"):
        print(f"{key:34s}{'autoencoder':>16s}{'VAE':>16s}{'difference':>18s}")
        test, _ = mean_and_error([seed["test images"][""][key] for seed in seeds])
        print(f"{'test images':34s}{test:10.3f}")
        for kind in seeds[0]["VAE"]:
            ours = {name: [seed[name][kind][key] for seed in seeds] for name in MODELS}
            apart = [b - a for a, b in zip(ours["autoencoder"], ours["VAE"], strict=True)]
            difference = differences.setdefault(kind, {})[key] = mean_and_error(apart)
            columns = [mean_and_error(values) for values in ours.values()]
            text = "".join(f"{mean:9.3f} ± {error:.3f}" for mean, error in columns)
            print(f"{kind:34s}{text}{difference[0]:+10.3f} ± {difference[1]:.3f}")
    return differences


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="1,000 images, two epochs, two seeds")
    add("--json", type=Path, help="file for the results")
    add("--images", type=int, default=10_000, help="training images")
    add("--epochs", type=int, default=20)
    add("--judge-epochs", type=int, default=4, help="epochs of the classifier")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--likelihoods", nargs="+", choices=LIKELIHOODS, default=list(LIKELIHOODS))
    add("--data", nargs="+", choices=SOURCES, default=["mnist"])
    found = parser.parse_args()
    if found.quick:
        found.images, found.epochs, found.judge_epochs, found.seeds = 1_000, 2, 2, [0, 1]
    return found


def main() -> int:
    """Measure, print the tables, and return how often the VAE loses at random codes by both."""
    given, report, lost, lost_both = options(), {}, 0, 0
    kinds = [(name, likelihood) for name in given.data for likelihood in given.likelihoods]
    for name, likelihood in kinds:
        images, budget = load(name, given.images), (given.epochs, given.judge_epochs)
        seeds = [measure(images, likelihood, seed, *budget) for seed in given.seeds]
        report[f"{name}, {likelihood}"] = seeds
        if given.json:
            given.json.write_text(json.dumps({"images": given.images, "seeds": report}, indent=1))
        differences = show(seeds, f"{name}, {likelihood}")
        for kind in ("N(0, I)", "fitted Gaussian"):
            sure, far = (differences[kind][key][0] for key in ("confidence", "distance"))
            lost += (sure <= 0) + (far >= 0)
            lost_both += differences[kind]["both"][0] <= 0
    print(f"\nAt random codes the VAE loses {lost} of {4 * len(kinds)} comparisons by one score,")
    print(f"and {lost_both} of {2 * len(kinds)} by the share that passes for real by both.")
    return 0 if given.quick else lost_both


if __name__ == "__main__":
    sys.exit(main())
