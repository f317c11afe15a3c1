"""Durations and the running median."""

import pytest

from fastreid.utils.timing import RunningMedian, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (42.4, "0:42"),
        (59.6, "1:00"),
        (725, "12:05"),
        (11045, "3:04:05"),
        (86400 + 3661, "1 day, 1:01:01"),
        (2 * 86400, "2 days, 0:00:00"),
        (-3, "0:00"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_median_ignores_an_outlier_and_forgets_the_old():
    recent = RunningMedian(window=3)
    assert recent.median == 0.0
    for value in (1.0, 1.0, 99.0):
        recent.add(value)
    assert recent.median == 1.0
    recent.add(99.0)
    assert recent.median == 99.0
