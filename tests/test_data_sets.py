"""Loaders: what they return, and that what they cannot read is named in one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyrovae.data import Kind, datasets


def write_images(folder, n=4, size=(6, 5), mode="L", seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
    return folder


def test_images_of_1_bit_are_zeros_and_ones_and_white_among_others(tmp_path):
    folder = write_images(tmp_path / "bits", mode="1")
    bits = datasets.image_folder(folder)
    assert (bits.kind, set(np.unique(bits.x))) == (Kind.BINARY, {0, 1})
    Image.open(folder / "0.png").convert("L").save(folder / "0.png")
    mixed = datasets.image_folder(folder)
    assert mixed.kind is Kind.LEVELS
    assert np.array_equal(mixed.x, 255 * bits.x)


def test_digits_are_counts_split_by_class_and_always_alike():
    data, again = datasets.digits(), datasets.digits()
    assert data.x.shape == (1437, 1, 8, 8)
    assert data.x_test.shape == (360, 1, 8, 8)
    assert (data.kind, data.total_count, data.x.min(), data.x.max()) == (Kind.COUNTS, 16, 0, 16)
    assert np.bincount(data.labels_test).min() >= 34
    assert np.array_equal(data.x_test, again.x_test)
    rows = {row.tobytes() for row in data.x}
    assert not any(row.tobytes() in rows for row in data.x_test)


@pytest.mark.parametrize(
    ("loader", "first"), [(datasets.mnist, "0"), (datasets.fashion_mnist, "T-shirt/top")]
)
def test_torchvision_sets(loader, first, shared_data, monkeypatch):
    monkeypatch.setenv("PYROVAE_DATA", str(shared_data))
    data = loader()
    assert data.x.shape == (60_000, 1, 28, 28)
    assert data.x_test.shape == (10_000, 1, 28, 28)
    assert (data.x.min(), data.x.max(), data.kind) == (0, 1, Kind.UNIT)
    assert (data.label_names[0], len(data.label_names), len(data.labels_test)) == (
        first,
        10,
        10_000,
    )


def test_absent_torchvision_set_names_folder_and_remedies(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def offline(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", offline)
    with pytest.raises(FileNotFoundError, match=r"MNIST/raw.*no network.*--data-dir.*PYROVAE_DATA"):
        datasets.mnist(tmp_path)


@pytest.mark.parametrize(
    "error", [RuntimeError("operator torchvision::nms does not exist"), ImportError("no module")]
)
def test_unimportable_torchvision_says_to_install_both_from_one_index(error, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise error

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ImportError, match=r"(?s)cannot be imported.*CPU-only torch.*same index"):
        datasets.mnist("anywhere")


@pytest.mark.parametrize(
    ("x", "shape", "kind"),
    [
        (np.eye(3), (3,), Kind.BINARY),
        (np.eye(3, dtype=bool), (3,), Kind.BINARY),
        (np.arange(12).reshape(4, 3), (3,), Kind.COUNTS),
        (np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 2, 3), (1, 2, 3), Kind.LEVELS),
        (np.arange(24, dtype=np.uint16).reshape(1, 4, 6) * 100, (1, 4, 6), Kind.COUNTS),
        (np.linspace(0, 1, 48).reshape(2, 3, 2, 4), (3, 2, 4), Kind.UNIT),
        (np.linspace(0, 1, 60).reshape(2, 5, 2, 3), (3, 5, 2), Kind.UNIT),
        (np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3), (3,), Kind.REAL),
        (-np.arange(6).reshape(2, 3), (3,), Kind.REAL),
    ],
)
def test_array_shapes_and_kinds(x, shape, kind, tmp_path):
    np.save(tmp_path / "a.npy", x)
    data = datasets.array(tmp_path / "a.npy")
    assert (data.name, data.shape, data.kind, data.x_test, data.labels) == (
        "a",
        shape,
        kind,
        None,
        None,
    )
    assert data.x.dtype in (np.float32, np.uint8, np.int64)


def test_likelihoods_follow_the_kind_and_what_is_known(tmp_path):
    def fitting(data):
        return [str(likelihood) for likelihood in data.likelihoods]

    known = ["Binomial(total_count=16)", "Categorical(levels=17)", "Poisson", "Gaussian"]
    assert fitting(datasets.digits()) == known
    np.save(tmp_path / "a.npy", np.arange(12).reshape(4, 3))
    seen = ["Poisson", "Binomial(total_count=11)", "Categorical(levels=12)", "Gaussian"]
    assert fitting(datasets.array(tmp_path / "a.npy")) == seen
    for kind, first in {
        Kind.BINARY: "Bernoulli",
        Kind.UNIT: "ContinuousBernoulli",
        Kind.LEVELS: "DiscretizedLogistic",
        Kind.REAL: "Gaussian",
    }.items():
        assert str(kind.likelihoods(3)[0]) == first


def test_npz_with_labels_and_test_part(tmp_path):
    parts = {
        "x": np.eye(4),
        "labels": ["b", "a", "b", "a"],
        "x_test": np.zeros((2, 4)),
        "labels_test": ["c", "a"],
    }
    np.savez(tmp_path / "a.npz", **parts)
    data = datasets.array(tmp_path / "a.npz")
    assert data.label_names == ("a", "b", "c")
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.labels_test.tolist() == [2, 0]
    assert data.test_rows == 2


@pytest.mark.parametrize(
    "arrays",
    [
        {"x_train": np.eye(4), "y_train": np.arange(4)},
        {"arr_0": np.eye(4), "arr_1": np.eye(3)},
        {"packed": np.packbits(np.eye(4, dtype=bool), axis=1), "shape": np.array([4, 4])},
        {"x_test": np.eye(4), "labels_test": np.arange(4)},
        {"labels": np.arange(4)},
    ],
)
def test_npz_of_several_arrays_without_x_is_refused_and_listed(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match="none is named x") as caught:
        datasets.array(tmp_path / "a.npz")
    for name, array in arrays.items():
        assert f"{name} with shape {array.shape}" in str(caught.value)


def claims(path, shape, dtype="<f8"):
    """Write an .npy file whose header claims a shape that its few bytes do not have."""
    with path.open("wb") as file:
        fields = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, fields)
        file.write(bytes(64))


@pytest.mark.parametrize("shape", [(10**12, 10), (10**6, 10**6), (2**62, 2), (5, 5)])
def test_a_header_that_claims_more_than_the_file_holds_is_named(shape, tmp_path):
    claims(tmp_path / "a.npy", shape)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read as numbers"):
        datasets.array(tmp_path / "a.npy")


def test_damaged_archives_are_named(tmp_path):
    """zipfile, zlib and Python's tokenizer raise errors of their own."""
    np.savez_compressed(tmp_path / "good.npz", x=np.random.default_rng(0).random((20, 20)))
    good, refused = (tmp_path / "good.npz").read_bytes(), 0
    for at in range(0, len(good), 97):
        path = tmp_path / "a.npz"
        path.write_bytes(good[:at] + bytes(b ^ 0xA5 for b in good[at : at + 9]) + good[at + 9 :])
        try:
            datasets.array(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("value", [1e30, 1e300, -1e25])
def test_a_value_whose_square_overflows_is_named_by_its_place(value, tmp_path):
    x = np.ones((6, 3))
    x[4, 1] = value
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(ValueError, match=r"a\.npy, x: the value at \(4, 1\)"):
        datasets.array(tmp_path / "a.npy")


def test_a_decompression_bomb_is_named(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((60, 60), dtype=np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 29)  # an error from twice as many
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image .*bomb"):
        datasets.image_folder(tmp_path)


def test_npz_without_x_gives_its_only_array(tmp_path):
    np.savez(tmp_path / "a.npz", pictures=np.eye(4))
    assert datasets.array(tmp_path / "a.npz").shape == (4,)


def nan_at(*index):
    x = np.ones((3, 2))
    x[index] = np.nan
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (nan_at(1, 0), r"value at \(1, 0\) is nan, and 1 of 6 are not finite"),
        (np.full((2, 2), 1e300), r"value at \(0, 0\) is 1e\+300"),
        (np.zeros((0, 3)), r"empty.*\(0, 3\)"),
        (np.zeros(3), r"expected shape \(N, D\).*got \(3,\)"),
        (np.zeros((1, 1, 1, 1, 1)), "expected shape"),
        (np.array([["a"]]), "expected real numbers, got dtype <U1"),
        (np.array([[1j]]), "expected real numbers"),
    ],
)
def test_bad_arrays_are_refused(x, message, tmp_path):
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(ValueError, match=message):
        datasets.array(tmp_path / "a.npy")


