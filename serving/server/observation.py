"""What is told of requests: a line of JSON each, and Prometheus' metrics under TF Serving's names.

Names, labels and buckets are those of TF Serving (servables/tensorflow/util.cc), which counts microseconds;
what it has not is under `:tfx_vim:`. Names that clients made up are no labels: their number has no end.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import datetime
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TextIO

import grpc
from aiohttp import web

from serving.wire.errors import RequestError

# Microseconds: 10 times powers of 1.8, as TF Serving, to about 20 minutes.
_BUCKETS = [10 * 1.8**power for power in range(33)]
_ROW_BUCKETS = [float(2**power) for power in range(9)]
# Characters of an error or of a signature's name in a line of the log.
_LONGEST = 200

Labels = tuple[tuple[str, str], ...]


@dataclass
class Seen:
    """What is known of a request so far.

    Attributes:
      entrypoint: "GRPC" or "REST".
      method: as TF Serving names it: Predict, GetModelMetadata, GetModelStatus, ...
      model: its name, if there is such a model; "" otherwise.
      version: that answers.
      signature: that was asked.
      rows: of the inputs.
      queue_seconds: until the model began; None if it did not.
      run_seconds: in the model, with all rows of its batch.
    """

    entrypoint: str
    method: str
    model: str = ""
    version: int | None = None
    signature: str = ""
    rows: int = 0
    queue_seconds: float | None = None
    run_seconds: float | None = None


class Observer:
    """Counts requests, and writes a line for each.

    Args:
      log: where lines go; None for nowhere.
    """

    def __init__(self, log: TextIO | None = None):
        self._log = log
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Labels, int]] = defaultdict(lambda: defaultdict(int))
        self._histograms: dict[str, dict[Labels, _Histogram]] = defaultdict(dict)
        self._gauges: dict[str, float] = {}

    @contextlib.contextmanager
    def observe(self, entrypoint: str, method: str) -> Iterator[Seen]:
        """Observe a request until the context ends; its status is OK unless an error leaves it."""
        seen, start = Seen(entrypoint, method), time.monotonic()
        try:
            yield seen
        except BaseException as error:
            self._finished(seen, time.monotonic() - start, *_status_of(error))
            raise
        self._finished(seen, time.monotonic() - start, grpc.StatusCode.OK.name, "")

    def batch(self, rows: int) -> None:
        """Count a call of a model."""
        with self._lock:
            self._histogram(":tfx_vim:serving:batch_rows", (), _ROW_BUCKETS).add(rows)

    def waiting(self, rows: int) -> None:
        """Note how many rows wait."""
        self._gauges[":tfx_vim:serving:waiting_rows"] = rows

    def exposition(self) -> str:
        """All metrics in Prometheus' text format."""
        with self._lock:
            lines = []
            for name, counts in sorted(self._counts.items()):
                lines.append(f"# TYPE {name} counter")
                lines += [f"{name}{_shown(labels)} {count}" for labels, count in sorted(counts.items())]
            for name, histograms in sorted(self._histograms.items()):
                lines.append(f"# TYPE {name} histogram")
                for labels, histogram in sorted(histograms.items()):
                    lines += histogram.lines(name, labels)
            for name, value in sorted(self._gauges.items()):
                lines += [f"# TYPE {name} gauge", f"{name} {value:g}"]
        return "\n".join([*lines, ""])

    def _finished(self, seen: Seen, seconds: float, status: str, error: str) -> None:
        name = ("model_name", seen.model)
        with self._lock:
            self._counts[":tensorflow:serving:request_count"][name, ("status", status)] += 1
            api = ("API", seen.method)
            self._add(
                ":tensorflow:serving:request_latency", (name, api, ("entrypoint", seen.entrypoint)), seconds
            )
            if seen.run_seconds is not None and seen.queue_seconds is not None:
                labels = (name, api, ("runtime", "TF2"))
                self._add(":tensorflow:serving:runtime_latency", labels, seen.run_seconds)
                self._add(":tfx_vim:serving:queue_latency", (name,), seen.queue_seconds)
        if self._log:
            self._write(seen, seconds, status, error)

    def _add(self, name: str, labels: Labels, seconds: float) -> None:
        self._histogram(name, labels, _BUCKETS).add(1e6 * seconds)

    def _histogram(self, name: str, labels: Labels, bounds: list[float]) -> _Histogram:
        return self._histograms[name].setdefault(labels, _Histogram(bounds))

    def _write(self, seen: Seen, seconds: float, status: str, error: str) -> None:
        line = {
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
            "entrypoint": seen.entrypoint,
            "method": seen.method,
            "model": seen.model,
            "version": seen.version,
            "signature": seen.signature[:_LONGEST],
            "rows": seen.rows,
            "seconds": round(seconds, 6),
            "queue_seconds": None if seen.queue_seconds is None else round(seen.queue_seconds, 6),
            "run_seconds": None if seen.run_seconds is None else round(seen.run_seconds, 6),
            "status": status,
            **({"error": error[:_LONGEST]} if error else {}),
        }
        # What cannot be written must not fail a request that was answered.
        with contextlib.suppress(OSError, ValueError):
            print(json.dumps(line), file=self._log, flush=True)


class _Histogram:
    """Counts of values up to each bound, and their sum."""

    def __init__(self, bounds: list[float]):
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        total = 0
        for bound, count in zip([*self._bounds, float("inf")], self._counts, strict=True):
            total += count
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f"{name}_bucket{_shown((*labels, ('le', shown)))} {total}"
        yield f"{name}_sum{_shown(labels)} {self._sum:.10g}"
        yield f"{name}_count{_shown(labels)} {total}"


# Of REST's own errors, the status that gRPC has for them.
_HTTP: Mapping[int, grpc.StatusCode] = {
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def _status_of(error: BaseException) -> tuple[str, str]:
    """The name of a gRPC status and the message of an error that ends a request."""
    if isinstance(error, RequestError):
        return error.code.name, error.message
    if isinstance(error, web.HTTPException):
        return _HTTP.get(error.status, grpc.StatusCode.INVALID_ARGUMENT).name, error.reason
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED.name, ""
    return grpc.StatusCode.INTERNAL.name, type(error).__name__


def _shown(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
