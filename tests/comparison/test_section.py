"""A section that is added to the list of sections is shown and written wherever the others are."""

import pytest
from matplotlib.figure import Figure as Picture

from mambaout_mm.comparison import output, page, summary
from mambaout_mm.comparison.figures import Figure, figure_spec
from mambaout_mm.comparison.records import Record, to_frame
from mambaout_mm.comparison.result import Comparison
from mambaout_mm.comparison.section import Section
from mambaout_mm.comparison.sections import FLAGS, SECTIONS
from mambaout_mm.comparison.tables import Column, SummaryColumn, pivot


class HeatSection(Section):
    """A section that only this test knows."""

    name = 'waste heat'
    flag = 'heat'
    heading = 'Waste heat'
    template = (
        '<p>Warm: {{ warmest }}</p>{% for t in tables %}{{ table_of(t, "Heat") }}{% endfor %}'
    )

    def tables(self, comparison):
        rows = comparison.rows.of(self.name)
        return pivot(comparison.rows, rows, 'heat', lambda row: ('', 'joules'))

    def summary_columns(self, comparison, notes):
        (row,) = comparison.rows.of(self.name)
        column = Column('computed', '', 'heat of a call')
        return [SummaryColumn(column, comparison.rows.column(row))]

    def figures(self, comparison):
        return [Figure('heat-figure', 'Heat', figure_spec([]), [])]

    def context(self, comparison):
        return dict(warmest='a < b')

    def pictures(self, comparison):
        yield self.flag, Picture()


@pytest.fixture
def files(monkeypatch, tmp_path):
    for module in (output, page, summary):
        monkeypatch.setattr(module, 'SECTIONS', (*SECTIONS, HeatSection()))
    record = Record(
        section='waste heat',
        backbone='a',
        quantity='heat',
        value=17.25,
        unit='J',
        origin='computed',
    )
    output.write_files(Comparison(to_frame([record]), [], dict(device='a machine')), tmp_path)
    return tmp_path


def test_its_part_of_the_page(files):
    text = (files / 'report.html').read_text()
    assert '<a href="#waste-heat-section">Waste heat</a>' in text
    assert '<p>Warm: a &lt; b</p>' in text
    assert 'id="heat"' in text and '17.25' in text and '"heat-figure"' in text


def test_its_tables_and_its_column_of_the_summary(files):
    text = (files / 'table.md').read_text()
    assert '## Waste heat\n' in text and 'joules (computed from the models)' in text
    assert 'heat of a call (computed from the models)' in text.split('## Waste heat')[0]
    assert (files / 'table.csv').read_text().splitlines()[1].startswith('waste heat,a,')


def test_its_picture(files):
    assert (files / 'heat.png').stat().st_size > 0


def test_names_flags_and_headings_are_those_of_one_section():
    assert FLAGS == ('cost', 'sequence', 'erf', 'growth', 'published', 'runs')
    for attribute in ('name', 'flag', 'heading', 'anchor'):
        assert len({getattr(section, attribute) for section in SECTIONS}) == len(SECTIONS)
