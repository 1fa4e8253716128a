"""The section `beam:`: where the steps that process images and samples with Beam run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from trainers.training.config import Section

Flag = Annotated[str, Field(pattern=r"^--[a-z]")]

# Not DirectRunner, which tries to download another runner before it starts.
RUNNER = "--runner=FnApiRunner"
# Workers are this process and need no package of TFX. TFX builds one for every Beam component, in 2.4 s and
# 49 MB of the temporary folder, unless a flag says where workers get their packages.
IN_PROCESS = "--sdk_container_image=in-process"


def runners(flags: Sequence[str]) -> Iterator[str]:
    """The runners that flags for Beam name, "" for one that is missing.

    Beam reads --run=... as --runner=... too, and a value that is an argument of its own.
    """
    for flag, following in itertools.zip_longest(flags, flags[1:], fillvalue=""):
        option, given, runner = flag.partition("=")
        if option.startswith("--r") and "--runner".startswith(option):
            yield runner if given else following


class Beam(Section):
    """Flags for Beam, as on a command line: of every step, and further ones of some, which win."""

    every: tuple[Flag, ...] = ()
    steps: dict[str, tuple[Flag, ...]] = {}

    def flags(self, step: str, given: Sequence[str] = ()) -> list[str]:
        """The flags of a step.

        Args:
          step: the name of the component.
          given: further flags of every step, which win over the configuration's.

        Returns:
          Those of Beam's in-process runner, unless a runner is named, and then the step's.
        """
        own = [*self.every, *self.steps.get(step, ()), *given]
        if any(flag.startswith("--runner") for flag in own):
            return own
        return [RUNNER, IN_PROCESS, *own]

    def all_flags(self, given: Sequence[str] = ()) -> list[str]:
        """The flags of all steps together, to check them."""
        return [*self.every, *(flag for flags in self.steps.values() for flag in flags), *given]
