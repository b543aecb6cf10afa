"""Erlang's formulas against exact sums and published tables, and the number of servers they lead to."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from forecastle.decide.erlang import erlang_b, erlang_c, keeps, mean_response, reachable, servers_for, slower_than
from forecastle.types import Service

patient = settings(max_examples=60, deadline=None)


def exact_b(servers: int, load: Fraction) -> Fraction:
    """The textbook's quotient of sums, in whole numbers."""
    terms = [load**n / math.factorial(n) for n in range(servers + 1)]
    return terms[-1] / sum(terms)


def exact_c(servers: int, load: Fraction) -> Fraction:
    terms = [load**n / math.factorial(n) for n in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


# --- the formulas ---


@pytest.mark.parametrize(
    ("servers", "load", "blocked"),
    [
        (1, 1.0, 0.5),
        (2, 1.0, 0.2),
        (5, 1.361, 0.010),
        (10, 4.461, 0.010),
        (20, 12.03, 0.010),
        (50, 37.90, 0.010),
        (100, 84.06, 0.010),
    ],
)
def test_erlang_b_is_that_of_the_traffic_tables(servers: int, load: float, blocked: float) -> None:
    """The published tables give the load in erlangs at which one call in a hundred is lost."""
    assert float(erlang_b(servers, load)) == pytest.approx(blocked, rel=3e-3)


@pytest.mark.parametrize(
    ("servers", "load", "waits"),
    [
        (1, 0.5, 0.5),
        (2, 1.0, 1 / 3),
        (3, 2.0, 4 / 9),
        (5, 4.0, 0.5541),
        (10, 8.0, 0.4092),
        (20, 16.0, 0.2561),
        (100, 90.0, 0.2169),
    ],
)
def test_erlang_c_is_that_of_the_traffic_tables(servers: int, load: float, waits: float) -> None:
    assert float(erlang_c(servers, load)) == pytest.approx(waits, abs=1e-4)


@pytest.mark.parametrize("servers", [1, 2, 3, 7, 19, 40])
@pytest.mark.parametrize("share", [Fraction(1, 100), Fraction(1, 3), Fraction(4, 5), Fraction(99, 100)])
def test_both_are_the_exact_sums(servers: int, share: Fraction) -> None:
    load = servers * share
    assert float(erlang_b(servers, float(load))) == pytest.approx(float(exact_b(servers, load)), rel=1e-12)
    assert float(erlang_c(servers, float(load))) == pytest.approx(float(exact_c(servers, load)), rel=1e-11)


@pytest.mark.parametrize("servers", [200, 2000, 20_000])
def test_many_servers_overflow_nothing(servers: int) -> None:
    load = servers * 0.97
    by_poisson = math.exp(poisson.logpmf(servers, load) - poisson.logcdf(servers, load))
    assert float(erlang_b(servers, load)) == pytest.approx(by_poisson, rel=1e-8)
    assert 0 < float(erlang_c(servers, load)) < 1


def test_loads_are_taken_many_at_once_in_any_shape() -> None:
    loads = np.array([[0.0, 1.0, 2.5], [3.9, 4.0, 9.0]])
    found = erlang_c(4, loads)
    assert found.shape == loads.shape
    assert found[0, 0] == 0.0
    assert found[1, 1:].tolist() == [1.0, 1.0], "a queue without an end: everybody waits"
    assert [float(erlang_c(4, one)) for one in loads[0]] == pytest.approx(found[0].tolist())


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
@patient
def test_more_load_waits_more_and_more_servers_wait_less(servers: int, one: float, two: float) -> None:
    low, high = sorted((one * servers, two * servers))
    assert float(erlang_c(servers, low)) <= float(erlang_c(servers, high)) + 1e-12
    assert float(erlang_c(servers + 1, high)) <= float(erlang_c(servers, high)) + 1e-12
    assert float(erlang_b(servers, high)) <= float(erlang_c(servers, high)) + 1e-12, "who may wait fills the servers more"


# --- response times ---


def test_one_server_answers_as_the_m_m_1_queue() -> None:
    """There, responses are exponential with rate mu - lambda."""
    service, load = 0.2, 0.75
    rate = (1 - load) / service
    assert mean_response(1, load, load, service) == pytest.approx(1 / rate)
    for seconds in (0.01, 0.2, 1.0, 5.0):
        assert slower_than(seconds, 1, load, load, service) == pytest.approx(math.exp(-rate * seconds), rel=1e-9)


@pytest.mark.parametrize(("servers", "load"), [(2, 1.0), (2, 1.0 + 1e-9), (3, 2.0 - 1e-8), (5, 4.0)])
def test_where_the_closed_form_divides_by_nothing_it_has_its_limit(servers: int, load: float) -> None:
    waits = float(erlang_c(servers, load))
    near = [slower_than(0.7, servers, load + delta, waits, 0.5) for delta in (-1e-4, 1e-4)]
    assert min(near) <= slower_than(0.7, servers, load, waits, 0.5) <= max(near)


def test_a_simulated_queue_agrees() -> None:
    """Sixty thousand customers of three servers at a load of 2.4."""
    rng = np.random.default_rng(3)
    n, servers, load = 60_000, 3, 2.4
    arrivals, services = np.cumsum(rng.exponential(1 / load, n)), rng.exponential(1.0, n)
    free, response, waited = [0.0] * servers, np.empty(n), 0
    for i in range(n):
        first = free.index(min(free))
        start = max(arrivals[i], free[first])
        waited += start > arrivals[i]
        free[first] = start + services[i]
        response[i] = free[first] - arrivals[i]
    waits = float(erlang_c(servers, load))
    assert waited / n == pytest.approx(waits, abs=0.03)
    assert response.mean() == pytest.approx(mean_response(servers, load, waits, 1.0), rel=0.06)
    assert (response > 4.0).mean() == pytest.approx(slower_than(4.0, servers, load, waits, 1.0), abs=0.02)


def test_a_queue_without_an_end_answers_never() -> None:
    assert mean_response(3, 3.0, 1.0, 0.1) == math.inf
    assert slower_than(1e9, 3, 3.0, 1.0, 0.1) == 1.0


def test_a_target_far_beyond_the_service_time_overflows_nothing() -> None:
    assert slower_than(10.0, 3, 2.9, 0.9, 0.001) == pytest.approx(0.0, abs=1e-12)


# --- how many servers ---

TARGETS = [
    Service(0.1, latency_s=0.2),
    Service(0.1, latency_s=0.5, quantile=0.95),
    Service(0.1, wait=0.1),
    Service(0.1, latency_s=0.4, quantile=0.9, wait=0.3),
]


@pytest.mark.parametrize("service", TARGETS)
@pytest.mark.parametrize("load", [0.01, 0.9, 1.0, 3.7, 25.0, 310.0])
def test_it_is_the_smallest_number_that_keeps_the_target(service: Service, load: float) -> None:
    servers = servers_for(load, service, 10_000)
    fits = {n: n > load and keeps(service, n, load, float(erlang_c(n, load))) for n in (servers - 1, servers + 1)}
    assert fits == {servers - 1: False, servers + 1: True}


@pytest.mark.parametrize(("load", "servers"), [(1, 3), (4, 7), (10, 15), (40, 48), (100, 113)])
def test_staffing_grows_with_the_root_of_the_load(load: int, servers: int) -> None:
    """At most one in six waits: Halfin and Whitt's spare servers are 1.2 roots of the load, and one for rounding."""
    assert exact_c(servers, Fraction(load)) <= Fraction(1, 6) < exact_c(servers - 1, Fraction(load))
    assert servers_for(float(load), Service(1.0, wait=1 / 6), 10_000) == servers
    assert servers - load == pytest.approx(1.2 * math.sqrt(load), abs=1.3)


@pytest.mark.parametrize("service", TARGETS)
@given(st.floats(0, 300), st.floats(0, 300))
@patient
def test_more_load_never_takes_fewer(service: Service, one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert servers_for(low, service, 10_000) <= servers_for(high, service, 10_000)


def test_no_load_takes_none_and_too_much_takes_one_more_than_there_are() -> None:
    service = Service(0.1, latency_s=0.2)
    assert [servers_for(load, service, 50) for load in (-1.0, 0.0, 1e9)] == [0, 0, 51]


def test_float_noise_orders_no_server() -> None:
    service = Service(0.1, wait=0.4999999)
    assert servers_for(0.5, service, 10) == servers_for(float(np.float32(0.5 * (1 - 1e-7))), service, 10)


@pytest.mark.parametrize(
    ("service", "can"),
    [
        (Service(0.1, latency_s=0.0999), False),
        (Service(0.1, latency_s=0.101), True),
        (Service(0.1, latency_s=0.29, quantile=0.95), False),
        (Service(0.1, latency_s=0.31, quantile=0.95), True),
        (Service(9.9, wait=0.01), True),
    ],
)
def test_what_the_service_alone_misses_no_server_can_reach(service: Service, can: bool) -> None:
    assert reachable(service) is can
    assert (servers_for(1.0, service, 500) <= 500) is can
