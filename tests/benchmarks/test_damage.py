import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from benchmarks import damage
from tests.components.evaluators.test_protocols import saved_model

pytestmark = pytest.mark.slow


def test_every_damage_is_scored_and_noise_moves_the_features(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(24):
        image = np.full((8, 8, 3), generator.integers(0, 60), np.uint8)
        PIL.Image.fromarray(image).save(tmp_path / f"{index:02d}.png")
    network = f"savedmodel:{saved_model(tmp_path / 'model')}#mean"
    done = CliRunner().invoke(damage.main, [str(tmp_path), "--features", network])
    assert done.exit_code == 0, done.output
    lines = dict(line.split(": ") for line in done.stderr.splitlines() if ": " in line)
    assert len(lines) == 1 + sum(len(strengths) for _, strengths in damage.DAMAGE.values())
    fid = {name: float(scores.split(",")[0]) for name, scores in lines.items()}
    # Noise is cut off at black, so that dark images become brighter.
    assert max(fid["none"], fid["noise, deviation 32"]) < fid["noise, deviation 64"] / 4
