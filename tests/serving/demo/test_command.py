"""The command, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

from serving.demo.command import demo as command
from serving.server import ports

COMMAND = [sys.executable, "-m", "tfx_pipeline.cli", "demo", "--port", "0"]


@pytest.mark.slow
def test_a_run_is_shown_with_a_server_of_its_own_and_both_end(base, tmp_path):
    (tmp_path / "serving").symlink_to(base)
    with subprocess.Popen([*COMMAND, "--run", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{address}/api/models", timeout=60) as answer:
            models = json.load(answer)
        assert [one["name"] for one in models["tokenizers"]] == ["vit_vqgan"]
        assert models["generator"]["preset"] == "stand-in"
        children = _children(process.pid)
        assert len(children) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert not [child for child in children if os.path.exists(f"/proc/{child}")]


@pytest.mark.slow
def test_a_server_is_shown(server):
    with subprocess.Popen(
        [*COMMAND, "--endpoint", server.http], stdout=subprocess.PIPE, text=True
    ) as process:
        address = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{address}/api/models", timeout=60) as answer:
            assert json.load(answer)["generator"]["preset"] == "stand-in"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_other_machines_and_used_ports_are_refused_before_anything_is_loaded(base, tmp_path):
    def said(*arguments):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code != 0
        return result.output

    (tmp_path / "serving").symlink_to(base)
    run = ("--run", str(tmp_path))
    assert "--insecure lets everybody in" in said(*run, "--host", "0.0.0.0")
    with ports.socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in said(*run, "--port", port)
    assert "--run or --endpoint must be given, got both" in said(*run, "--endpoint", "grpc://a:1")
    assert "no model" in said("--run", str(tmp_path / "other"), "--port", "0")
    assert "endpoint must be grpc://" in said("--endpoint", "ftp://a", "--port", "0")
