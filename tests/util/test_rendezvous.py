"""Processes that meet, and what they say of those that do not come; each process is a thread here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from util import rendezvous
from util.launcher import ProcessInfo
from util.ranks import differences, fingerprint
from util.rendezvous import Meeting


def meet(url: str, *processes: tuple[int, int], minutes: float = 1.0) -> list[list[str] | str]:
    """What processes of these ranks and sizes learn of each other, or the type and the message of their error."""

    def one(process: tuple[int, int]) -> list[str] | str:
        try:
            return Meeting(ProcessInfo(*process), url, minutes).exchange(f"text of {process[0]}")
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(len(processes)) as threads:
        return list(threads.map(one, processes))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which somebody listens who says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def test_all_come(url: str) -> None:
    assert meet(url, (1, 3), (0, 3), (2, 3)) == [["text of 0", "text of 1", "text of 2"]] * 3


def test_the_number_of_processes_is_one(url: str) -> None:
    found = meet(url, (0, 2), (1, 3))
    assert found[0] == found[1] and found[0].startswith("ValueError: rank ") and "WORLD_SIZE=" in found[0], found
    assert found[0].endswith(": all need the same")


def test_a_rank_is_that_of_one_process(url: str) -> None:
    found = meet(url, (0, 2), (1, 2), (1, 2))
    assert found.count(["text of 0", "text of 1"]) == 2
    assert "ValueError: another process of this run has RANK=1, too: each needs a rank of its own" in found


def test_who_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(rendezvous, "REMIND", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    for rank, missing in ((0, "rank 1"), (1, "rank 0")):
        (message,) = meet(f"tcp://127.0.0.1:{port}", (rank, 2), minutes=0.01)
        assert message.startswith(f"RunFailed: waited 0.01 minutes in vain for {missing} of 2 at 127.0.0.1:{port}"), message
        assert "--dist_minutes" in message
        line = capsys.readouterr().err.splitlines()[0]
        assert line.startswith(f"rank {rank}: waiting for {missing} of 2 at 127.0.0.1:{port}") and "at most 0.01 minutes" in line


def test_a_port_that_somebody_else_has(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "REPLY", 0.5)
    (message,) = meet(f"tcp://127.0.0.1:{taken}", (0, 2))
    assert message.startswith(f"ValueError: port {taken} is in use, by another run or by another process with RANK=0"), message
    (message,) = meet(f"tcp://127.0.0.1:{taken}", (1, 2))
    assert message.startswith(f"RunFailed: what listens at 127.0.0.1:{taken} is not rank 0 of this run"), message


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70])
def test_a_machine_that_nobody_knows(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "RESOLVE", 0.0)
    (message,) = meet(f"tcp://{host}:29500", (1, 2))
    assert message.startswith(f"ValueError: the address {host!r} is unknown"), message


def test_differences_name_rank_and_fact() -> None:
    same = {"--batch_size": "4", "images": "12, hash a"}
    assert differences([same, dict(same), dict(same)]) == ""
    message = differences([same, dict(same), {"--batch_size": "3", "images": "11, hash b"}])
    assert message.startswith(
        "rank 2 differs from rank 0 in --batch_size (3; rank 0: 4), images (11, hash b; rank 0: 12, hash a)"
    )
    assert "the code of a.py (none; rank 0: 1)" in differences([{"the code of a.py": "1"}, {}])
    many = differences([{str(number): "" for number in range(9)}, {}])
    assert " and 5 more: all processes of a run need the same" in many


def test_a_fingerprint_is_of_all_that_a_checkpoint_holds() -> None:
    content = {"step": 1, "classes": ["a", "b"], "best": {"acc1": 1.0}}
    assert fingerprint(content) == fingerprint(dict(reversed(content.items())))
    changed = ({"step": 2}, {"classes": ["ab"]}, {"best": {"acc5": 1.0}}, {"best": {}, "acc1": 1.0})
    assert len({fingerprint({**content, **change}) for change in ({}, *changed)}) == 5
