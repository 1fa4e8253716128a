"""Run ImageExampleGen and TokenTransform in a real pipeline, with TFX's components between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import tensorflow_data_validation as tfdv
from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx
from tfx.orchestration import metadata

from components.dataset import Dataset, TokenDataset
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.sources import source_version
from components.token_transform.component import TokenTransform
from tests import stand_ins
from tests.components.image_example_gen import pictures

pytestmark = pytest.mark.slow


def pipeline(root: Path, source: str) -> tfx.dsl.Pipeline:
    examples = ImageExampleGen(
        source, {"train": 80, "eval": 20}, num_shards=2, dataset_version=source_version(source)
    )
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"])
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    tokenizer = tfx.dsl.Importer(
        source_uri=str(root / "tokenizer"), artifact_type=tfx.types.standard_artifacts.Model
    ).with_id("tokenizer")
    tokens = TokenTransform(
        examples.outputs["examples"], tokenizer.outputs["result"], augmentations=1, min_scale=0.5, flip=True
    )
    return tfx.dsl.Pipeline(
        pipeline_name="data",
        pipeline_root=str(root / "artifacts"),
        components=[examples, statistics, schema, validator, tokenizer, tokens],
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(root / "metadata.db")
        ),
        enable_cache=True,
        beam_pipeline_args=["--runner=FnApiRunner"],
    )


def executions(root: Path) -> Counter:
    config = metadata.sqlite_metadata_connection_config(str(root / "metadata.db"))
    with metadata.Metadata(config) as handle:
        types = {kind.id: kind.name.split(".")[-1] for kind in handle.store.get_execution_types()}
        return Counter(
            (types[execution.type_id], metadata_store_pb2.Execution.State.Name(execution.last_known_state))
            for execution in handle.store.get_executions()
        )


def only(root: Path, pattern: str) -> str:
    (path,) = root.glob(pattern)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    for index in range(30):
        pictures.write(root / "photos" / ("cat", "dog")[index % 2] / f"{index}.png", 8 * index)
    stand_ins.write_tokenizer(str(root / "tokenizer" / "Format-Serving"), ("cat", "dog"))
    tfx.orchestration.LocalDagRunner().run(pipeline(root, f"folder:{root}/photos"))
    return root


def test_every_component_completes_once(run):
    names = (
        "ImageExampleGen",
        "StatisticsGen",
        "SchemaGen",
        "ExampleValidator",
        "TokenTransform",
    )
    found = executions(run)
    assert {name: found[name, "COMPLETE"] for name in names} == dict.fromkeys(names, 1)
    assert {state for _, state in found} == {"COMPLETE"}


def test_tfx_statistics_and_schema_match_the_written_examples(run):
    dataset = Dataset.read(only(run, "artifacts/ImageExampleGen/examples/*"))
    for split in ("train", "eval"):
        path = only(run, f"artifacts/StatisticsGen/statistics/*/Split-{split}/*")
        statistics = tfdv.load_stats_binary(path)
        assert statistics.datasets[0].num_examples == dataset.records(split)
    schema = tfdv.load_schema_text(only(run, "artifacts/SchemaGen/schema/*/schema.pbtxt"))
    assert {feature.name for feature in schema.feature} == {
        "image/encoded",
        "image/format",
        "image/height",
        "image/width",
        "image/key",
        "image/label",
        "image/class",
    }


def test_token_dataset_matches_the_image_dataset(run):
    dataset = Dataset.read(only(run, "artifacts/ImageExampleGen/examples/*"))
    tokens = TokenDataset.read(only(run, "artifacts/TokenTransform/examples/*"))
    assert tokens.class_names == dataset.class_names == ("cat", "dog")
    assert tokens.records("train") == 2 * dataset.records("train")
    assert tokens.records("eval") == dataset.records("eval")
    assert tokens.tokens == stand_ins.TOKENS
