import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.export.warmup import read_warmup, write_warmup

REQUESTS = {
    "score": {"image_bytes": np.array([b"a\0", b""], object), "class_id": np.array([1, 2], np.int32)},
    "metadata": {},
}


def test_requests_round_trip_through_tf_servings_warmup_file(tmp_path):
    write_warmup(str(tmp_path), REQUESTS)
    read = dict(read_warmup(str(tmp_path)))
    assert list(read) == ["score", "metadata"]
    assert read["score"]["image_bytes"].tolist() == [b"a\0", b""]
    np.testing.assert_array_equal(read["score"]["class_id"], [1, 2])
    (folder,) = tmp_path.iterdir()
    assert [str(file.relative_to(tmp_path)) for file in folder.iterdir()] == [
        "assets.extra/tf_serving_warmup_requests"
    ]
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(next(folder.iterdir())))]
    log = prediction_log_pb2.PredictionLog.FromString(records[0])
    assert log.WhichOneof("log_type") == "predict_log"


def test_model_without_warmup_file_has_no_requests(tmp_path):
    assert list(read_warmup(str(tmp_path))) == []


def test_invalid_warmup_file_is_error(tmp_path):
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no records at all")
    with pytest.raises(tf.errors.DataLossError):
        list(read_warmup(str(tmp_path)))
