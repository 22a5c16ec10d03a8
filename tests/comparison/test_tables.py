"""Number formats of tables, and what their cells say."""

import math

import pytest

from mambaout_mm.comparison.tables import number_text


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (43.126, '43.13'),
        (262.5, '262.5'),
        (1178.84, '1,179'),
        (12345678.0, '12,345,678'),
        (0.012345, '0.01235'),
        (-2.3, '\u22122.3'),
        (0.0, '0'),
        (999.96, '1000'),
        (math.inf, '∞'),
    ],
)
def test_numbers_are_for_people(value, text):
    assert number_text(value) == text
