"""The paper's two hypotheses, from the published results."""

import pytest

from mambaout_mm.comparison.figures import OURS
from mambaout_mm.comparison.hypotheses import draw_gaps, gaps_figure, gaps_of, hypotheses_of
from mambaout_mm.comparison.published_results import published_results


@pytest.fixture(scope='module')
def rows():
    return published_results()


def test_gaps_are_the_papers_two_hypotheses(rows):
    table = gaps_of(rows)
    assert len(table) == 15
    by_quantity = table.groupby('quantity')['gap']
    # MambaOut tables 1 to 3: 82.7 / 84.1 / 84.2 beside 82.5 / 83.6 / 83.9, and so on.
    assert by_quantity.get_group('top-1').tolist() == [0.2, 0.5, 0.3]
    assert by_quantity.get_group('box AP').tolist() == [-2.3, -1.3, -1.8]
    assert by_quantity.get_group('mIoU').tolist() == [-0.9, -1.1, -1.4]


def test_the_gaps_are_those_of_the_table():
    table = gaps_of(published_results())
    drawn = [x for trace in gaps_figure(table).spec['data'] for x in trace['x']]
    assert sorted(drawn) == sorted(table['gap'])
    for trace in gaps_figure(table).spec['data']:
        ahead = [colour == OURS[0] for colour in trace['marker']['color']]
        assert ahead == [gap >= 0 for gap in trace['x']]
    (_, first), (_, second) = hypotheses_of(table)
    assert first == (
        'Top-1: of 3 published pairs MambaOut is ahead in 3 and behind in 0; the gaps are +0.2 to '
        '+0.5 points.'
    )
    assert 'ahead in 0 and behind in 6; the gaps are \u22122.3 to \u22120.9 points' in second


def test_gaps_are_bars():
    table = gaps_of(published_results())
    (axis,) = draw_gaps(gaps_of(published_results())).axes
    heights = sorted(round(bar.get_height(), 1) for bar in axis.patches)
    assert heights == sorted(table['gap'])
    assert 'batch of 8' in axis.get_title()
