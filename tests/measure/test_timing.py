"""Calls that take turns, and the spread of their times."""

from mambaout_mm.measure import timing


def test_every_round_makes_every_call_in_turn():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in 'ab'}
    times = timing.take_turns(calls, rounds=4, device='cpu', warm_up=1)
    assert order == ['a', 'b'] * 5
    assert {name: len(seconds) for name, seconds in times.items()} == {'a': 4, 'b': 4}


def test_no_round_starts_after_the_limit_but_for_three():
    times = timing.take_turns({'a': lambda: None}, rounds=9, device='cpu', limit_s=0)
    assert len(times['a']) == 3


def test_spread_is_median_and_deciles():
    assert timing.spread_of([5.0, *map(float, range(11))][1:]) == (5.0, 1.0, 9.0)
