"""TensorFlow's start-up lines are left out, and nothing else is."""

import os
import subprocess
import sys

FAKE = """
import contextlib, os
for line in (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    b"I0000 00:00:1795974179.007056   14983 port.cc:153] oneDNN custom operations are on.",
    b"E0000 00:00:1795974179.007056   14983 file.cc:1] an error",
):
    with contextlib.suppress(OSError):  # native code does not mind a closed descriptor
        os.write(2, line + b"\\n")
{more}
"""
PROGRAM = """
import sys
from tfx_pipeline import native_log
native_log.quiet_import()
print("before", file=sys.stderr)
import tensorflow
print("after", file=sys.stderr)
assert not any("native_log" in type(finder).__module__ for finder in sys.meta_path)
"""


def run(folder, more="", **options):
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text(FAKE.format(more=more))
    program = f"import sys; sys.path.insert(0, {str(folder)!r})\n{PROGRAM}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_lines_of_information_are_left_out_and_errors_stay(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    before, error, after = done.stderr.splitlines()
    assert (before, after) == ("before", "after")
    assert error.endswith("file.cc:1] an error")


def test_an_import_that_fails_says_why(tmp_path):
    done = run(tmp_path, more="raise RuntimeError('no such instruction')")
    assert done.returncode == 1
    assert "file.cc:1] an error" in done.stderr
    assert "RuntimeError: no such instruction" in done.stderr


def test_what_native_code_says_before_it_aborts_is_seen(tmp_path):
    done = run(tmp_path, more="os.write(2, b'F0000 no AVX'); os.abort()")
    assert done.returncode == -6
    assert "F0000 no AVX" in done.stderr


def test_it_is_imported_without_standard_error_and_without_grep(tmp_path):
    (tmp_path / "closed").mkdir()
    assert run(tmp_path / "closed", preexec_fn=lambda: os.close(2)).returncode == 0
    (tmp_path / "bare").mkdir()
    done = run(tmp_path / "bare", env={"PATH": str(tmp_path)})
    assert done.returncode == 0
    assert "oneDNN" in done.stderr
