"""Compare FID and IS with the independent implementation in tensorflow-gan."""

import numpy as np
import pytest
from scipy import special

from components.metrics.frechet import frechet_distance
from components.metrics.inception import inception_score
from components.metrics.moments import moments
from tests.components.metrics import published

pytestmark = pytest.mark.slow


def test_fid_and_is_agree_with_tensorflow_gan(tmp_path):
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=[8, 8])
    a = (rng.normal(size=[400, 8]) @ mixing).astype(np.float32)
    b = (rng.normal(size=[300, 8]) + 0.5).astype(np.float32)
    logits = (3 * rng.normal(size=[500, 10])).astype(np.float32)

    theirs = published.scores(tmp_path, a=a, b=b, logits=logits)

    assert frechet_distance(moments(a), moments(b)) == pytest.approx(theirs["fid"], rel=1e-3)
    assert inception_score(special.softmax(logits, axis=1))[0] == pytest.approx(theirs["is"], rel=1e-4)
