import json

import pyarrow as pa
import pytest

from components.image_example_gen.images import Image
from components.image_example_gen.sources import SourceError, open_source, source_version
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images

PNG = pictures.encoded()


def save(folder, labels, files=1):
    """Write what `datasets.Dataset.save_to_disk` does: Arrow streams, `state.json`, `dataset_info.json`."""
    folder.mkdir(parents=True)
    names = [f"data-{index:05d}-of-{files:05d}.arrow" for index in range(files)]
    for index, name in enumerate(names):
        own = labels[index::files]
        made = pa.table({"image": [{"bytes": PNG, "path": None} for _ in own], "label": own})
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made)
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def test_splits_of_a_dataset_dict_are_read(tmp_path):
    save(tmp_path / "train", [0, 1, 1], files=2)
    save(tmp_path / "test", [1])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    source = open_source(f"huggingface:{tmp_path}")
    assert source.class_names == ("cat", "dog")

    def check(images):
        assert images == [
            Image("test/data-00000-of-00001.arrow/0", 1, "dog", "eval", content=PNG),
            Image("train/data-00000-of-00002.arrow/0", 0, "cat", "train", content=PNG),
            Image("train/data-00000-of-00002.arrow/1", 1, "dog", "train", content=PNG),
            Image("train/data-00001-of-00002.arrow/0", 1, "dog", "train", content=PNG),
        ]

    assert_images(source, check)


def test_a_single_dataset_is_split_by_hash(tmp_path):
    save(tmp_path / "set", [0, 1])
    source = open_source(f"huggingface:{tmp_path / 'set'}")
    assert [(image.split, image.class_name) for image in source.scan()] == [(None, "cat"), (None, "dog")]


def test_state_may_not_name_files_outside_of_the_folder(tmp_path):
    save(tmp_path / "elsewhere", [0])
    save(tmp_path / "set", [1])
    outside = {"_data_files": [{"filename": "../elsewhere/data-00000-of-00001.arrow"}]}
    (tmp_path / "set" / "state.json").write_text(json.dumps(outside))
    (image,) = open_source(f"huggingface:{tmp_path / 'set'}").scan()
    assert image.class_name == "dog"


def test_other_folders_are_source_error(tmp_path):
    with pytest.raises(SourceError, match="must be a folder of save_to_disk, got one without Arrow files"):
        open_source(f"huggingface:{tmp_path}")
    save(tmp_path / "set", [0])
    (tmp_path / "set" / "data-00000-of-00001.arrow").write_bytes(b"<html>404</html>")
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(f"huggingface:{tmp_path / 'set'}")


def test_version_changes_with_the_files(tmp_path):
    save(tmp_path / "one", [0])
    save(tmp_path / "two", [0, 1])
    assert source_version(f"huggingface:{tmp_path / 'one'}") != source_version(
        f"huggingface:{tmp_path / 'two'}"
    )
