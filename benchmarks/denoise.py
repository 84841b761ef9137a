"""Denoising images: autoencoders and VAEs, plain and denoising, beside simple baselines.

    x~ = min(1, max(0, x + 0.5 eps)),   eps ~ N(0, I),   pixels in [0, 1]

Plain models are trained on clean images and given noisy ones only here; denoising models are given
noisy images in training too, with new noise at each visit, and explain the clean ones. All
minimize a Gaussian negative log likelihood (the squared error, for an autoencoder) by Adam at 2e-3
in batches of 32, 20 epochs.

    fully connected   784-400-32-400-784, ReLU
    convolutional     28x28x1 to 4x4x8 by four convolutions and three poolings, back by five
                      convolutions and three upsamplings, ReLU
    VAE               the fully connected networks, 32 latents, N(0, I) prior, learned sigma

Baselines: the noisy image, the mean training image, a 3 x 3 median, the bilinear filter, a
bilateral filter and PCA (the best of six numbers of components on other noisy images). Ridge
regression from noisy to clean images stands beside them: a denoiser trained on the same pairs,
with one linear layer, and no baseline that needs no training.

Scores are PSNR (dB) and SSIM, means over 1,000 test images that all methods share; +- is the
standard error over these images, "seeds" the standard deviation over the seeds. Each finished fit
is written to the JSON file at once, and another run continues from that file.

    python benchmarks/denoise.py [--quick] [--json FILE] [--picture FILE] [--images N]
                                 [--seeds 0 1 2] [--data mnist fashion-mnist] [--epochs N]
"""

import argparse
import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import reports
import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import baselines, datasets, likelihoods, nets, posteriors, priors, scores

NOISE, BATCH, RATE, HIDDEN, D, TEST, HELD_OUT = 0.5, 32, 2e-3, 400, 32, 1_000, 500
SHAPE = (1, 28, 28)
COMPONENTS = (8, 16, 32, 64, 128, 256)
SHOWN = 12
LINEAR = "ridge regression"  # a trained denoiser too
SOURCES = {"mnist": datasets.mnist, "fashion-mnist": datasets.fashion_mnist}
Restore = Callable[[Tensor], Tensor]  # noisy images -> restored ones, (N, 1, 28, 28) both


class Images(NamedTuple):
    """Clean images, and noisy ones where they are given to all methods alike."""

    train: Tensor
    held_out: Tensor
    held_out_noisy: Tensor
    test: Tensor
    noisy: Tensor


def corrupt(x: Tensor) -> Tensor:
    """Return images with Gaussian noise, clipped to [0, 1]."""
    return (x + NOISE * torch.randn_like(x)).clamp(0, 1)


# -------------------------------------------------------------------------------------- the models
def fully_connected() -> pv.VAE:
    """Return the fully connected autoencoder."""
    encoder, decoder = nets.MLP(SHAPE, [HIDDEN], D), nets.MLP(D, [HIDDEN], SHAPE)
    return pv.VAE(priors.Flat(D), posteriors.Point(encoder), likelihoods.Gaussian(decoder, 1.0))


def convolutional() -> pv.VAE:
    """Return the convolutional autoencoder, whose code has 4 x 4 x 8 values."""
    encoder, decoder = nets.ConvEncoder(SHAPE, None), nets.ConvDecoder(None, SHAPE)
    (d,) = encoder.shape_out
    graph = pv.VAE(priors.Flat(d), posteriors.Point(encoder), likelihoods.Gaussian(decoder, 1.0))
    return graph.to(memory_format=torch.channels_last)  # a third of the time on a CPU


def variational() -> pv.VAE:
    """Return the VAE with the fully connected networks."""
    encoder, decoder = nets.MLP(SHAPE, [HIDDEN], 2 * D), nets.MLP(D, [HIDDEN], SHAPE)
    q, p = posteriors.DiagonalNormal(encoder), likelihoods.Gaussian(decoder, 0.3, learned=True)
    return pv.VAE(priors.StandardNormal(D), q, p)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "fully connected": fully_connected,
    "convolutional": convolutional,
    "VAE": variational,
    "denoising, fully connected": lambda: pv.Denoising(fully_connected(), corrupt),
    "denoising, convolutional": lambda: pv.Denoising(convolutional(), corrupt),
    "denoising, VAE": lambda: pv.Denoising(variational(), corrupt),
}


