from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.server.server import Endpoints, background_server
from tests import stand_ins


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The serving folder of a run, with all stand-in models; tests must not change it."""
    folder = tmp_path_factory.mktemp("serving")
    stand_ins.write_tokenizer(str(folder / "vit_vqgan" / "3"))
    stand_ins.write_generator(str(folder / "vim" / "17"))
    stand_ins.write_classifier(str(folder / "classifier" / "5"))
    return folder


@pytest.fixture(scope="session")
def server(base: Path) -> Iterator[Endpoints]:
    with background_server(str(base)) as endpoints:
        yield endpoints
