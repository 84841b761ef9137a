"""Pictures, the page, the baselines and the files that commands write; nothing global changes."""

import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

import pyrovae as pv
from pyrovae.command import exports, writing
from pyrovae.command.figures import (
    collapse,
    evidence_rows,
    latent_rows,
    measure,
    training_figures,
)
from pyrovae.command.images import baselines
from pyrovae.command.report import page as pages
from pyrovae.command.report import plots
from pyrovae.files import History


def history(epochs, validation=True, weight=1.0):
    run = History(best_epoch=epochs or None)
    for epoch in range(epochs):
        terms = {"elbo": -100.0 + epoch, "reconstruction": -90.0 + epoch, "kl": 10.0}
        held_out = (
            {f"validation_{key}": value - 1 for key, value in terms.items()} if validation else {}
        )
        run.append(loss=100.0, beta=weight, learning_rate=1e-3, seconds=1.0, **terms, **held_out)
    return run


def size(figure):
    data = plots.png(figure, dpi=50)
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


# ----------------------------------------------------------------------------------------- pictures
def test_a_notebook_shows_figures_without_pyplot():
    # What IPython asks of an object that no formatter is registered for.
    assert plots.images(np.eye(8)[None])._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("epochs", [0, 1, 30])
@pytest.mark.parametrize("validation", [False, True])
def test_curves(epochs, validation):
    figure = plots.curves(history(epochs, validation, weight=0.5))
    assert [axis.get_ylabel() for axis in figure.axes[:3]] == ["nats per observation"] * 3
    assert size(figure)[0] > 500
    if epochs:
        lines = [line.get_label() for line in figure.axes[0].get_lines()]
        assert lines == ["training", *(["validation"] if validation else []), "best epoch"]


def test_epochs_are_numbered_by_whole_numbers():
    for axis in plots.curves(history(2, True, weight=0.5)).axes[:3]:
        assert all(tick == round(tick) for tick in axis.get_xticks())


def test_curves_of_an_objective_without_terms():
    run = history(3, validation=False)
    run.elbo = run.reconstruction = run.kl = [float("nan")] * 3
    size(plots.curves(run))


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 8, 6), (4, 5, 5), (2, 6, 4), (1, 1, 1), (7,), (1,), (40,)]
)
def test_pictures_of_any_data(shape):
    x = np.random.default_rng(0).random((12, *shape))
    grid = x.reshape(3, 4, *shape)
    for figure in (
        plots.images(x, "t", 5),
        plots.pairs(x, x, 6),
        plots.pairs(x[:1], x[:1]),
        plots.interpolations(grid),
        plots.manifold(grid),
    ):
        assert max(size(figure)) < 800


def drawn(figure):
    return figure.axes[0].get_images()[0].get_array()


def test_grey_images_need_no_axis_of_channels_and_one_path_none_of_paths():
    x = np.random.default_rng(0).random((12, 1, 6, 4))
    grey, grid = x[:, 0], x.reshape(3, 4, 1, 6, 4)
    for short, whole in (
        (plots.images(grey), plots.images(x)),
        (plots.pairs(grey, grey), plots.pairs(x, x)),
        (plots.bands({"a": grey}, ""), plots.bands({"a": x}, "")),
        (plots.manifold(grid[:, :, 0]), plots.manifold(grid)),
        (plots.interpolations(x), plots.interpolations(x[None])),
    ):
        assert np.array_equal(drawn(short), drawn(whole))
    colours = np.repeat(x, 3, 1)
    path = plots.interpolations(colours), plots.interpolations(colours[None])
    assert np.array_equal(*map(drawn, path))
    lines = plots.interpolations(x.reshape(12, 24)), plots.interpolations(x.reshape(1, 12, 24))
    assert len(lines[0].axes[0].lines) == len(lines[1].axes[0].lines) == 12


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plots.images(np.ones(5)), r"x has shape \(5,\), expected \(N, C, H, W\)"),
        (lambda: plots.images(np.ones((2, 3, 1, 4, 4))), r"expected \(N, C, H, W\)"),
        (lambda: plots.pairs(np.ones(5), np.ones(5)), r"expected \(N, C, H, W\)"),
        (lambda: plots.manifold(np.ones((5, 5))), r"\(5, 5\), expected \(rows, columns, C, H, W\)"),
        (lambda: plots.interpolations(np.ones((2, 10, 6, 4))), r"expected \(P, steps, C, H, W\)"),
    ],
)
def test_what_has_another_shape_is_named(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_images_are_drawn_as_they_are():
    x = np.zeros((2, 3, 2, 2))
    x[0, 0] = 1  # red
    canvas = plots.images(x, columns=2).axes[0].get_images()[0].get_array()
    assert canvas[0, 0].tolist() == [1, 0, 0]
    assert canvas[0, 2].tolist() == [1, 1, 1]  # the gap
    assert canvas[0, 3].tolist() == [0, 0, 0]
    grey = (
        plots.images(np.full((1, 1, 2, 2), 8.0), limits=(0, 16)).axes[0].get_images()[0].get_array()
    )
    assert grey[0, 0].tolist() == [0.5, 0.5, 0.5]


def test_images_of_one_row_of_pixels_are_drawn_as_curves():
    x = np.linspace(0, 1, 60).reshape(2, 1, 1, 30)
    (axis,) = plots.bands({"data": x}, "").axes
    assert len(axis.lines) == 2
    assert not axis.images


@pytest.mark.parametrize("shape", [(1, 3, 3000), (1, 3000, 1)])
def test_very_wide_and_very_tall_images_have_a_picture_of_moderate_size(shape):
    figure = plots.images(np.random.default_rng(0).random((64, *shape)), columns=16)
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.size < 64 * np.prod(shape) * 3 * 8  # their gaps alone took gigabytes
    assert max(figure.get_size_inches()) < 40


def test_constant_data_have_a_picture():
    size(plots.images(np.ones((3, 1, 4, 4))))
    size(plots.images(np.ones((3, 4))))
    size(plots.latent_space(np.zeros((5, 4)), np.zeros(5, int), ("a",)))


@pytest.mark.parametrize(("d", "label"), [(1, "z1"), (2, "z1"), (5, "PC 1")])
def test_latent_space_says_which_axes_it_has(d, label):
    z = np.random.default_rng(0).standard_normal((30, d))
    figure = plots.latent_space(z, np.arange(30) % 12, [str(i) for i in range(12)])
    assert figure.axes[0].get_xlabel().startswith(label)
    assert len(figure.axes[0].get_legend().get_texts()) == 12
    size(figure)
    size(plots.latent_space(z))


def test_principal_components_are_scikit_learns():
    from sklearn.decomposition import PCA

    z = np.random.default_rng(0).standard_normal((50, 4)) * [3, 2, 1, 0.5]
    drawn = plots.latent_space(z).axes[0].collections[0].get_offsets()
    assert np.allclose(np.abs(drawn), np.abs(PCA(2).fit_transform(z)))


def test_kl_per_unit_is_sorted_and_counts_the_collapsed():
    axis = plots.kl_per_unit(np.array([0.001, 2.0, 0.5]), threshold=0.01).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "2", "0"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "0.01 nats",
        "2 units above",
        "1 units below",
    ]


