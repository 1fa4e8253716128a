import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tfx import types
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils

from components.example_validator.component import ExampleValidator
from components.example_validator.executor import AnomalyError, Executor

TRAIN = {"image/label": [0, 1, 0], "image/class": [b"cat", b"dog", b"cat"], "image/key": [b"a", b"b", b"c"]}


def validate(tmp_path, held_out):
    """Validate held-out columns against the schema of `TRAIN`, as the pipeline does."""
    statistics = standard_artifacts.ExampleStatistics()
    statistics.uri, statistics.split_names = str(tmp_path / "statistics"), '["train", "eval"]'
    for split, columns in (("train", TRAIN), ("eval", held_out)):
        own = tfdv.generate_statistics_from_dataframe(pd.DataFrame(columns))
        folder = artifact_utils.get_split_uri([statistics], split)
        io_utils.write_bytes_file(f"{folder}/FeatureStats.pb", own.SerializeToString())
        if split == "train":
            schema = standard_artifacts.Schema()
            schema.uri = str(tmp_path / "schema")
            io_utils.write_pbtxt_file(f"{schema.uri}/schema.pbtxt", tfdv.infer_schema(own))
    anomalies = standard_artifacts.ExampleAnomalies()
    anomalies.uri = str(tmp_path / "anomalies")
    Executor().Do(
        {"statistics": [statistics], "schema": [schema]},
        {"anomalies": [anomalies]},
        {"exclude_splits": '["train"]', "custom_validation_config": None},
    )
    return anomalies


def test_held_out_images_like_those_in_training_pass(tmp_path):
    # Keys differ in every split; in a small one, the schema lists them all.
    anomalies = validate(tmp_path, {**TRAIN, "image/key": [b"x", b"y", b"z"]})
    assert (tmp_path / "anomalies" / "Split-eval").is_dir()
    assert artifact_utils.decode_split_names(anomalies.split_names) == ["eval"]


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ({**TRAIN, "image/label": [b"0", b"1", b"0"]}, r"split eval, image/label: .*INT.*"),
        ({name: TRAIN[name] for name in ("image/label", "image/key")}, r"split eval, image/class: .*"),
    ],
)
def test_anomaly_is_an_error_that_names_split_and_feature(tmp_path, held_out, message):
    with pytest.raises(AnomalyError, match=message) as caught:
        validate(tmp_path, held_out)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("data.allow=[anomalies] lets it pass")


def test_component_keeps_the_name_of_tfx():
    channels = (standard_artifacts.ExampleStatistics, standard_artifacts.Schema)
    statistics, schema = (types.Channel(type=kind) for kind in channels)
    component = ExampleValidator(statistics=statistics, schema=schema)
    assert component.id == "ExampleValidator"
    assert component.executor_spec.executor_class is Executor
