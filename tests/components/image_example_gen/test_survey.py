import io
import os
import shutil
import time
import tracemalloc
from dataclasses import replace

import PIL.Image
import pytest

from components.image_example_gen.source_kinds import Reading, SourceOptions
from components.image_example_gen.summary import lines, sheet
from components.image_example_gen.survey import survey
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.test_tfds import prepare


def read(folder, **options):
    reading = {name: options.pop(name) for name in ("allow", "max_broken", "shares") if name in options}
    return survey(Reading(f"folder:{folder}", **reading), **options)[0]


@pytest.fixture
def photos(tmp_path):
    for split, levels in (("train", (10, 20, 30)), ("val", (40, 50))):
        for level in levels:
            for name, brightness in (("cat", level), ("dog", level + 100)):
                pictures.write(tmp_path / split / name / f"{level}.jpg", brightness, "JPEG")
    return tmp_path


def test_survey_counts_what_a_run_would_read(photos):
    pictures.write(photos / "val" / "cat" / "large.png", 7)
    (photos / "val" / "dog" / "large.png").write_bytes(pictures.encoded(9, size=(300, 100)))
    (photos / "train" / "cat" / "notes.txt").touch()
    found = read(photos)
    assert found.classes == ("cat", "dog")
    assert found.splits == {"train": 6, "eval": 6}
    assert found.unlabelled == 0
    assert found.sizes == {"min": [12, 8], "median": [12, 8], "max": [300, 100]}
    assert (found.formats, found.modes) == ({"JPEG": 10, "PNG": 2}, {"RGB": 12})
    assert found.to_json()["left_aside"] == [
        {"file": "train/cat/notes.txt", "reason": "has the suffix .txt, which no known image format has"}
    ]
    assert (found.broken, found.duplicates, found.problems) == ([], [], [])
    assert (found.headers, found.complete) == (12, True)
    text = list(lines(found))
    assert "classes     2: cat, dog" in text
    assert "images      6 train, 6 eval" in text
    assert "sizes       min 12 x 8, median 12 x 8, max 300 x 100" in text


def test_same_bytes_in_both_splits_are_duplicates(photos):
    shutil.copy(photos / "train" / "cat" / "10.jpg", photos / "val" / "dog" / "copy.jpg")
    shutil.copy(photos / "train" / "cat" / "10.jpg", photos / "train" / "dog" / "within.jpg")
    # The same size and start, and another end.
    content = (photos / "train" / "cat" / "20.jpg").read_bytes()
    for split, end in (("train", b"1"), ("val", b"2")):
        (photos / split / "cat" / "long.jpg").write_bytes(content + bytes(9000) + end)
    assert read(photos).duplicates == [
        {"train": ["train/cat/10.jpg", "train/dog/within.jpg"], "eval": ["val/dog/copy.jpg"]}
    ]


def test_broken_files_are_found_by_header_and_others_only_when_verified(photos):
    (photos / "train" / "cat" / "page.jpg").write_bytes(b"<html>404</html>")
    (photos / "train" / "cat" / "gone.jpg").symlink_to("/nowhere")
    (photos / "train" / "dog" / "half.jpg").write_bytes(pictures.encoded(9, "JPEG", (200, 200))[:-500])
    found = read(photos)
    assert [one.file for one in found.broken] == ["train/cat/gone.jpg", "train/cat/page.jpg"]
    assert found.broken[0].reason == "cannot be read: no such file or directory"
    assert found.broken[1].reason.startswith("must be a JPEG, ")
    verified = read(photos, verify=True)
    assert [one.file for one in verified.broken][-1] == "train/dog/half.jpg"
    (problem,) = verified.problems
    assert problem.startswith("broken images must be at most 0.0%, got 3 of 13")
    assert read(photos, verify=True, max_broken=0.5).problems == []


def test_animations_are_counted(tmp_path):
    one, other = (PIL.Image.open(io.BytesIO(pictures.encoded(level))) for level in (10, 200))
    one.save(tmp_path / "a.gif", save_all=True, append_images=[other])
    pictures.write(tmp_path / "b.png")
    found = read(tmp_path)
    assert found.animated == 1
    assert "animated    1, of which the first frame is used" in list(lines(found))


