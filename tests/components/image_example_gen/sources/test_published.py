"""Read tiny stand-ins in the layouts of published data sets (docs/data.md)."""

import io
import tarfile

import pytest

from components.image_example_gen.source_kinds import SourceOptions
from components.image_example_gen.sources import SourceError, open_source, source_version
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images

# The first, a middle and the last synset of ImageNet -> its label among all 1,000.
SYNSETS = {"n01440764": 0, "n02123045": 281, "n15075141": 999}


def jpeg(brightness):
    return pictures.encoded(brightness, "JPEG")


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(mode="w", fileobj=buffer) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_imagenet_is_read_from_its_two_archives(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    synsets = {
        f"{synset}.tar": archive({f"{synset}_{index}.JPEG": jpeg(10 * index) for index in range(2)})
        for synset in SYNSETS
    }
    (manual / "ILSVRC2012_img_train.tar").write_bytes(archive(synsets))
    held_out = {f"ILSVRC2012_val_{index:08d}.JPEG": jpeg(100 + index) for index in (1, 2)}
    (manual / "ILSVRC2012_img_val.tar").write_bytes(archive(held_out))

    def check(images):
        train = [image for image in images if image.split == "train"]
        assert sorted((image.class_name, image.label) for image in train) == sorted([*SYNSETS.items()] * 2)
        rest = [image for image in images if image.split == "eval"]
        assert {image.content for image in rest} == set(held_out.values())
        # TFDS ships the true labels of the validation images: the first is a sea snake.
        assert {image.class_name for image in rest} == {"n01751748", "n09193705"}

    assert source_version("tfds:imagenet2012", SourceOptions(str(tmp_path))).startswith("imagenet2012/5.")
    assert_images(open_source("tfds:imagenet2012", SourceOptions(str(tmp_path))), check)


def test_imagenet_without_archives_is_one_line_error(tmp_path):
    with pytest.raises(SourceError, match=r"^tfds:imagenet2012 cannot be downloaded: .*manual") as caught:
        open_source("tfds:imagenet2012", SourceOptions(str(tmp_path))).images()
    assert "\n" not in str(caught.value)


def test_imagenet_is_read_from_class_folders(tmp_path):
    for synset in SYNSETS:
        pictures.write(tmp_path / "train" / synset / f"{synset}_10026.JPEG", encoding="JPEG")
        pictures.write(tmp_path / "val" / synset / "ILSVRC2012_val_00000293.JPEG", encoding="JPEG")

    def check(images):
        found = [(image.split, image.class_name, image.label) for image in images]
        assert found == [
            (split, synset, label)
            for split in ("train", "eval")
            for label, synset in enumerate(sorted(SYNSETS))
        ]

    assert_images(open_source(f"folder:{tmp_path}"), check)


def faces(folder, names, lists):
    for name in names:
        pictures.write(folder / name)
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines))

    def check(images):
        assert {image.label for image in images} == {None}
        assert [(image.key, image.split) for image in images] == [
            (names[0], "train"),
            (names[1], "eval"),
            (names[2], "train"),
        ]

    assert_images(open_source(f"folder:{folder}"), check)


def test_ffhq_is_split_by_lists_of_file_names(tmp_path):
    names = ["00000.png", "00001.png", "69999.png"]
    faces(tmp_path, names, {"train.txt": ["69999.png", "00000.png"], "validation.txt": ["00001.png"]})


def test_celeba_hq_pngs_are_split_by_lists_of_npy_names(tmp_path):
    names = ["imgHQ00000.png", "imgHQ00001.png", "imgHQ29999.png"]
    lists = {"train.txt": ["imgHQ00000.npy", "imgHQ29999.npy"], "validation.txt": ["imgHQ00001.npy"]}
    faces(tmp_path, names, lists)
