"""Sides of the squares that hold a share of fields made by hand."""

import numpy as np

from mambaout_mm.measure.effective_field import side_holding


def test_side_of_a_square_that_holds_a_share():
    values = np.zeros((9, 9))
    values[3:6, 3:6] += 1.0  # a block of 3, and one of 5 around it: 18 and 16 more
    values[2:7, 2:7] += 1.0
    assert side_holding(values, 100 * 18 / 34) == 3
    assert side_holding(values, 100 * 19 / 34) == 5
    assert side_holding(values, 100) == 5


def test_the_square_is_where_the_gradient_is():
    values = np.zeros((9, 12))
    values[1:4, 8:11] = 1.0
    assert side_holding(values, 100) == 3
