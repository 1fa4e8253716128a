"""Start and follow runs on a stand-in for the Pipelines API, with kfp's own client (REST, v2beta1)."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest
from click.testing import CliRunner

from tests.tfx_pipeline.kubeflow.test_compiler import compile_pipeline, whole_graph
from tfx_pipeline.cli import cli
from tfx_pipeline.kubeflow import submit

pytestmark = pytest.mark.slow


class Api(BaseHTTPRequestHandler):
    """One experiment and one run, whose states are those in `server.states`, one a question."""

    def log_message(self, *args):
        pass

    def reply(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.tokens.append(self.headers.get("Authorization", ""))
        path = urlparse(self.path).path
        if path.endswith("/healthz"):
            self.reply({"multi_user": False})
        elif path.endswith("/experiments"):
            self.reply({"experiments": []})
        elif path.endswith("/runs/run-1"):
            state, tasks = self.server.states.pop(0)
            if isinstance(state, int):
                self.reply({"message": "try again"}, state)
                return
            details = [
                {
                    "display_name": name,
                    "state": how,
                    "start_time": "2026-11-29T06:00:00Z",
                    "end_time": "2026-11-29T06:01:30Z",
                }
                for name, how in tasks.items()
            ]
            self.reply({"run_id": "run-1", "state": state, "run_details": {"task_details": details}})
        else:
            self.reply({"error": f"not found {path}"}, 404)

    def do_POST(self):
        self.server.tokens.append(self.headers.get("Authorization", ""))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/apis/v2beta1/experiments"):
            self.server.experiments.append(body)
            self.reply({"experiment_id": "experiment-1", "display_name": body["display_name"]})
        elif self.server.refusal:
            self.reply(self.server.refusal, 400)
        else:
            self.server.runs.append(body)
            self.reply({"run_id": "run-1", "experiment_id": "experiment-1"})


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.experiments, server.runs, server.tokens, server.states, server.refusal = [], [], [], [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(whole_graph("platform.every={memory: 4Gi, labels: {team: a}}"), path)
    return path


def call(*arguments):
    return CliRunner().invoke(cli, ["submit", *map(str, arguments)])


def test_a_run_is_started_in_its_experiment_with_parameters_and_its_link_is_printed(api, compiled):
    given = ["--parameter", "seed=7", "--parameter", "run_folder=s3://bucket/a=b", "--experiment", "photos"]
    done = call(compiled, "--host", api.url, "--name", "first", *given)
    assert done.exit_code == 0, done.output
    assert done.output == f"{api.url}/#/runs/details/run-1\n"
    (experiment,), (run,) = api.experiments, api.runs
    assert experiment["display_name"] == "photos"
    assert run["display_name"] == "first"
    assert run["runtime_config"]["parameters"] == {"seed": 7, "run_folder": "s3://bucket/a=b"}
    specification = run["pipeline_spec"].get("pipeline_spec", run["pipeline_spec"])
    assert len(specification["root"]["dag"]["tasks"]) == 20


def test_each_task_is_said_once_when_it_has_ended(api, compiled):
    drivers = {"root-driver": "SUCCEEDED", "Trainer-vim-driver": "SUCCEEDED"}
    first = {"ImageExampleGen": "SKIPPED", "Trainer-vim": "RUNNING", **drivers}
    api.states = [
        ("PENDING", {}),
        ("RUNNING", first),
        (503, {}),  # the cluster is busy
        ("RUNNING", {**first, "Trainer-vim": "SUCCEEDED"}),
        ("SUCCEEDED", {**first, "Trainer-vim": "SUCCEEDED", "RunReport": "SUCCEEDED"}),
    ]
    done = call(compiled, "--host", api.url, "--wait")
    assert done.exit_code == 0, done.output
    assert [line.split() for line in done.output.splitlines()[1:]] == [
        ["cached", "ImageExampleGen", "90", "s"],
        ["done", "Trainer-vim", "90", "s"],
        ["done", "RunReport", "90", "s"],
    ]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_run_that_does_not_succeed_ends_with_1(api, compiled, state):
    api.states = [(state, {"Trainer-vim": "FAILED"})]
    done = call(compiled, "--host", api.url, "--wait")
    assert done.exit_code == 1
    assert "FAILED    Trainer-vim" in done.output
    assert f"the run must succeed, got {state}: {api.url}/#/runs/details/run-1" in done.output


def test_a_token_is_sent_and_never_printed(api, compiled, tmp_path):
    (tmp_path / "token").write_text("very-secret\n")
    api.refusal = {"error": "InvalidInputError: no such parameter", "code": 3}
    done = call(compiled, "--host", api.url, "--token-file", tmp_path / "token")
    assert done.exit_code == 1
    assert f"{api.url} must accept the run, got 400 Bad Request: InvalidInputError" in done.output
    assert any("very-secret" in token for token in api.tokens)
    assert "very-secret" not in done.output


def test_a_cluster_that_stops_answering_is_given_up(api, compiled):
    api.states = [(503, {})] * 100
    done = call(compiled, "--host", api.url, "--wait")
    assert done.exit_code == 1
    assert "runs/details/run-1 must answer, got" in done.output
    assert len(api.states) == 100 - submit.PATIENCE


def test_an_expired_token_ends_the_wait_at_once_with_the_reason(api, compiled):
    api.states = [("RUNNING", {}), (401, {}), ("SUCCEEDED", {})]
    done = call(compiled, "--host", api.url, "--wait")
    assert done.exit_code == 1
    assert "must answer, got 401 Unauthorized: try again" in done.output
    assert len(api.states) == 1


@pytest.mark.parametrize("body", [{"code": 16, "message": "log in"}, {}, ["?"]])
def test_a_refusal_of_any_form_is_one_line(api, compiled, body):
    api.refusal = body or {"details": []}
    done = call(compiled, "--host", api.url)
    assert done.exit_code == 1
    assert "must accept the run, got 400 Bad Request" in done.output
    assert ("log in" in done.output) == ("message" in body)


def test_no_cluster_is_one_line(compiled):
    done = call(compiled, "--host", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert "host must be a Kubeflow Pipelines API, got http://127.0.0.1:1" in done.output
    assert "\n" not in done.output.strip()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            "seeds=1",
            "must be one of dataset_version, run_folder, seed, serving_folder with =VALUE, got 'seeds=1'",
        ),
        ("seed", "got 'seed'"),
        ("seed=1.5", "--parameter seed must be an integer below 2**31, got '1.5'"),
        ("seed=2147483648", "--parameter seed must be an integer below 2**31"),
        ("run_folder=gs://BUCKET/x", "--parameter run_folder must be gs://BUCKET/FOLDER"),
    ],
)
def test_wrong_parameters_are_one_line_before_anything_is_sent(api, compiled, given, complaint):
    done = call(compiled, "--host", api.url, "--parameter", given)
    assert done.exit_code == 1
    assert complaint in done.output
    assert api.tokens == []


def test_a_file_that_was_not_compiled_is_one_line(api, tmp_path):
    (tmp_path / "other.yaml").write_text("a: 1")
    done = call(tmp_path / "other.yaml", "--host", api.url)
    assert "must be a file that `tfx-vim compile` wrote" in done.output
    assert api.tokens == []


def test_a_token_file_that_is_not_there_is_one_line_that_names_the_option(api, compiled, tmp_path):
    done = call(compiled, "--host", api.url, "--token-file", tmp_path / "none")
    assert done.exit_code == 2
    assert "'--token-file'" in done.output
    assert api.tokens == []
