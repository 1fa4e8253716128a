"""The results of every finished run of a folder, under `history/<time>/`."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

from serving.export.atomic import DRAFT, atomic_path

FOLDER = "history"
KEPT = ("metrics.json", "data.json", "samples.png", "reconstructions.png", "report")


def keep(home: Path) -> None:
    """Copy a run's report, metrics and pictures to a folder of their own, unless the last one equals them.

    The name is the local time, as `2026-11-27_16-05-09`, so that names sort by age.
    """
    for left in (home / FOLDER).glob(f"{DRAFT}*"):  # by a killed run
        shutil.rmtree(left)
    last = max((home / FOLDER).glob("[0-9]*/metrics.json"), default=None)
    if last is not None and _results(last) == _results(home / "metrics.json"):
        return
    now = datetime.datetime.now()
    while (place := home / FOLDER / now.strftime("%Y-%m-%d_%H-%M-%S")).exists():
        now += datetime.timedelta(seconds=1)
    with atomic_path(place) as draft:
        for name in KEPT:
            if (home / name).is_dir():
                shutil.copytree(home / name, Path(draft, name))
            elif (home / name).exists():
                Path(draft).mkdir(parents=True, exist_ok=True)
                shutil.copy2(home / name, draft)


def _results(metrics: Path) -> dict[str, Any]:
    """The metrics without what also differs between two runs of the same, or was added to one later."""
    try:
        return {
            name: own
            for name, own in json.loads(metrics.read_text()).items()
            if name not in ("components", "sweep")
        }
    except ValueError:  # damaged
        return {}
