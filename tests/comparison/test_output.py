"""What a comparison writes: Markdown and files."""

import math

import pytest

from mambaout_mm.comparison.output import markdown_page, write_files
from mambaout_mm.comparison.published_results import published_results
from mambaout_mm.comparison.records import Record, to_frame
from mambaout_mm.comparison.result import Comparison
from mambaout_mm.comparison.sections.published import published_records

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


def test_only_what_is_there_is_drawn(tmp_path):
    frame = to_frame(published_records(published_results(), {}))
    files, failures = write_files(Comparison(frame, [], {}), tmp_path)
    names = ['table.csv', 'table.md', 'report.html', 'published.png', 'gap.png']
    assert ([path.name for path in files], failures) == (names, [])
    assert {path.name for path in tmp_path.iterdir()} == set(names)
