import pytest

from util import progress
from util.progress import Progress, clock


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]


def test_a_line_says_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(4, "work") as line:
        for seconds in (1, 12, 13, 40):
            now[0] = seconds
            line.step(note="fine")
    assert capsys.readouterr().err == ("work: 2/4  0:12 elapsed, 0:12 left  fine\nwork: 4/4  0:40 elapsed, 0:00 left  fine\n")


def test_what_is_left_follows_the_work_and_work_that_goes_on_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(2, "maps", work=10) as line:
        for seconds, step in ((11, (0, "a")), (22, (1, None, 2)), (33, (0, "b")), (122, (0,)), (133, (1, None, 8))):
            now[0] = seconds
            line.step(*step)
    assert capsys.readouterr().err.splitlines() == [
        "maps: 0/2  0:11 elapsed  a", "maps: 1/2  0:22 elapsed, 1:28 left  a",
        "maps: 1/2  0:33 elapsed, 1:17 left  b", "maps: 1/2  2:02 elapsed  b", "maps: 2/2  2:13 elapsed, 0:00 left  b",
    ]  # fmt: skip


def test_quick_work_prints_nothing(capsys: pytest.CaptureFixture) -> None:
    with Progress(2, "work") as line:
        line.step(2)
    assert capsys.readouterr().err == ""