def stopped(elbo, best_epoch, why="all epochs ran"):
    run = history(len(elbo))
    run.validation_elbo, run.best_epoch, run.stopped = list(elbo), best_epoch, why
    return run


def test_a_bound_that_still_rises_is_warned_of():
    rising = -100 + 2.0 * np.arange(40)
    found = training_figures(stopped(rising, 40))["warning"]
    assert "by 2 nats per epoch over the last 4 epochs" in found
    assert "over the last epoch:" in training_figures(stopped(rising[:5], 5))["warning"]


@pytest.mark.parametrize(
    "run",
    [
        stopped([-3.0, -1.0, -2.0], 2),  # the best epoch is an earlier one
        stopped([-3.0, -2.0, -2.0], 3),  # the slope is 0
        stopped([-3.0, -2.0, -1.0], 3, "interrupted"),  # which has a warning of its own
        stopped([-3.0, -2.0, -1.0], 3, "no better validation ELBO for 5 epochs"),
        stopped([-3.0], 1),
        history(5, validation=False),
        history(0),
    ],
)
def test_a_bound_that_does_not_rise_is_not_warned_of(run):
    assert training_figures(run)["warning"] is None


@pytest.mark.parametrize("rows", [1, 5])
def test_the_standard_error_of_log_p_is_that_of_the_mean_of_the_rows(rows):
    x = torch.randn(rows, 3).sign().relu()
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(nn.Linear(3, 4)),
        pv.likelihoods.Bernoulli(nn.Linear(2, 3)),
    )
    found = measure(vae, lambda n: (x[:n],), samples=50, evidence_rows=10, keep_values=True)
    (row,) = evidence_rows(found, "test rows")
    if rows == 1:
        assert row.value == f"{found['log_p']['mean']:.2f} nats"
    else:
        error = scipy.stats.sem(found["log_p"]["values"])
        assert row.value == f"{found['log_p']['mean']:.2f} ± {error:.2f} nats"


def test_nothing_global_moves():
    before = dict(mpl.rcParams)
    size(plots.images(np.ones((2, 1, 3, 3))))
    assert dict(mpl.rcParams) == before


# ----------------------------------------------------------------------------------------- the page
class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.stack = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def page():
    return pages.Report(
        title="<script>alert(1)</script>",
        subtitle='a & "b"',
        facts={"<b>": "<i>"},
        warnings=["<w>"],
        rows=[pages.Row("ELBO <", "-1 ± 2", "note >")],
        pictures=[pages.Picture('"quoted" <t>', plots.images(np.ones((1, 1, 2, 2))), "<caption>")],
    )


def test_page_needs_nothing_but_itself_and_escapes_all_text():
    text = pages.render(page())
    parsed = Page(text)
    assert not parsed.stack
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "iframe", "i", "b", "w", "t", "caption"}
    images = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 1
    assert images[0].startswith("data:image/png;base64,iVBOR")
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_name_that_is_no_utf_8_is_written_in_a_report(tmp_path):
    """A run was trained to its end, and had no report: its folder's name could not be encoded."""
    name = os.fsdecode(b"runs-\xff")
    writing.write(tmp_path / "report.html", f"<p>{name} – ELBO</p>")
    assert (tmp_path / "report.html").read_text("utf-8") == "<p>runs-\\udcff – ELBO</p>"


