import io
import zipfile

import numpy as np
import PIL.Image
import pytest

from components.evaluators.image_sets import ImageSet, ImageSetError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    for index, image in enumerate(IMAGES):
        place = tmp_path / "images" / f"{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(place / f"{index}.png")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def archive(path, array):
    np.savez(path, array)
    return str(path)


def test_a_folder_is_read_in_the_order_of_its_names(folder):
    found = ImageSet(str(folder))
    batches = list(found.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), IMAGES[[0, 2, 4, 1, 3]])
    assert found.count == 5


def test_an_archive_holds_the_same_as_a_folder_in_its_order(folder, tmp_path):
    path = archive(tmp_path / "set.npz", IMAGES[[0, 2, 4, 1, 3]])
    sets = [ImageSet(path), ImageSet(str(folder))]
    read = [np.concatenate(list(one.batches(3))) for one in sets]
    np.testing.assert_array_equal(*read)
    assert sets[0].fingerprint == sets[1].fingerprint


def test_the_fingerprint_changes_with_a_pixel(tmp_path):
    changed = IMAGES.copy()
    changed[4, 0, 0, 0] ^= 1
    sets = [ImageSet(archive(tmp_path / f"{n}.npz", one)) for n, one in enumerate((IMAGES, changed))]
    for one in sets:
        list(one.batches(2))
    assert sets[0].fingerprint != sets[1].fingerprint


def test_images_are_cropped_and_resized_if_a_size_is_given(folder):
    PIL.Image.new("RGB", (20, 10), (255, 0, 0)).save(folder / "0" / "9.png")
    (batch,) = ImageSet(str(folder), image_size=4).batches(10)
    assert batch.shape == (6, 4, 4, 3)
    assert (batch[3] == (255, 0, 0)).all()


def test_other_sizes_are_refused_even_in_another_batch(folder):
    PIL.Image.new("RGB", (20, 10)).save(folder / "1" / "9.png")
    with pytest.raises(
        ImageSetError, match="must have one size, or --image-size must be given, got 8 x 6 and 20 x 10"
    ):
        list(ImageSet(str(folder)).batches(1))


def truncated(path):
    buffer = io.BytesIO()
    np.save(buffer, IMAGES)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("arr_0.npy", buffer.getvalue()[:-10])
    return str(path)


def without(path):
    np.savez(path, other=IMAGES)
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: archive(path, IMAGES.astype(np.float32)), r"must be uint8 \[N, H, W, 3\], got float32"),
        (
            lambda path: archive(path, IMAGES[..., :1]),
            r"must be uint8 \[N, H, W, 3\], got uint8 \[5, 6, 8, 1\]",
        ),
        (lambda path: archive(path, IMAGES[:0]), "must have an image, got none"),
        (truncated, "must have 5 images, and ends before"),
        (without, "must have the array arr_0, got other.npy"),
        (str, "a set must be a folder of images or an .npz with arr_0"),
    ],
)
def test_what_is_no_set_is_one_line(tmp_path, make, message):
    with pytest.raises(ImageSetError, match=message):
        list(ImageSet(make(tmp_path / "set.npz")).batches(2))


def test_a_broken_file_is_named(folder):
    (folder / "1" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageSetError, match=r"broken\.png must be a"):
        list(ImageSet(str(folder)).batches(2))
