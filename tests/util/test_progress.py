import io

import pytest

from util import progress
from util.progress import Progress, clock


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]


def test_a_line_tells_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(4, "work", stream=stream) as line:
        for seconds in (1, 12, 13, 40):
            now[0] = seconds
            line.step(note="fine")
    assert stream.getvalue() == "work: 2/4  0:12 gone, 0:12 to go  fine\nwork: 4/4  0:40 gone, 0:00 to go  fine\n"


def test_quick_work_says_nothing() -> None:
    stream = io.StringIO()
    with Progress(2, "work", stream=stream) as line:
        line.step(2)
    assert stream.getvalue() == ""
