from trainers.training.alarms import Alarm, Watch, summary

LOW = Alarm("usage", "codes are unused", "lower dim", below=0.5)
HIGH = Alarm("discriminator", "discriminator at chance", "lower gamma", above=1.3, from_step=3)


def said(alarms, *entries) -> list[str]:
    lines: list[str] = []
    watch = Watch(alarms, lines.append)
    for entry in entries:
        watch.report(entry)
    return lines


def usage(*values: float) -> list[dict[str, float]]:
    return [{"step": step, "usage": value} for step, value in enumerate(values, 1)]


def test_alarm_is_said_once_while_it_rings_and_again_after_it_has_stopped():
    lines = said([LOW], *usage(0.4, 0.3, 0.5, 0.2))
    assert lines == [
        "codes are unused: usage 0.4 is below 0.5 at step 1; lower dim",
        "codes are unused: usage 0.2 is below 0.5 at step 4; lower dim",
    ]


def test_alarm_above_a_bound_waits_for_its_first_step():
    entries = [{"step": step, "discriminator": 1.38} for step in (1, 2, 3)]
    assert said([HIGH], *entries) == [
        "discriminator at chance: discriminator 1.38 is above 1.3 at step 3; lower gamma"
    ]
    assert said([HIGH], {"step": 9, "discriminator": 1.3}) == []


def test_step_without_the_metric_is_ignored():
    # All of its steps were skipped: the alarm neither rings nor stops.
    assert len(said([LOW], *usage(0.4), {"step": 2, "skipped": 2}, *usage(0.4))) == 1


def test_summary_counts_the_logged_steps_at_which_an_alarm_rang():
    history = [*usage(0.4, 0.6, 0.25), {"step": 4, "skipped": 2.0}]
    assert summary(history, [LOW, HIGH]) == [
        "2 steps were skipped: their loss or gradient was not finite.",
        "Codes are unused: usage was below 0.5 at 2 of 3 logged steps, the last of them step 3 (0.25); "
        "lower dim.",
    ]


def test_summary_of_a_quiet_run_is_empty():
    assert summary([*usage(0.6, 0.7), {"step": 2, "discriminator": 1.38, "skipped": 0.0}], [LOW, HIGH]) == []
