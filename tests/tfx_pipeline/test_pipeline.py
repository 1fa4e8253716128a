import pytest

from tfx_pipeline.config import load
from tfx_pipeline.pipeline import create_pipeline


def graph(*overrides):
    config = load("digits", overrides, small=True)
    pipeline = create_pipeline(config, run_dir="run", dataset_version="1", beam_pipeline_args=[])
    return {component.id: component for component in pipeline.components}


def source_of(component, channel: str) -> str:
    return component.inputs[channel].producer_component_id


@pytest.mark.parametrize(
    ("tokens", "source"), [("cached", "TokenTransform"), ("on_the_fly", "ImageExampleGen")]
)
def test_the_image_model_learns_from_tokens_or_makes_them_itself(tokens, source):
    components = graph(f"stage2.tokens={tokens}")
    assert source_of(components["Trainer.vim"], "examples") == source
    assert source_of(components["Trainer.vim"], "base_model") == "Trainer.tokenizer"
    assert ("TokenTransform" in components) is (tokens == "cached")
