"""Marks of backbones in pictures."""

import pandas as pd

from mambaout_mm.comparison.figures import MIXERS
from mambaout_mm.comparison.pictures import MARKERS, looks_of


def test_every_mixer_has_its_mark():
    assert {shape for _, shape in MIXERS.values()} <= set(MARKERS)


def test_backbones_of_one_colour_can_be_told_apart():
    rows = pd.DataFrame(dict(backbone=[f'Mamba-{i}' for i in range(7)], mixer='Conv+SSM'))
    looks = looks_of(rows).values()
    assert len({look['color'] for look in looks}) == 1
    assert len({(str(look['linestyle']), look['markerfacecolor']) for look in looks}) == 7
