"""TensorFlow's start-up lines are left out, and nothing else is."""

import subprocess
import sys

FAKE = """
import os
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
os.write(2, b"I0000 00:00:1795974179.007056   14983 port.cc:153] oneDNN custom operations are on.\\n")
os.write(2, b"E0000 00:00:1795974179.007056   14983 file.cc:1] an error\\n")
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


def run(folder, more=""):
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text(FAKE.format(more=more))
    program = f"import sys; sys.path.insert(0, {str(folder)!r})\n{PROGRAM}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


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
