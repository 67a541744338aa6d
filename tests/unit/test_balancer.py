"""Round robin gives every worker its turn, least loaded makes way for the busy; both only order."""

from __future__ import annotations

import pickle
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from support.one_loop import metadata_of
from wool.balancer import LeastLoadedLoadBalancer, LoadBalancerLike, RoundRobinLoadBalancer, WorkerStatus
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


def first_of(balancer: LoadBalancerLike, workers: list[WorkerStatus]) -> WorkerStatus:
    return next(iter(balancer.order(TASK, workers)))


def test_programs_that_make_one_call_each_do_not_all_give_it_to_the_same_worker() -> None:
    workers = statuses(4)
    random.seed(1)
    before = random.getstate()
    first = Counter(id(first_of(RoundRobinLoadBalancer(), workers)) for _ in range(400))
    # Each is drawn 100 times, give or take 9; less than 30 once in 10^15.
    assert min(first[id(worker)] for worker in workers) >= 30
    assert random.getstate() == before, "the numbers of the program are its own"


def test_a_copy_in_another_process_starts_a_round_of_its_own() -> None:
    balancer = RoundRobinLoadBalancer(randrange=lambda bound: 0)
    workers = statuses(3)
    assert first_of(balancer, workers) is workers[0]
    assert first_of(balancer, workers) is workers[1]
    copies = [pickle.loads(pickle.dumps(balancer)) for _ in range(100)]
    assert {id(first_of(copy, workers)) for copy in copies} == set(map(id, workers))
    assert first_of(balancer, workers) is workers[2]


def test_what_has_an_order_is_a_load_balancer() -> None:
    assert isinstance(RoundRobinLoadBalancer(), LoadBalancerLike)
    assert not isinstance(object(), LoadBalancerLike)


def test_a_status_says_who_and_how_busy() -> None:
    (status,) = statuses(1)
    assert (status.in_flight, status.suspect) == (0, False)
    status.in_flight, status.suspect = 3, True
    assert repr(status) == "<WorkerStatus worker-0 in_flight=3 suspect>"


# ---- least loaded ------------------------------------------------------------------------------------

loads = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=9)


def loaded(of: list[tuple[int, bool]]) -> list[WorkerStatus]:
    workers = statuses(len(of))
    for worker, (in_flight, suspect) in zip(workers, of, strict=True):
        worker.in_flight, worker.suspect = in_flight, suspect
    return workers


@given(loads, st.randoms(use_true_random=False))
def test_least_loaded_names_each_worker_once(of: list[tuple[int, bool]], dice: random.Random) -> None:
    workers = loaded(of)
    order = list(LeastLoadedLoadBalancer(randrange=dice.randrange).order(TASK, workers))
    assert sorted(map(id, order)) == sorted(map(id, workers))


@given(loads, st.randoms(use_true_random=False))
def test_of_the_two_that_are_drawn_the_less_loaded_is_first(of: list[tuple[int, bool]], dice: random.Random) -> None:
    order = list(LeastLoadedLoadBalancer(randrange=dice.randrange).order(TASK, loaded(of)))
    load = [(worker.suspect, worker.in_flight) for worker in order]
    assert load[:2] == sorted(load[:2])
    assert load[2:] == sorted(load[2:])


def test_what_least_loaded_draws_is_not_taken_from_the_program() -> None:
    random.seed(1)
    before = random.getstate()
    first_of(LeastLoadedLoadBalancer(), statuses(9))
    assert random.getstate() == before


def test_each_pair_is_drawn_equally_often() -> None:
    workers = statuses(4)
    balancer = LeastLoadedLoadBalancer(randrange=random.Random(1).randrange)
    pairs = Counter(
        frozenset(worker.metadata.uid for worker in list(balancer.order(TASK, workers))[:2]) for _ in range(6_000)
    )
    assert len(pairs) == 6
    assert all(900 <= count <= 1_100 for count in pairs.values()), pairs


def test_a_worker_that_never_ends_its_tasks_gets_no_more_than_the_others_have() -> None:
    # Each of the others ends what it has as soon as it has it; the first is stuck.
    workers = statuses(3)
    balancer = LeastLoadedLoadBalancer(randrange=random.Random(1).randrange)
    for _ in range(200):
        first = next(iter(balancer.order(TASK, workers)))
        if first is workers[0]:
            first.in_flight += 1
    assert workers[0].in_flight == 1


def test_placed_without_ends_the_loads_stay_close() -> None:
    workers = statuses(10)
    balancer = LeastLoadedLoadBalancer(randrange=random.Random(1).randrange)
    for _ in range(10_000):
        next(iter(balancer.order(TASK, workers))).in_flight += 1
    counts = [worker.in_flight for worker in workers]
    assert max(counts) - min(counts) <= 10, counts


def test_a_least_loaded_copy_in_another_process_draws_by_itself() -> None:
    balancer = LeastLoadedLoadBalancer(randrange=lambda bound: 0)
    copy = pickle.loads(pickle.dumps(balancer))
    assert isinstance(copy, LeastLoadedLoadBalancer)
    assert isinstance(copy, LoadBalancerLike)
    assert sorted(map(id, copy.order(TASK, workers := statuses(5)))) == sorted(map(id, workers))