def test_problems_are_what_a_run_refuses_and_can_be_allowed(photos):
    pictures.write(photos / "val" / "fox" / "1.jpg", 3, "JPEG")
    (problem,) = read(photos).problems
    assert problem == (
        "every class must have an image in the split train, got none of fox; "
        "data.allow=[eval_only_classes] lets it pass"
    )
    assert read(photos, allow=("eval_only_classes",)).problems == []
    assert f"problem     {problem}" in list(lines(read(photos)))


def test_empty_split_is_a_problem(tmp_path):
    pictures.write(tmp_path / "photos" / "only.png")
    (problem,) = read(tmp_path / "photos").problems
    assert problem.startswith("split ")
    assert "must have an image, got" in problem


def test_source_that_cannot_be_read_has_that_as_its_problem(tmp_path):
    found = read(tmp_path / "gone")
    assert found.problems == [f"folder:{tmp_path / 'gone'} must be a folder, got a missing path"]
    assert list(lines(found))[1:] == [f"problem     {found.problems[0]}"]


def test_headers_are_limited_and_files_still_counted(photos):
    found = read(photos, most_headers=3)
    assert (found.headers, found.splits, found.complete) == (3, {"train": 6, "eval": 4}, True)
    assert any("(of 3 images)" in line for line in lines(found))


def test_images_inside_files_are_not_read_beyond_the_limit():
    found, _ = survey(Reading("digits"), most_headers=3)
    assert (found.headers, found.complete, found.problems) == (3, False, [])
    assert "classes     10: 0, 1, 2, 3, 4, 5, 6, 7, ..." in list(lines(found))
    nameless = replace(found, classes=())
    assert "classes     known when all images are read" in list(lines(nameless))


def test_prepared_and_pending_tfds_differ(tmp_path):
    prepare(tmp_path, {"train": [0, 1, 2], "test": [1]})
    found, _ = survey(Reading("tfds:shapes", SourceOptions(str(tmp_path))))
    assert (found.splits, found.problems) == ({"train": 3, "eval": 1}, [])
    pending, _ = survey(Reading("tfds:mnist:3.0.1", SourceOptions(str(tmp_path))))
    assert (pending.headers, pending.complete, pending.problems) == (0, False, [])
    assert pending.notes[-1] == "the run downloads it; nothing was read yet"


def test_sheet_shows_the_images_as_a_model_sees_them(photos):
    _, samples = survey(Reading(f"folder:{photos}"))
    assert {name: len(images) for name, images in samples.items()} == {"cat": 5, "dog": 5}
    assert sheet(samples, 8, "#ffffff").size[0] > 5 * 8
    with pytest.raises(ValueError, match="must have an image to show"):
        sheet({}, 8, "#ffffff")


def test_sheet_passes_over_images_that_cannot_be_decoded(photos):
    half = pictures.encoded(9, "JPEG", (200, 200))[:-500]
    (photos / "train" / "cat" / "half.jpg").write_bytes(half)
    _, samples = survey(Reading(f"folder:{photos}"))
    assert "train/cat/half.jpg" in [image.key for image in samples["cat"]]
    assert sheet(samples, 8, "#ffffff").size[0] > 5 * 8


def test_faults_that_no_library_documents_are_one_line(photos, monkeypatch):
    def fault(*_):
        raise KeyError("odd")

    monkeypatch.setattr("components.image_example_gen.sources.folder.Folder.scan", fault)
    assert read(photos).problems == [f"folder:{photos} cannot be read: 'odd'"]


def test_class_folder_without_images_leaves_no_two_classes(tmp_path):
    for index in range(20):
        pictures.write(tmp_path / "cat" / f"{index}.png")
    (tmp_path / "dog").mkdir()
    found = read(tmp_path)
    assert (found.classes, found.unlabelled) == ((), 20)
    assert found.notes == ("the only class cat is no class: images are unlabelled",)


def test_memory_grows_by_some_bytes_an_image(tmp_path):
    pictures.write(tmp_path / "0.png")
    for index in range(1, 4000):
        os.link(tmp_path / "0.png", tmp_path / f"{index}.png")

    def peak(headers):
        tracemalloc.start()
        survey(Reading(f"folder:{tmp_path}", shares={"train": 1, "eval": 10**9}), most_headers=headers)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)  # what is loaded once
    assert peak(4000) - peak(400) < 3600 * 100


def test_headers_are_read_at_a_thousand_a_second(tmp_path):
    for index in range(1000):
        pictures.write(tmp_path / f"{index}.jpg", index % 250, "JPEG")
    started = time.process_time()
    assert read(tmp_path).headers == 1000
    assert time.process_time() - started < 1.0
