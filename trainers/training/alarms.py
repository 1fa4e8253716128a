"""Alarms: metrics of a training run that leave their bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Alarm(NamedTuple):
    """A metric that should stay between `below` and `above` from a step on, and what it means if it does not.

    `title` opens the line for people, such as "discriminator at chance"; `advice` ends it.
    """

    metric: str
    title: str
    advice: str
    below: float = -math.inf
    above: float = math.inf
    from_step: int = 0

    def rings(self, entry: Mapping[str, float]) -> bool | None:
        """Whether a logged step is out of bounds; None if it has no such metric, or is too early."""
        value = entry.get(self.metric)
        if value is None or entry["step"] < self.from_step:
            return None
        return not self.below <= value <= self.above

    @property
    def bound(self) -> str:
        """The bound, as "below 0.05"."""
        return f"below {self.below:.3g}" if math.isfinite(self.below) else f"above {self.above:.3g}"


OVERFITTING = Alarm(
    "eval_loss_rise",
    "overfitting",
    "train.export best takes the weights from before; more images, more variants or a smaller model help",
    above=0.05,
)


class Watch:
    """Says an alarm when it begins to ring, and again only after it has stopped."""

    def __init__(self, alarms: Sequence[Alarm], say: Callable[[str], None]):
        self._alarms = alarms
        self._say = say
        self._ringing: set[Alarm] = set()

    def report(self, entry: Mapping[str, float]) -> None:
        """Look at a logged step."""
        for alarm in self._alarms:
            rings = alarm.rings(entry)
            if rings is None:
                continue
            if rings and alarm not in self._ringing:
                self._say(
                    f"{alarm.title}: {alarm.metric} {entry[alarm.metric]:.3g} is {alarm.bound} at step "
                    f"{entry['step']}; {alarm.advice}"
                )
            self._ringing = self._ringing | {alarm} if rings else self._ringing - {alarm}


def summary(history: Sequence[Mapping[str, float]], alarms: Sequence[Alarm]) -> list[str]:
    """A line for each alarm that rang at a logged step, and one for skipped steps."""
    lines = []
    skipped = sum(entry.get("skipped", 0) for entry in history)
    if skipped:
        lines.append(f"{skipped:.0f} steps were skipped: their loss or gradient was not finite.")
    for alarm in alarms:
        watched = [entry for entry in history if alarm.rings(entry) is not None]
        ringing = [entry for entry in watched if alarm.rings(entry)]
        if ringing:
            lines.append(
                f"{alarm.title[:1].upper()}{alarm.title[1:]}: {alarm.metric} was {alarm.bound} at "
                f"{len(ringing)} of {len(watched)} logged steps, the last of them step {ringing[-1]['step']} "
                f"({ringing[-1][alarm.metric]:.3g}); {alarm.advice}."
            )
    return lines
