"""What a comparison writes in Markdown."""

import math

import pytest

from mambaout_mm.comparison.output import markdown_page
from mambaout_mm.comparison.records import Record, to_frame
from mambaout_mm.comparison.result import Comparison

EVIL = 'a|b <script>alert(1)</script>\r\n`c` \\| [x](http://x) ![i](http://i) &lt;'


def page(**columns):
    run = dict(section='runs', backbone='a', model='m', quantity='box AP', setting='final')
    run |= dict(value=1.0, unit='%', origin='run') | columns
    cost = dict(section='cost', backbone='a', quantity='params', value=math.nan, unit='M')
    cost |= dict(origin='computed', note=columns.get('note', ''))
    machine = dict(device=columns.get('backbone', 'a processor'))
    return markdown_page(Comparison(to_frame([Record(**run), Record(**cost)]), [], machine))


@pytest.mark.parametrize('column', ['backbone', 'model', 'quantity', 'setting', 'note'])
def test_texts_of_others_stay_within_their_cells(column):
    shown, plain = page(**{column: EVIL}), page(**{column: 'text'})
    assert len(shown.splitlines()) == len(plain.splitlines())
    for evil, line in zip(shown.splitlines(), plain.splitlines(), strict=True):
        borders = evil.replace('\\\\', '').replace('\\|', '').count('|')
        assert borders == line.count('|')
    assert 'a\\|b &lt;script&gt;alert(1)&lt;/script&gt;<br>\\`c\\` \\\\\\|' in shown
    assert '<script' not in shown and '](' not in shown.replace('\\](', '')
    assert '&amp;lt;' in shown
