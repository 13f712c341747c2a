"""Workers that fail, and workers that die."""

import multiprocessing
import operator
import os
import signal
from pathlib import Path

import pytest

from imaging.errors import BadInputError, Reason
from pipeline.cluster import Cluster, Engine, WorkerDiedError, WorkerError

DEADLY = """
import os

from imaging.errors import BadInputError, Reason


def work(item):
    if item == "dies":
        os._exit(9)
    if item == "is bad":
        raise BadInputError(Reason.EMPTY_LABEL, "file", "is empty", "Fill it")
    if item == "fails":
        raise ValueError("Doe^Jane")
    return item.upper(), os.getpid(), os.environ["OMP_NUM_THREADS"]
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A module that worker processes can import."""
    (tmp_path / "deadly_work.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import deadly_work

    return deadly_work.work


def test_a_dying_worker_costs_its_own_item_only(deadly) -> None:  # type: ignore[no-untyped-def]
    items = ["dies", "a", "is bad", "fails", "b", "c"]
    answers = dict(Cluster("processes", 2).map(deadly, items))
    assert set(answers) == set(items)
    dead = answers["dies"]
    assert isinstance(dead, WorkerDiedError)
    assert dead.exit_code == 9
    bad = answers["is bad"]
    assert isinstance(bad, BadInputError)
    assert (bad.reason, bad.remedy) == (Reason.EMPTY_LABEL, "Fill it")
    good = [answers[item] for item in ("a", "b", "c")]
    assert [answer[0] for answer in good] == ["A", "B", "C"]
    assert all(answer[1] != os.getpid() and answer[2] == "1" for answer in good)
    assert len({answer[1] for answer in good}) <= 3


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_what_an_exception_says_stays_in_the_worker(engine: Engine) -> None:
    [(_, answer)] = Cluster(engine, 1).map(int, ["Doe^Jane"])
    assert isinstance(answer, WorkerError)
    assert answer.type_name == "ValueError"
    assert "Doe" not in repr(answer)
    assert "Doe" not in str(answer)


def test_without_items_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster._Pool._start", lambda self: pytest.fail("started"))
    assert list(Cluster("processes", 2).map(int, [])) == []


def test_a_caller_who_stops_early_leaves_no_process() -> None:
    answers = Cluster("processes", 1).map(operator.neg, iter(range(100)))
    assert next(answers) == (0, 0)
    answers.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_items_are_drawn_as_workers_become_free() -> None:
    drawn: list[int] = []

    def items():  # type: ignore[no-untyped-def]
        for number in range(6):
            drawn.append(number)
            yield number

    for done, _ in enumerate(Cluster("processes", 2).map(operator.neg, items())):
        assert len(drawn) - done <= 2
    assert len(drawn) == 6


def test_a_worker_killed_while_idle_costs_nothing() -> None:
    def items():  # type: ignore[no-untyped-def]
        yield 1
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        yield 2

    assert dict(Cluster("processes", 1).map(operator.neg, items())) == {1: -1, 2: -2}


def test_a_killed_worker_is_told_by_its_signal() -> None:
    [(_, answer)] = Cluster("processes", 1).map(signal.raise_signal, [signal.SIGKILL])
    assert isinstance(answer, WorkerDiedError)
    assert answer.exit_code == -signal.SIGKILL
