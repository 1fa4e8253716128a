"""The most memory that this process has held since some moment, as Linux counts it."""

from __future__ import annotations

import re
from pathlib import Path

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> bool:
    """Forget the peak so far; False where the system has no such counter."""
    try:
        # "5" resets the peak alone (proc(5)).
        _REFERENCES.write_text("5")
    except OSError:
        return False
    return True


def peak() -> int:
    """The peak since the last reset, in bytes: resident pages of this process, not of Beam's workers."""
    return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)[1])  # type: ignore[index]
