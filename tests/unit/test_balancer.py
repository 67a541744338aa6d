"""Round robin gives every worker its turn, and only orders."""

from __future__ import annotations

import pickle
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from support.one_loop import metadata_of
from wool.balancer import LoadBalancerLike, RoundRobinLoadBalancer, WorkerStatus
from wool.task import Task

TASK = Task(key=bytes(16), routine="m:f", kind="coroutine", caller="c")


def statuses(size: int) -> list[WorkerStatus]:
    return [WorkerStatus(metadata_of(f"worker-{number}", "unix:/w")) for number in range(size)]


@given(st.integers(1, 9), st.integers(0, 60))
def test_first_choices_differ_by_at_most_one(size: int, calls: int) -> None:
    workers = statuses(size)
    balancer = RoundRobinLoadBalancer()
    first = Counter(id(next(iter(balancer.order(TASK, workers)))) for _ in range(calls))
    counts = [first[id(worker)] for worker in workers]
    assert max(counts) - min(counts) <= 1


@given(st.integers(0, 9), st.integers(0, 12))
def test_each_worker_is_named_once_in_each_order(size: int, before: int) -> None:
    workers = statuses(size)
    balancer = RoundRobinLoadBalancer()
    for _ in range(before):
        list(balancer.order(TASK, workers))
    order = list(balancer.order(TASK, workers))
    assert sorted(map(id, order)) == sorted(map(id, workers))


@given(st.lists(st.integers(0, 6), max_size=30))
def test_workers_may_come_and_go(sizes: list[int]) -> None:
    balancer = RoundRobinLoadBalancer()
    for size in sizes:
        workers = statuses(size)
        assert sorted(map(id, balancer.order(TASK, workers))) == sorted(map(id, workers))


def test_a_copy_in_another_process_starts_a_round_of_its_own() -> None:
    balancer = RoundRobinLoadBalancer()
    workers = statuses(3)
    balancer.order(TASK, workers)
    copy = pickle.loads(pickle.dumps(balancer))
    assert next(iter(copy.order(TASK, workers))) is workers[0]


def test_what_has_an_order_is_a_load_balancer() -> None:
    assert isinstance(RoundRobinLoadBalancer(), LoadBalancerLike)
    assert not isinstance(object(), LoadBalancerLike)


def test_a_status_says_who_and_how_busy() -> None:
    (status,) = statuses(1)
    assert (status.in_flight, status.suspect) == (0, False)
    status.in_flight, status.suspect = 3, True
    assert repr(status) == "<WorkerStatus worker-0 in_flight=3 suspect>"