def test_writing_replaces_in_one_step(tmp_path):
    path = tmp_path / "report.html"
    writing.write(path, pages.render(page()))
    old = path.read_text(encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        writing.write(path, lambda file: file.write_text(f"{1 / 0}"))
    assert path.read_text(encoding="utf-8") == old
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


# ---------------------------------------------------------------------------------------- baselines
def test_baselines_reach_a_known_density():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((2, 6))
    x = rng.standard_normal((3000, 2)) @ w + 0.5 * rng.standard_normal((3000, 6))
    covariance = w.T @ w + 0.25 * np.eye(6)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    for fit in (baselines.probabilistic_pca, baselines.gaussian_mixture):
        found = fit(x[:2000], x[2000:2500], x[2500:], whole=False)
        assert found.log_p == pytest.approx(-entropy, abs=0.2)
    assert (
        "2 components"
        in baselines.probabilistic_pca(x[:2000], x[2000:2500], x[2500:], whole=False).what
    )


def test_dequantized_density_stays_below_the_mass_of_the_cells():
    """Uniform numbers 0..3 in two dimensions have log mass -2 log 4, which bounds any density."""
    x = np.random.default_rng(0).integers(0, 4, (4000, 2))
    bound = -2 * np.log(4)
    for fit in (baselines.probabilistic_pca, baselines.gaussian_mixture):
        found = fit(x[:3000], x[3000:3500], x[3500:], whole=True)
        assert bound - 0.5 < found.log_p < bound + 0.03


def test_more_draws_come_closer_from_below():
    x = np.random.default_rng(0).binomial(16, 0.3, (600, 8))
    one, many = (
        baselines.probabilistic_pca(x[:400], x[400:500], x[500:], whole=True, draws=draws).log_p
        for draws in (1, 100)
    )
    assert one < many < one + 1


@pytest.mark.parametrize("kl", [[2.1, 2.0], [3.0] * 16, [2.0, 0.001]])
def test_the_legend_of_the_units_lies_above_their_bars(kl):
    figure = plots.kl_per_unit(np.array(kl))
    figure.draw_without_rendering()
    axis = figure.axes[0]
    legend = axis.get_legend().get_window_extent()
    assert all(bar.get_window_extent().y1 < legend.y0 for bar in axis.patches)
    assert legend.x0 >= axis.get_window_extent().x0


# ------------------------------------------------------------------------------------------ exports
def test_embeddings_in_each_format(tmp_path):
    z, labels = np.array([[0.5, -1.0], [2.0, 3.0]], dtype=np.float32), np.array(["b", "a"])
    for suffix in exports.EMBEDDINGS:
        exports.write_embedding(z, labels, tmp_path / f"z{suffix}")
    assert np.array_equal(np.load(tmp_path / "z.npy"), z)
    assert np.load(tmp_path / "z.npz")["labels"].tolist() == ["b", "a"]
    assert (tmp_path / "z.csv").read_text().splitlines() == [
        "z1,z2,label",
        "0.5,-1.0,b",
        "2.0,3.0,a",
    ]
    with pytest.raises(ValueError, match=r"expected a file that ends in .npy, .npz, .csv"):
        exports.check(tmp_path / "z.txt", exports.EMBEDDINGS, overwrite=False)


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("name", ["given", "mean given the values that are not hidden"])
def test_names_of_rows_lie_within_the_figure(count, name):
    x = np.zeros((count, 1, 28, 28))
    figure = plots.bands({name: x, "clean": x}, "")
    figure.draw_without_rendering()
    edges = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(edges) == 2
    assert min(edge.x0 for edge in edges) >= 0
    assert max(edge.x1 for edge in edges) <= figure.axes[0].get_window_extent().x0


@pytest.mark.parametrize(
    ("warning", "given", "advice"),
    [
        (None, {"warm_up": 0.0}, ""),
        ("collapse", {"warm_up": 0.0}, "; posterior collapse: try --warm-up 0.25"),
        ("collapse", {"warm_up": 0.25}, "; posterior collapse: try a longer --warm-up"),
        ("collapse", {"warm_up": 0.0, "pose": "scale"}, "; posterior collapse: try more --epochs"),
    ],
)
def test_a_collapse_has_an_advice_that_the_run_takes(warning, given, advice):
    latents = {"active": 0, "units": 2, "rows": 9, "mutual_information": 0.0, "warning": warning}
    figures, settings = {"latents": latents}, SimpleNamespace(**given)
    row = latent_rows(figures, settings)[0]
    told = collapse(figures, settings) or ""
    assert advice.removeprefix("; posterior collapse: ") in told
    assert ("warm-up" in told) == ("warm-up" in advice)
    assert ("collapse" in row.line()) == bool(advice)
    assert advice in row.line()
    assert ("warm-up" in row.line()) == (bool(advice) and "pose" not in given)
