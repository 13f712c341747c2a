"""Reading ahead: in order, one item ahead, and an error is the caller's."""

import threading

import pytest

from pipeline.steps import one_ahead


def test_results_come_in_order_and_the_next_is_under_way() -> None:
    begun = [threading.Event() for _ in range(4)]

    def work(item: int) -> int:
        begun[item].set()
        return item * item

    seen = []
    for item, result in one_ahead(work, range(4)):
        # While the caller has this item, the next is worked on.
        assert item == 3 or begun[item + 1].wait(10)
        seen.append((item, result))
    assert seen == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert list(one_ahead(work, [])) == []


def test_an_error_reaches_the_caller_after_what_came_before() -> None:
    def work(item: int) -> int:
        return 10 // item

    found = one_ahead(work, [5, 0, 2])
    assert next(found) == (5, 2)
    with pytest.raises(ZeroDivisionError):
        next(found)
