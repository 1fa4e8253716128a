import asyncio
import base64
import json
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from serving.cli import files
from serving.client import aio, queries
from serving.client.connect import connect
from serving.export.sampling_params import SamplingParams
from serving.export.standard_image import to_pixels
from tests import stand_ins
from tests.components.image_example_gen import pictures
from tests.serving.demo.conftest import background_demo

# Every patch is one of the 16 levels that the stand-in knows, so nothing is lost.
LEVELS = np.repeat(np.repeat([[0, 255], [51, 102]], 4, 0), 4, 1)[..., None].repeat(3, -1).astype(np.uint8)


def ask(address, path, body=None, **headers):
    """Send a request; return (status, body)."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"{address}/{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def answer(address, path, body=None):
    status, content = ask(address, path, body)
    assert status == 200, content
    return json.loads(content)


def base64_of(content):
    return base64.b64encode(content).decode()


def images(content):
    return [
        np.asarray(to_pixels(base64.b64decode(json.loads(line)["image"]))) for line in content.splitlines()
    ]


def test_the_page_comes_from_this_server_alone(demo):
    for path, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        with urllib.request.urlopen(f"{demo}/{path}", timeout=10) as page:
            assert page.headers["Content-Type"].startswith(kind)
            assert "default-src 'self'" in page.headers["Content-Security-Policy"]
            text = page.read().decode()
            assert "http://" not in text
            assert "https://" not in text


def test_models_are_described_or_say_why_they_are_not_there(demo, server, base):
    described = answer(demo, "api/models")
    found, missing = described["tokenizers"]
    assert (found["name"], found["image_size"], found["side"], found["codebook_size"]) == (
        "vit_vqgan",
        8,
        2,
        16,
    )
    assert found["neighbors"]
    assert "model must be one of classifier, vim, vit_vqgan, got 'other'" in missing["error"]
    assert described["generator"]["classes"] == list(stand_ins.CLASSES)


def test_drawn_images_come_a_line_each_as_a_client_gets_them(demo, server):
    params = SamplingParams(seed=3, temperature=0.5)
    body = {"class_ids": [0, 2, 1, 1, 0], "sampling": params.model_dump()}
    status, content = ask(demo, "api/generate", body)
    assert status == 200
    with connect(server.grpc) as client:
        expected, _ = queries.generate(client, body["class_ids"], params)
    np.testing.assert_array_equal(images(content), expected)


def test_completions_keep_the_upper_rows(demo, server):
    picture, params = files.png(LEVELS), SamplingParams(seed=1)
    body = {"image": base64_of(picture), "class_id": 1, "count": 5, "kept_rows": 1, "sampling": {"seed": 1}}
    status, content = ask(demo, "api/complete", body)
    assert status == 200
    with connect(server.grpc) as client:
        expected, _ = queries.complete(client, [picture] * 5, [1] * 5, 1, params)
    np.testing.assert_array_equal(images(content), expected)
    np.testing.assert_array_equal(expected[:, :4], np.repeat(LEVELS[None, :4], 5, 0))


def test_a_reconstruction_has_its_tokens_and_its_psnr(demo):
    asked = {"image": base64_of(files.png(LEVELS)), "tokenizer": "vit_vqgan"}
    found = answer(demo, "api/reconstruct", asked)
    assert found["tokens"] == [0, 15, 3, 6]
    assert found["seen"] == found["image"] == base64_of(files.png(LEVELS))
    assert found["psnr"] is None
    # Five levels off in every pixel: 20 log10(255 / 5) dB.
    off = np.where(LEVELS == 255, 250, LEVELS + 5).astype(np.uint8)
    found = answer(demo, "api/reconstruct", {**asked, "image": base64_of(files.png(off))})
    assert found["tokens"] == [0, 15, 3, 6]
    assert found["psnr"] == pytest.approx(20 * np.log10(255 / 5))


def test_tokens_are_decoded_and_their_neighbors_are_named(demo):
    tokens = [[0, 15, 3, 6], [6, 6, 6, 6]]
    decoded = answer(demo, "api/decode", {"tokenizer": "vit_vqgan", "tokens": tokens})["images"]
    np.testing.assert_array_equal(to_pixels(base64.b64decode(decoded[0])), LEVELS)
    assert len(decoded) == 2
    near = answer(demo, "api/neighbors", {"tokenizer": "vit_vqgan", "token": 3})
    assert near["tokens"][:4] == [2, 4, 1, 5]
    assert near["distances"][:4] == [1, 1, 2, 2]


PICTURE = base64_of(pictures.encoded())


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("generate", {"class_ids": []}, "class_ids: List should have at least 1 item"),
        ("generate", {"class_ids": [0] * 65}, "class_ids: List should have at most 64 items"),
        ("generate", {"class_ids": [True]}, "class_ids.0: Input should be a valid integer"),
        ("generate", {"class_ids": [0], "sampling": {"top_p": 0}}, "sampling.top_p: Input should be greater"),
        ("generate", {"class_ids": [0], "sampling": {"temperature": 1e999}}, "sampling.temperature: Input"),
        ("generate", {"class_ids": [0], "path": "/etc/passwd"}, "path: Extra inputs are not permitted"),
        ("generate", b"{", "body: Invalid JSON"),
        ("complete", {"image": "?", "count": 1, "kept_rows": 0}, "image: Value error, "),
        ("complete", {"image": PICTURE, "count": 65, "kept_rows": 0}, "count: Input should be less"),
        ("reconstruct", {"image": "aGk=", "tokenizer": "vit_vqgan"}, "image must be a JPEG, PNG"),
        ("reconstruct", {"image": PICTURE, "tokenizer": "../x"}, "tokenizer must be one of vit_vqgan, other"),
        ("reconstruct", {"image": PICTURE, "tokenizer": "other"}, "refused: model must be one of classifier"),
        ("decode", {"tokenizer": "vit_vqgan", "tokens": [[0, 0, 0, 16]]}, "tokens must be in [0, 16)"),
        ("decode", {"tokenizer": "vit_vqgan", "tokens": [[0], [0, 0]]}, "must have the same length"),
        ("decode", {"tokenizer": "vit_vqgan", "tokens": [[0] * 4] * 17}, "List should have at most 16"),
        ("neighbors", {"tokenizer": "vit_vqgan", "token": -1}, "token: Input should be greater"),
        ("neighbors", {"tokenizer": "vit_vqgan", "token": 16}, "token must be in [0, 16)"),
    ],
)  # fmt: skip
def test_a_bad_request_gets_one_line(demo, path, body, message):
    status, content = ask(demo, f"api/{path}", body)
    assert status == 400
    error = json.loads(content)["error"]
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("generate", {"class_ids": [0, 1, 2, 9]}, "class_id must be in [0, 3)"),
        ("complete", {"image": PICTURE, "count": 1, "kept_rows": 3}, "kept_rows must be in [0, 2]"),
    ],
)
def test_what_the_model_refuses_is_the_last_line_of_the_answer(demo, path, body, message):
    status, content = ask(demo, f"api/{path}", body)
    assert status == 200
    assert message in json.loads(content.splitlines()[-1])["error"]


def test_other_sites_cannot_ask(demo):
    body = {"class_ids": [0]}
    status, content = ask(demo, "api/generate", body, **{"Content-Type": "text/plain"})
    assert (status, b"Content-Type must be application/json" in content) == (400, True)
    for host, expected in (
        ("evil.test", 403),
        ("evil.test:8600", 403),
        ("localhost:1", 200),
        ("[::1]:1", 200),
    ):
        assert ask(demo, "api/generate", body, Host=host)[0] == expected
    # An address that was opened to other machines has names that nobody here knows.
    with background_demo(Endless, local=False) as address:
        assert ask(address, "", Host="demo.example")[0] == 200


def test_a_body_has_a_bound(demo):
    assert ask(demo, "api/generate", b" " * (33 * 2**20))[0] == 413


class Endless(aio.AsyncClient):
    """Never answers; counts the requests that it was asked and those that were cancelled."""

    def __init__(self):
        self.asked = self.cancelled = 0

    async def predict(self, model, signature, inputs):
        self.asked += 1
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def test_a_page_that_is_closed_cancels_what_it_asked_for():
    client = Endless()
    with background_demo(lambda: client) as address:
        body = json.dumps({"class_ids": [0] * 64}).encode()
        request = urllib.request.Request(
            f"{address}/api/generate", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as page:
            assert page.status == 200
            time.sleep(0.2)
            assert client.asked == aio.IN_FLIGHT
        end = time.monotonic() + 10
        while client.cancelled < client.asked and time.monotonic() < end:
            time.sleep(0.05)
        assert client.cancelled == aio.IN_FLIGHT