def test_pickles_are_never_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}]]), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([[{}]]))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(ValueError, match="without Python objects"):
            datasets.array(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"), [("a.npy", b"not numpy"), ("a.npz", b"PK\x03\x04 broken"), ("a.npy", b"")]
)
def test_foreign_and_truncated_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"a.np. cannot be read as numbers"):
        datasets.array(tmp_path / name)


def test_truncated_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((50, 50)))
    whole = (tmp_path / "a.npz").read_bytes()
    for cut in (len(whole) // 2, len(whole) - 10):
        (tmp_path / "a.npz").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="cannot be read"):
            datasets.array(tmp_path / "a.npz")


def test_archives_that_do_not_fit_together(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path)
    with pytest.raises(ValueError, match="holds no array"):
        datasets.array(path)
    np.savez(path, x=np.eye(3), labels=[1, 2])
    with pytest.raises(
        ValueError, match=r"labels: expected one label per row, shape \(3,\), got \(2,\)"
    ):
        datasets.array(path)
    np.savez(path, x=np.eye(3), x_test=np.eye(2))
    with pytest.raises(ValueError, match=r"x has rows of shape \(3,\), x_test of \(2,\)"):
        datasets.array(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.array(tmp_path / "absent.npy")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_folder_of_images(mode, channels, tmp_path):
    data = datasets.image_folder(write_images(tmp_path / "pictures", mode=mode))
    assert (data.name, data.x.shape, data.x.dtype) == ("pictures", (4, channels, 5, 6), np.uint8)
    assert (data.kind, data.labels) == (Kind.LEVELS, None)


def test_pixels_and_classes_of_a_folder(tmp_path):
    for name in ("cat", "ant"):
        write_images(tmp_path / name, n=2)
    (tmp_path / "notes.txt").write_text("no image")
    data = datasets.image_folder(tmp_path)
    assert (data.label_names, data.labels.tolist()) == (("ant", "cat"), [0, 0, 1, 1])
    assert np.array_equal(data.x[2, 0], np.asarray(Image.open(tmp_path / "cat" / "0.png")))


def test_an_image_is_turned_as_its_camera_says(tmp_path):
    pixels = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen turned by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    turned, upright = datasets.image_folder(tmp_path).x
    assert np.array_equal(turned, upright)


def test_odd_images_are_named(tmp_path):
    write_images(tmp_path)
    Image.new("L", (7, 5)).save(tmp_path / "odd.png")
    with pytest.raises(
        ValueError, match=r"odd.png is 7 x 5 with 1 channels, while 0.png is 6 x 5 with 1"
    ):
        datasets.image_folder(tmp_path)
    Image.new("RGB", (6, 5)).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match=r"odd.png is 6 x 5 with 3 channels"):
        datasets.image_folder(tmp_path)
    Image.new("I;16", (6, 5)).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match=r"odd.png has whole numbers of 16 bits or more, while 0"):
        datasets.image_folder(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    Image.new("LAB", (6, 5)).save(tmp_path / "odd.tif")
    with pytest.raises(ValueError, match=r"odd.tif: expected grey values or colours, got mode LAB"):
        datasets.image_folder(tmp_path)


def test_unreadable_images_are_named(tmp_path):
    write_images(tmp_path, size=(64, 64))
    whole = (tmp_path / "2.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"no png", b""):
        (tmp_path / "2.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"2.png cannot be read as an image"):
            datasets.image_folder(tmp_path)


def test_folders_without_a_plan_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        datasets.image_folder(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no image"):
        datasets.image_folder(tmp_path)
    (tmp_path / "matrix.mtx.gz").touch()
    with pytest.raises(ValueError, match=r"holds no image.*read_10x_mtx\(folder\).write_h5ad"):
        datasets.image_folder(tmp_path)
    write_images(tmp_path, n=1)
    write_images(tmp_path / "class", n=1)
    with pytest.raises(ValueError, match=r"0.png lies beside the sub-folders"):
        datasets.image_folder(tmp_path)


def test_hold_out_moves_rows_with_their_labels(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(10)[:, None] * 30, labels=np.arange(10))
    data = datasets.array(Path(tmp_path / "a.npz")).hold_out(np.array([2, 5]))
    assert data.x_test[:, 0].tolist() == [60, 150]
    assert data.labels_test.tolist() == [2, 5]
    assert len(data.x) == len(data.labels) == 8


def test_values_that_are_not_known_are_read_where_they_are_allowed(tmp_path):
    x = np.array([[1.0, np.nan, 0.0], [0.0, 1.0, 1.0]])
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match="is nan"):
        datasets.array(tmp_path / "x.npy")
    read = datasets.array(tmp_path / "x.npy", missing=True)
    assert np.array_equal(read.x, x, equal_nan=True)
    assert read.kind is datasets.Kind.BINARY
    np.save(tmp_path / "x.npy", np.where(np.isnan(x), np.inf, x))
    with pytest.raises(ValueError, match="is inf"):
        datasets.array(tmp_path / "x.npy", missing=True)
