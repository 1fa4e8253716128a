import pytest

from components.image_example_gen.images import Image
from components.image_example_gen.source_kinds import SourceOptions
from components.image_example_gen.sources import SourceError, open_source, source_version
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images


def write(folder, text, *files, encoding="utf-8"):
    for name in files:
        pictures.write(folder / name)
    (folder / "table.csv").write_bytes(text.encode(encoding))
    return f"csv:{folder / 'table.csv'}"


def test_paths_labels_and_splits_are_read(tmp_path):
    rows = 'path,label,split,note\n1.png,dog,train,x\n"a, b.png",cat,Test,y\n2.png,cat,train,\n'
    source = open_source(write(tmp_path, rows, "1.png", "a, b.png", "2.png"))
    assert source.class_names == ("cat", "dog")
    assert source.notes == ("image is the column path, label label",)

    def check(images):
        assert images == [
            Image("1.png", 1, "dog", "train", path=f"{tmp_path}/1.png"),
            Image("2.png", 0, "cat", "train", path=f"{tmp_path}/2.png"),
            Image("a, b.png", 0, "cat", "eval", path=f"{tmp_path}/a, b.png"),
        ]

    assert_images(source, check)


def test_numbers_are_ordered_by_value_and_absolute_paths_are_read(tmp_path):
    rows = f"filename,class\r\n{tmp_path}/1.png,10\r\n2.png,9\r\n"
    source = open_source(write(tmp_path, rows, "1.png", "2.png", encoding="utf-8-sig"))
    assert source.class_names == ("9", "10")
    assert {image.path: image.label for image in source.scan()} == {
        f"{tmp_path}/1.png": 1,
        f"{tmp_path}/2.png": 0,
    }


def test_configuration_chooses_columns(tmp_path):
    name = write(tmp_path, "a,b,label\n1.png,x,0\n2.png,y,0\n", "1.png", "2.png")
    chosen = open_source(name, SourceOptions(image_feature="a", label_feature="b"))
    assert chosen.class_names == ("x", "y")
    assert open_source(name, SourceOptions(image_feature="a")).class_names == ()  # a single class is none
    with pytest.raises(SourceError, match=r"data\.label_feature must be one of a, b, label, got 'c'"):
        open_source(name, SourceOptions(image_feature="a", label_feature="c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "must have a header and a row"),
        ("file_path,label\n1.png,0\n", "data.image_feature must be one of file_path, label"),
        ("path, Label\n1.png,0\n", 'data.label_feature must be one of Label or "" for none'),
        ("path,label,label\n1.png,0,1\n", "must name each column once, got path, label, label"),
        ("path,label\n1.png\n", "must have 2 values in every row, got another number in row 1"),
        ("path,label\n1.png,0,7\n", "must have 2 values in every row, got another number in row 1"),
        ("path,label\n1.png,0\n2.png,\n", "must have a label in every row or in none, got some"),
        ("path,split\n1.png,train\n2.png,fold1\n", "in the column split, got fold1, train"),
    ],
)
def test_faulty_table_is_source_error(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        open_source(write(tmp_path, text))


def test_other_bytes_are_source_error(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"caf\xe9")
    with pytest.raises(SourceError, match=r"table\.csv must be a CSV file in UTF-8"):
        open_source(f"csv:{tmp_path / 'table.csv'}")


def test_version_changes_with_labels_and_files(tmp_path):
    name = write(tmp_path, "path,label\n1.png,0\n2.png,1\n", "1.png", "2.png")
    versions = [source_version(name)]
    write(tmp_path, "path,label\n1.png,1\n2.png,0\n")
    versions.append(source_version(name))
    pictures.write(tmp_path / "2.png", 7)
    versions.append(source_version(name))
    assert len(set(versions)) == 3


def test_spaces_behind_commas_minus_1_and_further_splits_are_understood(tmp_path):
    rows = "path, label, split\n1.png, cat, train\n2.png, dog, val\n3.png, -1, train\n4.png, cat, test\n"
    source = open_source(write(tmp_path, rows, "1.png", "2.png", "3.png", "4.png"))
    assert source.class_names == ("cat", "dog")
    aside, *images = source.scan()
    assert aside == ("4.png", "is of another split")
    assert [image.label for image in images] == [0, 1, None]


def test_missing_file_is_left_to_be_broken(tmp_path):
    source = open_source(write(tmp_path, "path,label\n1.png,0\ngone.png,1\n", "1.png"))
    assert source.version()
    assert len(list(source.scan())) == 2
