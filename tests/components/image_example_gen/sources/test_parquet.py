import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.image_example_gen.images import Image
from components.image_example_gen.source_kinds import SourceOptions
from components.image_example_gen.sources import SourceError, open_source, source_version
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images

PNG = pictures.encoded()
HUB = {
    "info": {
        "features": {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    }
}


def table(labels, *, image="image", label="label", hub=False):
    columns = {image: [{"bytes": PNG, "path": None} for _ in labels], label: labels}
    made = pa.table(columns)
    return made.replace_schema_metadata({"huggingface": json.dumps(HUB)}) if hub else made


def test_files_of_the_hub_have_class_names_and_splits(tmp_path):
    pq.write_table(table([1, -1], hub=True), tmp_path / "train-00000-of-00001.parquet")
    pq.write_table(table([0], hub=True), tmp_path / "test-00000-of-00001.parquet")
    source = open_source(f"parquet:{tmp_path}/*.parquet")
    assert source.class_names == ("cat", "dog")

    def check(images):
        assert images == [
            Image("test-00000-of-00001.parquet/0", 0, "cat", "eval", content=PNG),
            Image("train-00000-of-00001.parquet/0", 1, "dog", "train", content=PNG),
            Image("train-00000-of-00001.parquet/1", None, "", "train", content=PNG),
        ]

    assert_images(source, check)


def test_text_labels_are_class_names_of_all_files(tmp_path):
    pq.write_table(table(["dog", "dog"]), tmp_path / "a.parquet")
    pq.write_table(table(["cat", None]), tmp_path / "b.parquet")
    source = open_source(f"parquet:{tmp_path}/*.parquet")
    assert source.class_names == ("cat", "dog")
    assert [(image.label, image.split) for image in source.scan()] == [
        (1, None),
        (1, None),
        (0, None),
        (None, None),
    ]


def test_plain_bytes_and_chosen_columns_are_read(tmp_path):
    pq.write_table(pa.table({"photo": [PNG], "kind": [5], "label": [1]}), tmp_path / "a.parquet")
    chosen = SourceOptions(image_feature="photo", label_feature="kind")
    (image,) = open_source(f"parquet:{tmp_path}/a.parquet", chosen).scan()
    assert (image.content, image.label, image.class_name) == (PNG, 5, "5")
    unlabelled = SourceOptions(image_feature="photo", label_feature="")
    (image,) = open_source(f"parquet:{tmp_path}/a.parquet", unlabelled).scan()
    assert image.label is None


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (table([0], image="photo"), {}, "data.image_feature must be one of photo, got 'image'"),
        (pa.table({"text": ["a"]}), {}, "of which there is none, got 'image'"),
        (table([0]), {"label_feature": "species"}, "data.label_feature must be one of label, got 'species'"),
        (table([1.5]), {}, "data.label_feature must be one of , got 'label'"),
        (table([2], hub=True), {}, "label must be -1 to 1, got 2"),
        (table([1_000_000]), {}, "label must be -1 to 999999, got 1000000"),
        (table([-7]), {}, "label must be -1 to 999999, got -7"),
        (
            pa.table({"image": [{"bytes": None, "path": "/etc/passwd"}]}),
            {},
            "must hold the bytes of its image",
        ),
    ],
)
def test_faulty_table_is_source_error(tmp_path, made, options, message):
    pq.write_table(made, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=message):
        list(open_source(f"parquet:{tmp_path}/a.parquet", SourceOptions(**options)).scan())


def test_other_bytes_are_source_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"<html>404</html>")
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(SourceError, match="must match a file, got none"):
        open_source(f"parquet:{tmp_path}/none")


def test_version_changes_with_files_and_columns(tmp_path):
    pq.write_table(table([0]), tmp_path / "a.parquet")
    versions = [source_version(f"parquet:{tmp_path}/a.parquet")]
    versions.append(source_version(f"parquet:{tmp_path}/a.parquet", SourceOptions(label_feature="")))
    pq.write_table(table([0, 1]), tmp_path / "a.parquet")
    versions.append(source_version(f"parquet:{tmp_path}/a.parquet"))
    assert len(set(versions)) == 3


def test_folders_name_splits_and_keep_keys_apart(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / split).mkdir()
        pq.write_table(table([0]), tmp_path / split / "0000.parquet")
    found = list(open_source(f"parquet:{tmp_path}/*/*.parquet").scan())
    assert found[0] == ("test/0000.parquet", "is another held-out split")
    assert [(image.key, image.split) for image in found[1:]] == [
        ("train/0000.parquet/0", "train"),
        ("validation/0000.parquet/0", "eval"),
    ]


@pytest.mark.parametrize("names", [("train-0", "extra-0"), ("train-0", "test-0", "extra-0"), ("val-0", "x")])
def test_files_of_which_only_some_name_a_split_are_refused(tmp_path, names):
    for name in names:
        pq.write_table(table([0]), tmp_path / f"{name}.parquet")
    with pytest.raises(SourceError, match=r"must match files of train and one of val, .*, or of no split"):
        open_source(f"parquet:{tmp_path}/*.parquet")


def test_files_of_a_single_split_are_split_by_hash(tmp_path):
    for name in ("set-train-0", "set-train-1"):
        pq.write_table(table([0]), tmp_path / f"{name}.parquet")
    assert {image.split for image in open_source(f"parquet:{tmp_path}/*.parquet").scan()} == {None}


@pytest.mark.parametrize("other", [pa.table({"image": [PNG]}), table(["cat"])])
def test_files_of_other_columns_are_source_error(tmp_path, other):
    pq.write_table(table([0]), tmp_path / "a.parquet")
    pq.write_table(other, tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"b\.parquet must have image, label as other files do"):
        open_source(f"parquet:{tmp_path}/*.parquet")


def test_label_of_another_name_is_not_passed_over(tmp_path):
    pq.write_table(table([0], label="fine_label"), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match='label_feature must be one of fine_label or "" for none'):
        open_source(f"parquet:{tmp_path}/a.parquet")
