import subprocess
import sys
from pathlib import Path

import pytest

from tfx_pipeline import code
from tfx_pipeline.code import reached_from

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write modules of a project of its own: name -> source; they are read, never imported."""
    monkeypatch.setattr(code, "PACKAGES", ("invented",))
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**sources: str) -> None:
        code._read.cache_clear()
        code._path.cache_clear()
        folder = tmp_path / "invented"
        folder.mkdir(exist_ok=True)
        for name, source in {"__init__": "", **sources}.items():
            (folder / f"{name}.py").write_text(source)

    yield write
    code._read.cache_clear()
    code._path.cache_clear()
    sys.modules.pop("invented", None)


def files(*modules: str) -> list[str]:
    return list(reached_from(*modules).files)


def test_imports_are_followed_also_in_functions_and_by_name(project):
    project(
        start="import numpy\nfrom invented import one\nNAME = 'invented.three:Thing'\n",
        one="def late():\n    import invented.two as other\n",
        two="from invented.one import late\n",
        three="",
        four="",
    )
    assert files("invented.start") == [
        f"invented/{name}.py" for name in ("__init__", "one", "start", "three", "two")
    ]


def test_code_counts_and_comments_and_docstrings_do_not(project):
    plain = 'def f(x):\n    """Say."""\n    return x + 1\n'
    project(start="from invented import one\n", one=plain)
    before = reached_from("invented.start")
    project(start="# why\nfrom invented import one\n", one=plain.replace("Say.", "Say it.  # now"))
    assert reached_from("invented.start") == before
    project(start="from invented import one\n", one=plain.replace("+ 1", "+ 2"))
    after = reached_from("invented.start")
    assert after.fingerprint != before.fingerprint
    assert after.changes_since(before) == "code changed: invented/one.py"


def test_versions_count(project):
    project(start="")
    before = reached_from("invented.start")
    after = code.Code(before.files, {**before.versions, "keras": "9.9"})
    assert after.fingerprint != before.fingerprint
    assert after.changes_since(before) == "code changed: keras 9.9"
    assert before.changes_since(before) == ""


def test_libraries_count_where_they_are_imported(project):
    project(start="def f():\n    from PIL import Image\n", other="import numpy\n")
    assert set(reached_from("invented.start").versions) == {"python", "tensorflow", "keras", "tfx", "PIL"}
    assert set(reached_from("invented.other").versions) == {"python", "tensorflow", "keras", "tfx", "numpy"}


def test_checkpoints_outlive_an_update_of_what_reads_images(project):
    project(start="import PIL\n")
    before = reached_from("invented.start")
    after = code.Code(before.files, {**before.versions, "PIL": "99.0"})
    assert after.fingerprint != before.fingerprint
    assert after.training == before.training
    assert code.Code(before.files, {**before.versions, "keras": "9"}).training != before.training


def test_long_texts_are_no_files(project):
    project(start=f"TEXT = {'a.b' * 2000!r}\n")
    assert files("invented.start") == ["invented/__init__.py", "invented/start.py"]


@pytest.mark.slow
def test_modules_are_imported_before_they_run():
    program = (
        "import sys; from tfx_pipeline.code import reached_from;"
        "found = reached_from('trainers.classifier.trainer'); found.import_modules();"
        "names = (name[:-3].replace('/', '.').removesuffix('.__init__') for name in found.files);"
        "print(all(name in sys.modules for name in names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "True\n"


def test_templates_beside_a_module_count(project, tmp_path):
    project(start="TEMPLATE = 'page.html'\n")
    (tmp_path / "invented" / "page.html").write_text('{% include "part.html" %}')
    for name in ("part.html", "other.html", "notes.txt"):
        (tmp_path / "invented" / name).write_text("")
    assert files("invented.start") == [
        f"invented/{n}" for n in ("__init__.py", "page.html", "part.html", "start.py")
    ]


@pytest.mark.parametrize(
    ("module", "reached", "not_reached"),
    [
        ("trainers.vit_vqgan.trainer", "trainers/vit_vqgan/losses.py", "trainers/vim/model.py"),
        ("trainers.vim.trainer", "serving/export/generator.py", "trainers/vit_vqgan/losses.py"),
        (
            "components.evaluators.generation.executor",
            "components/metrics/registry.py",
            "serving/cli/commands.py",
        ),
        (
            "components.image_example_gen.executor",
            "components/image_example_gen/sources/folder.py",
            "trainers/transformer.py",
        ),
        ("components.run_report.executor", "components/run_report/charts.html", "trainers/transformer.py"),
        (
            "components.run_report.executor",
            "components/run_report/page.css",
            "components/run_report/pages.css",
        ),
        ("components.token_transform.executor", "components/tfrecords.py", "components/metrics/registry.py"),
    ],
)
def test_components_depend_on_what_they_run(module, reached, not_reached):
    assert reached in files(module)
    assert not_reached not in files(module)


def test_library_code_is_known_by_its_version():
    found = reached_from("tfx.components.statistics_gen.executor")
    assert not found.files
    assert {"tensorflow", "keras", "tfx"} <= found.versions.keys()
