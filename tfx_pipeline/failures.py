"""The reason of a failed run in one line: TFX, Beam and AutoGraph wrap an executor's exception."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from tfx.orchestration.portable import outputs_utils

from serving.wire.errors import is_out_of_memory, one_line

PROJECT = ("components", "trainers", "serving", "tfx_pipeline")


def reason(error: BaseException) -> str:
    """What went wrong, in one line.

    An error of this project's own was written for the user; what caused it was not. Otherwise it is the
    innermost cause.
    """
    chain = list(_causes(error))
    own = next(filter(_is_own, chain), None)
    if own is None and is_out_of_memory(chain[-1]):
        return f"memory must hold a batch: lower the component's batch_size, got {one_line(chain[-1])}"
    return one_line(own or chain[-1])


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
    following: BaseException | None = error
    while following is not None:
        yield following
        if following.__cause__ is not None or following.__suppress_context__:
            following = following.__cause__
        else:
            # What was being handled is the cause only where TFX cleaned up after it; elsewhere it may be a
            # lookup that failed as expected.
            following = following.__context__ if _in_clean_up(following) or _has_own(following) else None


def _has_own(error: BaseException) -> bool:
    context = error.__context__
    return context is not None and (_is_own(context) or _has_own(context))


def _is_own(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in PROJECT


def _in_clean_up(error: BaseException) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename == outputs_utils.__file__ for frame, _ in frames)