def fit(name: str, x: Tensor, epochs: int, seed: int) -> tuple[nn.Module, float]:
    """Return a fitted model, and seconds per epoch."""
    torch.manual_seed(seed)
    graph = MODELS[name]()
    started = time.perf_counter()
    adam = functools.partial(torch.optim.Adam, lr=RATE)
    options = {"epochs": epochs, "batch_size": BATCH, "seed": seed, "progress": False}
    pv.fit(graph, x, optimizer=adam, **options)
    return graph.eval(), (time.perf_counter() - started) / epochs


# ----------------------------------------------------------------------------------- the baselines
def bilateral(noisy: Tensor) -> Tensor:
    """Return images after scikit-image's bilateral filter."""
    from skimage.restoration import denoise_bilateral

    options = {"sigma_color": NOISE, "sigma_spatial": 1.0}
    found = [denoise_bilateral(x[0].double().numpy(), **options) for x in noisy]
    return torch.stack([torch.from_numpy(x) for x in found]).unsqueeze(1)


def best_pca(images: Images) -> tuple[str, Restore]:
    """Return the projection on the best number of principal components, and its name."""
    fits = {k: baselines.PCA(images.train, k) for k in COMPONENTS if k < len(images.train)}
    k = max(
        fits,
        key=lambda k: scores.psnr(fits[k].denoise(images.held_out_noisy), images.held_out).mean,
    )
    return f"PCA, {k} components", fits[k].denoise


def ridge(images: Images) -> Restore:
    """Return linear regression from noisy to clean images, its weight chosen on other images."""
    from sklearn.linear_model import Ridge

    torch.manual_seed(0)
    x, y = (part.flatten(1).numpy() for part in (corrupt(images.train), images.train))
    held_out = images.held_out_noisy.flatten(1).numpy()
    best, least = None, math.inf
    for alpha in (10.0, 100.0, 1000.0):
        model = Ridge(alpha).fit(x, y)
        error = float(((model.predict(held_out) - images.held_out.flatten(1).numpy()) ** 2).mean())
        best, least = (model, error) if error < least else (best, least)
    return lambda noisy: torch.from_numpy(best.predict(noisy.flatten(1).numpy())).reshape(
        noisy.shape
    )


def simple_methods(images: Images) -> dict[str, Restore]:
    """Return the baselines by name."""
    pca, project = best_pca(images)
    return {
        "noisy image": lambda noisy: noisy,
        "mean image": lambda noisy: baselines.mean_image(images.train, len(noisy)),
        "median, 3 x 3": baselines.median_filter,
        "bilinear filter": baselines.bilinear_filter,
        "bilateral filter": bilateral,
        pca: project,
        LINEAR: ridge(images),
    }


