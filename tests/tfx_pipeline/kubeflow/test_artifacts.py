"""Artifacts survive the way from one executor through Kubeflow to another."""

import json

import pytest
from tfx.types import standard_artifacts

from tests.kubeflow import launcher
from tfx_pipeline.kubeflow import artifacts


def examples():
    made = standard_artifacts.Examples()
    made.uri = "/minio/b/examples"
    made.split_names = json.dumps(["train", "eval"])
    made.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    made.set_int_custom_property("count", 2)
    made.set_float_custom_property("mean", 0.5)
    made.set_json_value_custom_property("parts", [1, "two"])
    made.set_json_value_custom_property("both", {"a": {"b": 1}})
    return made


@pytest.mark.parametrize("store", [True, False])
def test_properties_reach_the_next_executor(store):
    sent = json.loads(json.dumps(artifacts.metadata(examples())))
    if store:
        sent = {key: launcher.through_metadata_store(value) for key, value in sent.items()}
        sent |= {"display_name": "examples", "store_session_info": "{}"}
    received = artifacts.from_kubeflow({"uri": "minio://b/examples", "metadata": sent}, "tfx.Examples")
    assert isinstance(received, standard_artifacts.Examples)
    assert received.uri == "/minio/b/examples"
    assert received.split_names == '["train", "eval"]'
    assert received.get_int_custom_property("count") == 2
    assert received.get_float_custom_property("mean") == 0.5
    assert received.get_json_value_custom_property("parts") == [1, "two"]
    assert received.get_json_value_custom_property("both") == {"a": {"b": 1}}
    assert artifacts.metadata(received) == artifacts.metadata(examples())


def test_a_whole_double_is_an_integer_again():
    received = artifacts.from_kubeflow(
        {"uri": "/x", "metadata": {"blessed": 1.0, "span": 3.0}}, "tfx.Examples"
    )
    assert received.get_int_custom_property("blessed") == 1
    assert received.span == 3


def test_a_type_of_ones_own_is_found_by_its_path():
    received = artifacts.from_kubeflow({"uri": "/x"}, "tfx.types.standard_artifacts.Model")
    assert isinstance(received, standard_artifacts.Model)
    assert artifacts.metadata(received) == {}
