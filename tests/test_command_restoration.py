"""`pyrovae denoise`, `impute`, `super-resolve` on small runs: what they write, scores, errors."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image

import pyrovae as pv
from pyrovae import datasets
from pyrovae.command.images import cost, gallery, restoration
from pyrovae.command.images.degradations import HiddenPixels, Pooling
from pyrovae.command.images.rows import Rows
from pyrovae.command.writing import write

LATENTS = 10
QUICK = ["--method", "importance"]  # where it does not matter how the posterior is found


def scores_of(folder):
    def refuse(name):
        raise AssertionError(f"{name} in {folder}")

    content = json.loads((folder / "scores.json").read_text(), parse_constant=refuse)
    return content, {each["name"]: each for each in content["scores"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the digits, fitted well enough to be of use."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    settings = ["--epochs", 25, "--latents", LATENTS, "--hidden", 128, "--samples", 0]
    call("fit", "digits", "--output", folder, *settings, "--no-report")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten test digits as a folder of 8-bit images in two sub-folders."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for i, image in enumerate(datasets.digits().x_test[:10]):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255 / 16).round().astype(np.uint8)).save(path)
    return folder


TASKS = {
    "denoise": (["--noise", "gaussian:0.3"], "noisy images"),
    "impute": (["--mask", "lower-half"], "hidden pixels black"),
    "super-resolve": (["--factor", 2], "pixels repeated"),
}


# ------------------------------------------------------------------------------------ what it does
@pytest.mark.parametrize("task", TASKS)
def test_clean_images_are_degraded_restored_and_scored(task, run, tmp_path):
    arguments, given = TASKS[task]
    out = tmp_path / "out"
    printed = call(
        task, run, "digits", "--output", out, *arguments, "--corrupt", "--rows", 6, "--seed", 1
    )
    names = {"restored.npy", "standard_deviation.npy", "draws.npy", "degraded.npy"}
    assert {file.name for file in out.iterdir()} == names | {"scores.json", "report.html"}
    restored, draws = np.load(out / "restored.npy"), np.load(out / "draws.npy")
    assert restored.shape == (6, 1, 8, 8)
    assert draws.shape == (19, 6, 1, 8, 8)
    deviation = np.load(out / "standard_deviation.npy")
    np.testing.assert_allclose(deviation, draws.std(0, ddof=1), rtol=1e-3, atol=1e-3)
    content, found = scores_of(out)
    assert (content["task"], content["rows"], content["draws"]) == (task, 6, 19)
    assert content["effective_sample_size"]["least"] >= 1
    assert found["the model"]["psnr"]["mean"] > found[given]["psnr"]["mean"] + 1
    assert found["the model"]["ssim"]["mean"] > found[given]["ssim"]["mean"]
    for name in found:
        assert f"{found[name]['psnr']['mean']:.2f} ± " in printed
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "the model" in page
    assert page.count("<img") == 1


def test_the_scores_are_those_of_the_files(run, tmp_path):
    out = tmp_path / "out"
    np.save(tmp_path / "clean.npy", datasets.digits().x_test[:20])
    call("impute", run, tmp_path / "clean.npy", "-o", out, "--hidden", 0.5, "--corrupt")
    _, found = scores_of(out)
    clean, restored = (
        np.load(path)[:20] for path in (tmp_path / "clean.npy", out / "restored.npy")
    )
    degraded = np.load(out / "degraded.npy")
    hidden = degraded != clean
    assert np.array_equal(restored[degraded > 0], clean[degraded > 0])
    error = np.where(hidden, restored - clean, 0).reshape(20, -1) / 16
    assert found["the model"]["coverage"]["mean"] > 0.75
    assert np.square(error).mean() < 0.05


def test_a_folder_comes_back_as_a_folder(run, pictures, tmp_path):
    out = tmp_path / "out"
    call("impute", run, pictures, "--output", out, "--mask", "left-half", "--draws", 3, *QUICK)
    inside = {str(file.relative_to(pictures)) for file in pictures.rglob("*.png")}
    for name in ("restored", "standard_deviation", "draws/1", "draws/3"):
        assert {str(file.relative_to(out / name)) for file in (out / name).rglob("*.png")} == inside
    for name in inside:
        before, after = (
            np.asarray(Image.open(path / name), float) for path in (pictures, out / "restored")
        )
        assert after.shape == (8, 8)
        assert np.abs(after - before)[:, 4:].max() <= 1  # observed pixels are kept
    assert scores_of(out)[0]["scores"] == []
    assert not (out / "degraded").exists()


def test_images_whose_names_differ_by_the_ending_alone_are_all_written(run, tmp_path):
    (tmp_path / "images").mkdir()
    for name, grey in (("a.png", 0), ("a.bmp", 255), ("b.bmp", 100)):
        Image.fromarray(np.full((8, 8), grey, np.uint8)).save(tmp_path / "images" / name)
    out = tmp_path / "out"
    call("impute", run, tmp_path / "images", "-o", out, "--mask", "left-half", *QUICK)
    assert sorted(os.listdir(out / "restored")) == ["a.bmp.png", "a.png.png", "b.png"]
    for name, grey in (("a.bmp.png", 255), ("a.png.png", 0), ("b.png", 100)):
        restored = np.asarray(Image.open(out / "restored" / name), float)
        assert abs(restored[0, -1] - grey) <= 1  # an observed pixel of the very image


def test_a_data_set_is_meant_where_a_folder_has_its_name(run, tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    call("impute", run, "digits", "-o", "out", "--hidden", 0.5, "--corrupt", "--rows", 2, *QUICK)
    assert np.load("out/restored.npy").shape == (2, 1, 8, 8)


def test_clean_images_beside_noisy_ones_are_scored(run, pictures, tmp_path):
    clean = datasets.image_folder(pictures)
    rng = np.random.default_rng(0)
    x = clean.x * (16 / 255)
    noisy = x + 4 * rng.normal(size=x.shape)
    labels = np.array(clean.label_names)[clean.labels]
    np.savez(tmp_path / "noisy.npz", x=noisy.astype(np.float32), labels=labels)
    np.savez(tmp_path / "clean.npz", x=x, labels=labels)
    known, unknown = tmp_path / "known", tmp_path / "unknown"
    images = [run, tmp_path / "noisy.npz", "--clean", tmp_path / "clean.npz"]
    call("denoise", *images, "--output", known, "--noise", "gaussian:0.25")
    call("denoise", *images, "--output", unknown)
    with np.load(known / "restored.npz") as restored:
        assert restored["x"].shape == (10, 1, 8, 8)
        assert restored["labels"].tolist() == labels.tolist()
    both = [scores_of(out)[1] for out in (known, unknown)]
    noise = both[0]["noisy images"]["psnr"]["mean"]
    off = (noisy / 16).clip(0, 1) - x / 16
    expected = -10 * np.log10(np.square(off).reshape(10, -1).mean(1)).mean()
    assert noise == pytest.approx(expected, abs=1e-3)
    assert both[0]["the model"]["psnr"]["mean"] > both[1]["the model"]["psnr"]["mean"] > noise
    assert any(name.startswith("PCA") for name in both[0])
    assert not any(name.startswith("PCA") for name in both[1])  # the noise to fit it to is unknown


def test_small_images_are_enlarged(run, tmp_path):
    x = datasets.digits().x_test[:3]
    pooled = torch.nn.functional.avg_pool2d(torch.from_numpy(x), 2).numpy()
    np.save(tmp_path / "small.npy", pooled)
    np.save(tmp_path / "clean.npy", x)
    out = tmp_path / "out"
    images = [run, tmp_path / "small.npy", "--clean", tmp_path / "clean.npy"]
    call("super-resolve", *images, "--output", out)
    restored = torch.from_numpy(np.load(out / "restored.npy"))
    back = torch.nn.functional.avg_pool2d(restored, 2).numpy()
    np.testing.assert_allclose(back, pooled, atol=1e-2)  # the sums are those that were given
    _, found = scores_of(out)
    assert found["the model"]["psnr"]["mean"] > found["bilinear upsampling"]["psnr"]["mean"]


def test_masks_are_read_from_files(run, pictures, tmp_path):
    hidden = np.zeros((8, 8), bool)
    hidden[2:5, 3:6] = True
    np.save(tmp_path / "mask.npy", hidden)
    Image.fromarray(255 * hidden.astype(np.uint8)).save(tmp_path / "mask.png")
    for kind in ("npy", "png"):
        mask = tmp_path / f"mask.{kind}"
        out = tmp_path / kind
        call("impute", run, pictures, "-o", out, "--mask", mask, "--corrupt", "--draws", 2, *QUICK)
    one, other = (
        np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))])
        for folder in (tmp_path / "npy" / "restored", tmp_path / "png" / "restored")
    )
    assert np.array_equal(one, other)
    before = np.stack([np.asarray(Image.open(path)) for path in sorted(pictures.rglob("*.png"))])
    assert (np.abs(one.astype(int) - before)[:, ~hidden] <= 1).all()
    assert (np.abs(one.astype(int) - before)[:, hidden] > 1).any()


def test_nan_in_an_array_says_that_a_pixel_is_hidden(run, tmp_path):
    x = datasets.digits().x_test[:6].astype(np.float32)
    hidden = np.zeros(x.shape, bool)
    hidden[:, :, 3:5] = True
    hidden[0] = False  # of this image nothing is hidden
    np.save(tmp_path / "clean.npy", x)
    np.save(tmp_path / "mask.npy", hidden)
    np.save(tmp_path / "holes.npy", np.where(hidden, np.nan, x))
    by = {
        "nan": [tmp_path / "holes.npy"],
        "mask": [tmp_path / "clean.npy", "--mask", tmp_path / "mask.npy"],
        "both": [tmp_path / "holes.npy", "--mask", tmp_path / "mask.npy"],
    }
    restored = {}
    for name, arguments in by.items():
        given = [*arguments, "--clean", tmp_path / "clean.npy", "--draws", 2, *QUICK]
        call("impute", run, *given, "--output", tmp_path / name)
        restored[name] = np.load(tmp_path / name / "restored.npy")
    assert np.isfinite(restored["nan"]).all()
    assert np.array_equal(restored["nan"][~hidden], x[~hidden])
    assert np.abs(restored["nan"] - x)[hidden].max() > 0
    assert np.array_equal(restored["nan"], restored["mask"])
    assert np.array_equal(restored["nan"], restored["both"])
    output = call("denoise", run, tmp_path / "holes.npy", "--output", tmp_path / "d", code=2)
    assert "the value at (1, 0, 3, 0) is nan" in output
    corrupt = ["--corrupt", "--output", tmp_path / "c"]
    assert "are NaN" in call("impute", run, tmp_path / "holes.npy", *corrupt, code=2)


def test_grey_values_that_are_modelled_as_0_or_1_stay_as_given(tmp_path):
    x = np.random.default_rng(0).random((60, 1, 6, 6)).astype(np.float32)
    np.save(tmp_path / "grey.npy", x)
    settings = ["--binarize", "--epochs", 1, "--samples", 0, "--latents", 2, "--hidden", 8]
    call("fit", tmp_path / "grey.npy", "--output", tmp_path / "run", *settings, "--no-report")
    np.save(tmp_path / "few.npy", x[:4])
    given = [tmp_path / "run", tmp_path / "few.npy", "--mask", "lower-half", "--draws", 2]
    call("impute", *given, "--output", tmp_path / "out", *QUICK)
    for name in ("restored", "draws"):
        found = np.load(tmp_path / "out" / f"{name}.npy")
        expected = np.broadcast_to(x[:4, :, :3], found[..., :3, :].shape)
        np.testing.assert_allclose(found[..., :3, :], expected, atol=1e-6)


def test_images_of_which_nothing_is_hidden_leave_the_scores_of_the_others(run, tmp_path):
    out = tmp_path / "out"
    arguments = ["--hidden", 0.02, "--corrupt", "--rows", 20, "--draws", 3, *QUICK]
    printed = call("impute", run, "digits", "--output", out, *arguments)
    assert "nan" not in printed
    _, found = scores_of(out)
    clean, degraded = datasets.digits().x_test, np.load(out / "degraded.npy")
    rows = pv.data.spread(len(clean), 20)
    error = np.square((degraded - clean[rows.numpy()]) / 16).reshape(20, -1)
    black = found["hidden pixels black"]["psnr"]
    model = found["the model"]["psnr"]
    assert 0 < black["rows"] < model["rows"] < 20
    assert black["rows"] == (error > 0).any(1).sum()
    assert black["rows"] + black["exact"] == model["rows"] + model["exact"]
    assert f"{black['exact']} images exact" in printed
    assert found["the model"]["coverage"]["level"] == 0.5  # 3 draws hold a further one so often
    assert "50 % intervals hold" in printed


@pytest.mark.filterwarnings("ignore:hidden_log_prob. in . of 5 rows:pyrovae.RestorationWarning")
def test_the_hidden_pixels_have_the_log_probability_that_the_task_finds(run, tmp_path):
    x = datasets.digits().x_test[:5]
    np.save(tmp_path / "clean.npy", x)
    given = [run, tmp_path / "clean.npy", "--mask", "right-half", "--output", tmp_path / "out"]
    printed = call("impute", *given, "--corrupt", "--draws", 2, "--seed", 3)
    hidden = torch.arange(8).expand(1, 8, 8) >= 4
    graph = pv.load(run / "model")
    expected = pv.hidden_log_prob(graph, torch.from_numpy(x).float(), hidden=hidden, seed=3).log_p
    found = scores_of(tmp_path / "out")[1]["the model"]["log_p"]
    assert found["mean"] == pytest.approx(expected.mean().item() / 32, rel=1e-3)
    assert f"{found['mean']:.3f} ± " in printed
    assert -3.5 < found["mean"] < 0  # better than log(1 / 17): the levels are equally likely


def test_the_seed_decides(run, tmp_path):
    restored = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ["--noise", "salt-and-pepper:0.2", "--corrupt", "--rows", 2, "--seed", seed]
        arguments += ["--method", "importance"]  # of which the draws differ too
        call("denoise", run, "digits", "--output", tmp_path / name, *arguments)
        restored[name] = np.load(tmp_path / name / "draws.npy")
    assert np.array_equal(restored["a"], restored["b"])
    assert not np.array_equal(restored["a"], restored["c"])


@pytest.mark.parametrize("method", ["encoder", "importance"])
def test_methods(method, run, tmp_path):
    arguments = ["--hidden", 0.3, "--corrupt", "--rows", 3, "--method", method]
    call("impute", run, "digits", "--output", tmp_path / method, *arguments)
    assert scores_of(tmp_path / method)[0]["method"] == method


def test_an_autoencoder_is_given_the_encoder(tmp_path):
    parts = ["--prior", "flat", "--posterior", "point", "--epochs", 2, "--samples", 0]
    call("fit", "digits", "--output", tmp_path / "run", *parts, "--no-report")
    arguments = ["--corrupt", "--rows", 5, "--noise", "gaussian:0.3"]
    call("denoise", tmp_path / "run", "digits", "--output", tmp_path / "out", *arguments)
    assert np.load(tmp_path / "out" / "restored.npy").shape == (5, 1, 8, 8)
    assert "show only the fixed sigma of its pixels" in (tmp_path / "out/report.html").read_text()


def test_results_of_before_are_replaced_only_on_request(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    arguments = ["impute", run, "digits", "--output", out, "--hidden", 0.2, "--draws", 2, *QUICK]
    assert "holds something" in call(*arguments, "--rows", 3, code=2)
    call(*arguments, "--rows", 3, "--corrupt", "--overwrite")
    assert (out / "degraded.npy").is_file()
    call(*arguments, "--rows", 2, "--overwrite")
    assert np.load(out / "restored.npy").shape == (2, 1, 8, 8)
    assert not (out / "degraded.npy").exists()
    assert (out / "thesis.tex").read_text() == "years of work"


def test_results_that_cannot_be_written_leave_nothing(run, tmp_path, monkeypatch):
    def full(path, content):
        if path.name == "draws.npy":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(gallery, "write", full)
    arguments = ["--hidden", 0.2, "--draws", 2, "--rows", 2, "--method", "encoder"]
    for out in (tmp_path / "new", tmp_path / "there"):
        if out.name == "there":
            out.mkdir()
            (out / "notes.txt").write_text("mine")
        given = ["--overwrite", "--output", out]
        output = call("impute", run, "digits", *arguments, *given, code=2)
        assert f"{out}: the results cannot be written there" in output
        assert "No space left on device" in output
    assert not (tmp_path / "new").exists()
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["notes.txt"]


def test_the_report_of_a_run_shows_what_it_restores(tmp_path):
    settings = ["--epochs", 3, "--latents", 4, "--hidden", 32, "--samples", 0]
    call("fit", "digits", "--output", tmp_path / "run", *settings)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for text in ("Gaussian noise of 0.3", "the lower half hidden", "a quarter of the pixels"):
        assert f'alt="Restored: {text}"' in page
    assert page.count("median filter") == 1
    assert page.count("bilinear upsampling") == 1


def test_the_report_of_a_costly_network_restores_fewer_images_and_hides_their_halves(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(restoration, "ROWS", 24)
    monkeypatch.setattr(restoration, "_affordable", lambda _: 3)
    settings = ["--epochs", 1, "--latents", 4, "--hidden", 32, "--samples", 0]
    call("fit", "digits", "--output", tmp_path / "run", *settings)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert 'alt="Restored: the lower half hidden"' in page
    assert page.count("of 3 test images, so few since each takes long") == 3


# ------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["denoise", "{data}", "digits"], "holds no run"),
        (["denoise", "{run}", "nonsense"], "DATA is nonsense"),
        (["denoise", "{run}", "digits", "--corrupt"], "--corrupt needs the noise"),
        (["denoise", "{run}", "digits", "--method", "hmc"], "needs the noise"),
        (["denoise", "{run}", "digits", "--noise", "rain:0.1"], "--noise rain:0.1: expected"),
        (["denoise", "{run}", "digits", "--noise", "masking:1.5"], "between 0 and 1"),
        (["denoise", "{run}", "digits", "--noise", "gaussian:-1"], "a positive number"),
        (["denoise", "{run}", "digits", "--noise", "gaussian:nan"], "a positive number"),
        (["impute", "{run}", "digits"], "no pixel is hidden; give either --mask or --hidden"),
        (["impute", "{run}", "digits", "--mask", "x.npy", "--hidden", "0.1"], "either --mask"),
        (["impute", "{run}", "digits", "--mask", "absent.png"], "absent.png: no such file"),
        (["impute", "{run}", "digits", "--mask", "{data}/wide.npy"], "has shape (9, 9)"),
        (["impute", "{run}", "digits", "--mask", "{data}/grey.npy"], "true and false"),
        (["impute", "{run}", "digits", "--hidden", "0"], "no value is hidden"),
        (["impute", "{run}", "{data}/wide3.npy", "--hidden", "0.5"], "fitted on (1, 8, 8)"),
        (
            ["impute", "{run}", "digits", "--hidden", "0.5", "--corrupt", "--clean", "digits"],
            "leave --clean out",
        ),
        (
            ["impute", "{run}", "digits", "--hidden", "0.5", "--clean", "{data}/eight.npy"],
            "give the same images",
        ),
        (["impute", "{run}", "digits", "--mask", "{data}/empty.npy"], "empty.npy cannot be read"),
        (["impute", "{run}", "digits", "--mask", "{data}/zip.npy"], "zip.npy cannot be read"),
        (["impute", "{run}", "digits", "--mask", "{data}/cut.png"], "cut.png cannot be read"),
        (["super-resolve", "{run}", "digits", "--factor", "3"], "does not divide"),
        (["super-resolve", "{run}", "digits"], "expected (1, 4, 4)"),
        (["super-resolve", "{run}", "{data}/wide3.npy", "--corrupt"], "expected (1, 8, 8)"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(arguments, message, run, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "wide.npy", np.ones((9, 9), bool))
    np.save(data / "grey.npy", np.full((8, 8), 0.5))
    np.save(data / "wide3.npy", np.zeros((3, 9, 9), int))
    np.save(data / "eight.npy", datasets.digits().x_test[:8])
    (data / "empty.npy").touch()
    (data / "zip.npy").write_bytes(b"PK\x03\x04")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(data / "cut.png")
    (data / "cut.png").write_bytes((data / "cut.png").read_bytes()[:50])
    monkeypatch.chdir(tmp_path)
    named = [part.format(data=data, run=run) for part in arguments]
    output = call(*named, "--output", tmp_path / "out", code=2)
    assert message in output
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if line.startswith("pyrovae: ")] == [
        output.splitlines()[-1]
    ]
    assert not (tmp_path / "out").exists()


def test_a_run_on_cells_is_refused(tmp_path):
    settings = ["--epochs", 1, "--samples", 0, "--no-report", "--latents", 2, "--hidden", 8]
    call("fit", "simulated-cells", "--output", tmp_path / "run", *settings)
    output = call("denoise", tmp_path / "run", "digits", "-o", tmp_path / "out", code=2)
    assert "was fitted on cells" in output


def test_without_the_training_data_no_baseline_needs_them(tmp_path):
    x = datasets.digits().x[:200]
    np.save(tmp_path / "mine.npy", x)
    settings = ["--epochs", 1, "--samples", 0, "--no-report", "--latents", 2, "--hidden", 8]
    call("fit", tmp_path / "mine.npy", "--output", tmp_path / "run", *settings)
    (tmp_path / "mine.npy").rename(tmp_path / "moved.npy")
    arguments = ["--hidden", 0.5, "--corrupt", "--output", tmp_path / "out"]
    printed = call("impute", tmp_path / "run", tmp_path / "moved.npy", *arguments)
    assert "note: no mean image and no PCA" in printed
    content, found = scores_of(tmp_path / "out")
    assert list(found) == ["the model", "hidden pixels black"]
    assert content["rows"] == 40  # the rows that were held out of the very same data


def test_the_names_are_public():
    assert pv.Restored is pv.tasks.Restored


# ------------------------------------------------------------------------ the report's own section
def test_a_report_restores_as_many_images_as_a_minute_takes(monkeypatch):
    monkeypatch.setattr(restoration, "ROWS", 24)  # tests take fewer
    for of_one, most in ((1.0, 24), (1.6e7, 22), (1.08e8, 3), (2e8, 2), (3.5e8, 2), (9e8, 0)):
        assert restoration._affordable(of_one) == most
    one = Rows((torch.zeros(1, 1, 8, 8),), None, ())
    assert restoration._cost(SimpleNamespace(graph=None), one) == 1


@pytest.mark.parametrize(
    ("shape", "levels", "most"),
    [
        ((1, 28, 28), 1, 24),  # binary: no sums over levels
        ((1, 8, 8), 16, 24),
        ((1, 28, 28), 255, 2),
        ((2, 28, 28), 255, 2),
        ((3, 32, 32), 255, 0),
    ],
)
def test_sums_over_many_levels_count_as_layers_do(shape, levels, most, monkeypatch):
    monkeypatch.setattr(restoration, "ROWS", 24)
    of_sums = [
        restoration._cost_of_sums(degradation, levels, shape)
        for degradation in (Pooling(2), HiddenPixels(torch.zeros(28, 28, dtype=torch.bool)))
    ]
    assert restoration._affordable(1e6 + of_sums[0]) == most
    assert of_sums[1] == 0


def test_multiplications_of_one_row_are_counted(monkeypatch):
    monkeypatch.setattr(cost, "_PER_VALUE", 0)
    x = torch.rand(3, 8)
    q = pv.posteriors.DiagonalNormal(torch.nn.Linear(8, 4))
    lines = torch.nn.Sequential(
        torch.nn.Unflatten(-1, (2, 1)),
        torch.nn.ConvTranspose1d(2, 3, 6),  # 2 * 3 * 6 at one place
        torch.nn.Conv1d(3, 1, 3, padding=1),  # 3 * 3 at each of 6 places
        torch.nn.Flatten(-2),
        torch.nn.Linear(6, 8),
    )
    for prior in (pv.priors.StandardNormal(2), pv.priors.Vamp(q, x)):
        vae = pv.VAE(prior, q, pv.likelihoods.Bernoulli(lines))
        assert cost.multiplications(vae, (x,)) == 8 * 4 + 36 + 54 + 6 * 8


def test_a_report_of_images_with_one_row_of_pixels_hides_no_half():
    flat, square = torch.zeros(2, 1, 1, 8), torch.zeros(2, 1, 8, 8)
    assert not any("lower" in title for title in restoration._degradations(flat, 1))
    assert any("lower" in title for title in restoration._degradations(square, 1))
