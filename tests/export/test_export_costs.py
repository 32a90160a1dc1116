"""What is counted, priced by hand: a machine's constants, the calls, and int8 where that is faster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from losparse_export import CPU, TARGETS, Call, Costs, Counts
from losparse_export.costs import Traffic

COSTS = Costs(node=100.0, element=2.0, gather=30.0, move=5.0, int8=0.5, quantise=3.0, scale=1.0, panel=4)
COUNTS = Counts([(10, 20), (20, 5)], nodes=4, elements=7, moved=3, gathered=2, quantised=6, multiply_adds=11)


def test_a_price_is_the_sum_of_what_is_counted():
    # 200 + 100 + 11 multiply-adds, 6 * 3 quantised; 4 * 100 / 8 starts, 7 * 2 copied, 3 * 5 moved, 2 * 30 picked
    assert COSTS.price(COUNTS, Call(2, 4)) == 311 + 18 + 50 + 14 + 15 + 60


def test_products_are_quantised_where_that_is_faster():
    # (10, 20): 100 + 30 + 20 = 150 of 200; (20, 5): 50 + 60 + 5 = 115, more than its 100
    assert (COSTS.product((10, 20), "int8"), COSTS.product((20, 5), "int8")) == (150, 100)
    assert COSTS.gains((10, 20)) and not COSTS.gains((20, 5))
    assert COSTS.price(COUNTS, Call(2, 4)) - COSTS.price(COUNTS, Call(2, 4), "int8") == 50


def test_a_target_prices_the_tokens_of_all_calls():
    target = replace(CPU, costs=COSTS)
    calls = [(Call(1, 2), 3), (Call(1, 10), 1)]  # 6 and 10 of 16 tokens
    alone = [target.price(COUNTS, call) for call, _ in calls]
    assert target.price(COUNTS, calls) == pytest.approx(alone[0] * 6 / 16 + alone[1] * 10 / 16)
    # 4 starts in each of 4 calls, over 16 tokens, as in calls of 4 tokens
    assert target.price(COUNTS, calls) == pytest.approx(target.price(COUNTS, Call(1, 4)))


def test_calls_are_averaged_by_how_often_they_come():
    traffic = Traffic.of([(Call(1, 2), 3), (Call(1, 10), 1)])
    assert traffic.shares == (0.75, 0.25) and traffic.per_call(lambda call: float(call.length)) == 4.0


def test_the_first_target_is_the_cpu():
    assert TARGETS == {"cpu": CPU} and CPU.provider == "CPUExecutionProvider" and CPU.plans == ("fp32", "int8")