# ----------------------------------------------------------------------------------------- scoring
def load(name: str, n: int, quick: bool) -> Images:
    """Return images in [0, 1], of which the noisy ones are the same in each run."""
    data = SOURCES[name]()
    x, test = (torch.from_numpy(part).float() for part in (data.x, data.x_test))
    kept = test[:: len(test) // (100 if quick else TEST)]
    held_out = x[-HELD_OUT:]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        held_out_noisy, noisy = corrupt(held_out), corrupt(kept)
    return Images(x[:n], held_out, held_out_noisy, kept, noisy)


def scored(restored: Tensor, images: Images) -> dict[str, float]:
    """Return PSNR and SSIM of restored test images, with standard errors over the images."""
    restored = restored.clamp(0, 1)
    psnr, ssim = (score(restored, images.test) for score in (scores.psnr, scores.ssim))
    found = {"psnr": psnr.mean, "psnr_error": psnr.standard_error}
    return found | {"ssim": ssim.mean, "ssim_error": ssim.standard_error}


def show(report: dict[str, Any]) -> None:
    """Print a table for each data set."""
    for name, methods in report["results"].items():
        print(
            f"\n{name:28s}{'PSNR':>8s}{'+-':>6s}{'seeds':>7s}{'SSIM':>8s}{'+-':>7s}{'s/epoch':>9s}"
        )
        for method, by_seed in methods.items():
            rows = list(by_seed.values())
            mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
            spread = statistics.stdev(row["psnr"] for row in rows) if len(rows) > 1 else math.nan
            print(
                f"{method:28s}{mean['psnr']:8.2f}{mean['psnr_error']:6.2f}{spread:7.2f}"
                f"{mean['ssim']:8.3f}{mean['ssim_error']:7.3f}{mean.get('seconds', math.nan):9.1f}"
            )


def not_beaten(report: dict[str, Any]) -> list[str]:
    """Return each pair of a denoising model and a baseline that is as good by one of the scores."""
    found = []
    for data, methods in report["results"].items():
        for model in (name for name in methods if name.startswith("denoising")):
            for simple in (name for name in methods if name not in (*MODELS, LINEAR)):
                for key in ("psnr", "ssim"):
                    ours, theirs = (
                        statistics.mean(row[key] for row in methods[name].values())
                        for name in (model, simple)
                    )
                    if not ours > theirs:
                        found.append(f"{data}, {key}: {model} {ours:.3f}, {simple} {theirs:.3f}")
    return found


def draw(pictures: dict[str, dict[str, Tensor]], file: Path) -> None:
    """Write a picture: one column of rows for each data set, each row named by its method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(pictures), 9), layout="constrained")
    for axis, (name, rows) in zip(
        figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
    ):
        strips = torch.cat([torch.cat([*x[:SHOWN, 0]], 1) for x in rows.values()])
        axis.imshow(strips, cmap="gray", vmin=0, vmax=1)
        axis.set(title=name, xticks=[])
        axis.set_yticks([28 * i + 14 for i in range(len(rows))], list(rows))
    figure.savefig(file, dpi=130)


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="500 images, two epochs, one seed, 100 test images")
    add("--json", type=Path, help="file for the results; fits that it holds are not run again")
    add("--picture", type=Path, help="file for a picture of the last seed's models")
    add("--images", type=int, default=10_000, help="training images")
    add("--epochs", type=int, default=20)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--data", nargs="+", choices=SOURCES, default=list(SOURCES))
    found = parser.parse_args()
    if found.quick:
        found.images, found.epochs, found.seeds = 500, 2, [0]
    return found


def main() -> int:
    """Run what the file does not hold, print the tables, and say what no denoiser beats."""
    given = options()
    budget = {"images": given.images, "epochs": given.epochs, "quick": given.quick}
    report, pictures = reports.started(given.json, budget, "results"), {}
    print(report["machine"], report["versions"], f"{given.images} images, {given.epochs} epochs")
    parts = {name: load(name, given.images, given.quick) for name in given.data}
    for name, images in parts.items():
        done = report["results"].setdefault(name, {})
        shown = pictures[name] = {"clean": images.test}
        for method, restore in simple_methods(images).items():
            shown[method] = restore(images.noisy)
            done[method] = {"0": scored(shown[method], images)}
    for seed in given.seeds:
        for name, images in parts.items():
            for model in MODELS:
                known = report["results"][name].setdefault(model, {})
                if str(seed) in known and not given.picture:
                    continue
                graph, seconds = fit(model, images.train, given.epochs, seed)
                pictures[name][model] = pv.reconstruct(graph, images.noisy)
                known[str(seed)] = scored(pictures[name][model], images) | {"seconds": seconds}
                print(f"seed {seed}  {name:14s}{model:28s}{known[str(seed)]}", flush=True)
                if given.json:
                    given.json.write_text(json.dumps(report, indent=1))
            if given.picture:
                draw(pictures, given.picture)
    show(report)
    failed = not_beaten(report)
    print("\nEvery denoising model beats every baseline by both scores." if not failed else "")
    print("\n".join(failed))
    return 0 if given.quick else len(failed)


if __name__ == "__main__":
    sys.exit(main())
