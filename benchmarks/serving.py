"""Rates of the embedded server under load: `python -m benchmarks.serving runs/digits`.

The server runs in a process of its own, with batching and without; clients are threads here. Rates are rows a
second. The bare rate is that of one client who sends a whole batch, and of the signature without a server.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.export.metadata import Metadata
from serving.export.sampling_params import SamplingParams
from serving.export.versions import push, versions

BATCH = 64
CLIENTS = (1, 8, 32, 64)

Arrays = Mapping[str, np.ndarray]


class Work:
    """A signature, and requests of so many rows for it."""

    def __init__(self, run: Path, model: str, signature: str):
        self.model = model
        self.signature = signature
        self._path = next(iter(versions(str(run / "serving" / model)).values()))
        metadata = Metadata.read(self._path)
        if metadata is None:
            raise click.ClickException(f"{self._path} must hold a model of this project")
        self._classes = max(len(metadata.class_names), 1)
        noise = np.random.default_rng(0).integers(
            0, 256, [BATCH, metadata.image_size, metadata.image_size, 3]
        )
        self._images = [tf.io.encode_png(image.astype(np.uint8)).numpy() for image in noise]

    def inputs(self, rows: int, first: int = 0) -> Arrays:
        """Inputs of rows that differ with `first`."""
        numbers = first + np.arange(rows)
        if self.signature == "metadata":
            return {"rows": numbers.astype(np.int32)}
        if self.signature == "generate":
            return SamplingParams().inputs(numbers % self._classes, numbers)
        return {"image_bytes": np.array([self._images[number % BATCH] for number in numbers], object)}

    def bare(self) -> Callable[[Arrays], Any]:
        """The signature in this process."""
        loaded = tf.saved_model.load(self._path)

        def call(inputs: Arrays) -> Any:
            outputs = loaded.signatures[self.signature](**{k: tf.constant(v) for k, v in inputs.items()})
            return {name: value.numpy() for name, value in outputs.items()}

        return call

    def asked(self, address: str) -> Callable[[Arrays], Any]:
        """The signature behind a server."""
        stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))

        def call(inputs: Arrays) -> Any:
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = self.model, self.signature
            for name, values in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
            return stub.Predict(request, timeout=120)

        return call


@contextlib.contextmanager
def served(run: Path, *options: str) -> Iterator[str]:
    """Serve a run in another process; the address for gRPC."""
    command = [sys.executable, "-m", "tfx_pipeline.cli", "serve", "--run", str(run), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--rest-api-port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if process.stdout is None:
            raise click.ClickException("the server has no output")
        line = process.stdout.readline()
        yield next(word for word in line.split() if word.startswith("grpc://")).removeprefix("grpc://")
    finally:
        process.terminate()
        process.wait()


def rate(
    call: Callable[[Arrays], Any], work: Work, clients: int, rows: int, seconds: float
) -> tuple[float, int]:
    """Rows a second that so many clients get answered, and how many requests failed."""
    done = [0] * clients
    failed = [0] * clients
    ends = threading.Event()

    def client(index: int) -> None:
        number = index
        while not ends.is_set():
            inputs = work.inputs(rows, first=number * rows)
            number += clients
            try:
                call(inputs)
                done[index] += rows
            except grpc.RpcError:
                failed[index] += 1

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    ends.set()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - begin), sum(failed)


def overhead(asked: Callable[[Arrays], Any], bare: Callable[[Arrays], Any], work: Work, repeats: int) -> str:
    """What a server adds to a request of one row, in ms: median and 99th percentile, interleaved."""
    taken: dict[Callable[[Arrays], Any], list[float]] = {asked: [], bare: []}
    for number in range(repeats):
        inputs = work.inputs(1, first=number)
        for call, times in taken.items():
            begin = time.perf_counter()
            call(inputs)
            times.append(1000 * (time.perf_counter() - begin))
    differences = [one - other for one, other in zip(taken[asked], taken[bare], strict=True)]
    return f"{statistics.median(differences):.1f} ({np.percentile(differences, 99):.1f})"


def swapping(work: Work, run: Path, seconds: float) -> str:
    """The latency of requests while a new version is loaded every few seconds, and while none is, in ms."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(run / "serving" / work.model, home / "serving" / work.model)
        with served(home, "--file-system-poll-wait-seconds", "0.2") as address:
            asked = work.asked(address)
            asked(work.inputs(1))
            quiet = _latencies(asked, work, seconds)
            pushed = threading.Timer(0, _push_often, (str(home / "serving" / work.model), seconds))
            pushed.start()
            busy = _latencies(asked, work, seconds)
            pushed.join()
    described = ", ".join(
        f"{name} {np.percentile(times, 50):.1f} ({np.percentile(times, 99):.1f})"
        for name, times in (("quiet", quiet), ("in swaps", busy))
    )
    return f"{described}, ratio of p99 {np.percentile(busy, 99) / np.percentile(quiet, 99):.1f}"


def _latencies(asked: Callable[[Arrays], Any], work: Work, seconds: float) -> list[float]:
    """Milliseconds of the requests of four clients who ask for a row one after the other."""
    times: list[float] = []
    ends = time.monotonic() + seconds

    def client(number: int) -> None:
        while time.monotonic() < ends:
            inputs = work.inputs(1, first=number)
            begin = time.perf_counter()
            asked(inputs)
            times.append(1000 * (time.perf_counter() - begin))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def _push_often(base: str, seconds: float) -> None:
    """Push a copy of the newest version every five seconds."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        push(next(iter(versions(base).values())), base)
        time.sleep(5)


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seconds", default=10.0, show_default=True, help="Of each measurement.")
def main(run: Path, seconds: float) -> None:
    """Measure a run's served models under load."""
    table = Table("signature", "what", *[f"{clients} clients" for clients in CLIENTS], "refused")
    notes = []
    # The last one does nothing: what messages of one row cost, on both sides.
    for work in (
        Work(run, "vim", "generate"),
        Work(run, "vit_vqgan", "encode"),
        Work(run, "vit_vqgan", "metadata"),
    ):
        bare = work.bare()
        for rows in (1, BATCH):
            bare(work.inputs(rows))
        alone, _ = rate(bare, work, 1, BATCH, seconds)
        for title, options in (("batches", ()), ("no batches", ("--no-enable-batching",))):
            with served(run, *options) as address:
                asked = work.asked(address)
                for rows in (1, BATCH):
                    asked(work.inputs(rows))
                rates = [rate(asked, work, clients, 1, seconds) for clients in CLIENTS]
                table.add_row(
                    work.signature,
                    title,
                    *[f"{rows:.0f}" for rows, _ in rates],
                    str(sum(failed for _, failed in rates)),
                )
                if not options:
                    whole, _ = rate(asked, work, 1, BATCH, seconds)
                    added = overhead(asked, bare, work, 100)
                    notes.append(
                        f"{work.signature}: one client with {BATCH} rows {whole:.0f}, bare {alone:.0f}; "
                        f"one row costs {added} ms more than bare, median (p99)"
                    )
        notes.append(
            f"{work.signature}: one row of 4 clients, median (p99) in ms: {swapping(work, run, seconds)}"
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note)


if __name__ == "__main__":
    main()
