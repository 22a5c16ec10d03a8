"""The report in a headless Chromium, and its tables and figures without one.

Every number of the comparison here is synthetic; the published ones are the real table.
"""

import json
import math

import numpy as np
import pytest
from support_browser import Visit, chromium

from mambaout_mm.comparison.catalogue import Network
from mambaout_mm.comparison.figures import MIXERS, OURS
from mambaout_mm.comparison.page import PAGE_COLUMNS, get_plotlyjs, render, script_json
from mambaout_mm.comparison.published_results import published_results
from mambaout_mm.comparison.records import NAN, Record, to_frame
from mambaout_mm.comparison.result import Comparison
from mambaout_mm.comparison.sections.cost import CostSection
from mambaout_mm.comparison.sections.growth import GrowthSection, missing_points
from mambaout_mm.comparison.sections.published import published_records
from mambaout_mm.comparison.sections.receptive_field import ErfMap
from mambaout_mm.comparison.sections.sequence import SequenceSection
from mambaout_mm.comparison.summary import summary
from mambaout_mm.files import write_text

SYNTHETIC = {'MambaOut-T': 'Conv', 'VMamba-T': 'Conv+SSM', 'ConvNeXt-T': 'Conv', 'Swin-T': 'Attn'}
NAMES = {'MambaOut-T': 'MambaOut-Tiny', 'VMamba-T': 'VMamba-T[s1l8]', 'Swin-T': 'Swin-T'}
SIZES = ('224x224', '512x512', '1024x1024', '2048x2048')
HOSTILE = 'a < b & "c" </script><b>bold</b>'
MACHINE = dict(device='synthetic processor', threads=1, torch='0.0', date='2000-01-01', budget=60.0)


def record(section, backbone, quantity, value, unit, origin, **fields):
    mixer = {**SYNTHETIC, 'ViT-S/16': 'Attn'}.get(backbone, '')
    return Record(
        section=section,
        backbone=backbone,
        mixer=mixer,
        quantity=quantity,
        value=value,
        unit=unit,
        origin=origin,
        **fields,
    )


def synthetic_cost(name, i):
    yield record('cost', name, 'params', 20 + i, 'M', 'computed', note='with its output norms')
    for model, size in (
        ('backbone', '224x224'),
        ('backbone', '800x1280'),
        ('Mask R-CNN', '800x1280'),
        ('UperNet', '512x2048'),
    ):
        beside = dict(note='not published')
        if model != 'backbone' and i != 1:
            beside = dict(published=260.0, difference=0.2, source='paper', note='a caveat')
        at = dict(model=model, size=size)
        yield record('cost', name, 'MACs', 260.5 + 1000 * (i == 2), 'G', 'computed', **at, **beside)


def synthetic_stages(name, i):
    for stage in range(1, 5):
        where = dict(setting=f'stage {stage}')
        for size in ('224x224', '800x1280'):
            tokens = 3136 * 4 ** (1 - stage) * (1 if size == '224x224' else 20)
            yield record('sequence', name, 'tokens', tokens, '', 'computed', size=size, **where)
            ratio = dict(size=size, **where)
            yield record(
                'sequence', name, 'tokens / 6D', tokens / 600 / stage, '', 'computed', **ratio
            )
        yield record(
            'sequence', name, 'attention overtakes at', 96 * stage, 'px', 'computed', **where
        )
        field, note = (math.inf, 'the whole image') if i == 1 else (40.0 * stage, '')
        name_of = 'theoretical receptive field'
        yield record('receptive field', name, name_of, field, 'px', 'computed', note=note, **where)
        for share in (50, 95):
            quantity = f'side holding {share} % of the gradient'
            size = dict(size='512x512', note='random weights')
            yield record(
                'receptive field', name, quantity, share * stage, 'px', 'measured', **where, **size
            )


def synthetic_growth(name, i):
    for setting, factor in (('forward, fp32', 1), ('forward+backward, fp32', 3)):
        for size in SIZES:
            tokens = (int(size.split('x')[0]) / 16) ** 2
            ms = factor * (1 + i / 4) * (tokens / 10 + (tokens**2 / 3000 if i == 4 else 0))
            lost = i == 4 and size == '2048x2048'
            seen = NAN if lost else 1.0
            common = dict(setting=setting, size=size)
            note = f'out of memory: {HOSTILE}' if lost else 'median of 5'
            spread = dict(low=0.9 * ms * seen, high=1.2 * ms * seen, note=note)
            yield record('growth', name, 'time', ms * seen, 'ms', 'measured', **common, **spread)
            memory = dict(common, note=note)
            yield record(
                'growth', name, 'peak memory', tokens / 9 * seen, 'MB', 'measured', **memory
            )
        slope, spread = 1.0 + i / 9, dict(low=0.95, high=1.05)
        if i == 4:
            slope, spread = NAN, dict(note='not fitted: 3 sizes, four are needed')
        at = dict(setting=setting)
        yield record('growth', name, 'exponent of time', slope, '', 'measured', **at, **spread)


def synthetic_runs():
    yield record('runs', 'my-run', 'box AP', 0.451, '', 'run', model='Mask R-CNN', setting='final')
    beside = dict(setting='difference to other', low=-0.5, high=0.3, note='95 % interval')
    yield record('runs', 'my-run', 'box AP', -0.1, '%', 'run', **beside)


def synthetic_frame(sections=('cost', 'stages', 'growth', 'published', 'runs')):
    records = []
    for i, name in enumerate((*SYNTHETIC, 'ViT-S/16')):
        if 'cost' in sections and name != 'ViT-S/16':
            records += synthetic_cost(name, i)
        if 'stages' in sections and name != 'ViT-S/16':
            records += synthetic_stages(name, i)
        if 'growth' in sections:
            records += synthetic_growth(name, i)
    if 'cost' in sections:
        broken = dict(note='failed: RuntimeError: ' + HOSTILE)
        records.append(record('cost', 'Broken', '', NAN, '', 'computed', **broken))
    if 'published' in sections:
        records += published_records(published_results(), {})
    if 'runs' in sections:
        records += synthetic_runs()
    return to_frame(records)


def synthetic_erf():
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    return [
        ErfMap(name, stage, '200x200', 'random', np.exp(-(x**2 + y**2) * 30 / stage))
        for name in SYNTHETIC
        for stage in range(1, 5)
    ]


def comparison_of(frame, names=NAMES):
    entries = [Network(name, '', {}, published) for name, published in names.items()]
    return Comparison(frame, entries, MACHINE, {'receptive field': synthetic_erf()})


def write(path, frame):
    write_text(path, render(comparison_of(frame)))
    return path


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp('report') / 'report.html', synthetic_frame())


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope='module')
def visit(browser, path):
    return Visit(browser, path, viewport=dict(width=1280, height=900))


@pytest.fixture
def page(visit):
    return visit.page


def column(page, table, index):
    """Keys of the visible cells of a column."""
    return page.evaluate(
        '([id, i]) => [...document.getElementById(id).tBodies[0].rows].filter(r => !r.hidden)'
        '.map(r => r.cells[i].dataset.key ?? r.cells[i].textContent.trim())',
        [table, index],
    )


# In the browser.


def test_loads_without_an_error_and_without_leaving_the_page(visit, path):
    visit.page.wait_for_selector('#gaps .main-svg')
    visit.page.hover('#gaps')
    visit.page.select_option('select[data-figure=detection]', index=1)
    assert visit.errors == []
    own = [url for url in visit.requests if not url.startswith('data:')]
    assert own == [path.as_uri()]
    buttons = visit.page.locator('#gaps .modebar-btn').evaluate_all(
        'all => all.map(b => b.dataset.title)'
    )
    assert buttons and not [b for b in buttons if b is None or 'hare' in b or 'loud' in b]


@pytest.mark.parametrize(('table', 'index'), [('records', 6), ('summary', 5), ('cost', 4)])
def test_sorts_numbers_by_value_with_empty_cells_last(page, table, index):
    button = page.locator(f'#{table} th[data-column="{index}"] button')
    for direction in ('ascending', 'descending'):
        button.focus()
        page.keyboard.press('Enter')
        assert button.locator('..').get_attribute('aria-sort') == direction
        keys = column(page, table, index)
        filled = [float(key) for key in keys if key]
        assert filled == sorted(filled, reverse=direction == 'descending')
        assert len(set(filled)) > 1 and '' in keys
        assert not any(keys[len(filled) :])


def test_sorts_words(page):
    page.click('#records th[data-column="0"] button')
    names = column(page, 'records', 0)
    assert names.index('ConvNeXt-T') < names.index('MambaOut-T') < names.index('VMamba-T')


def test_filters_by_words_and_by_selects(page):
    frame = synthetic_frame()
    counter = page.locator('#counter')
    assert counter.inner_text() == f'{len(frame)} of {len(frame)} rows'
    page.fill('#search', 'TIME vmamba-t forward+backward')
    assert counter.inner_text() == f'{len(SIZES) + 1} of {len(frame)} rows'
    assert set(column(page, 'records', 0)) == {'VMamba-T'}
    page.select_option('select[data-column="9"]', 'published')
    assert counter.inner_text() == f'0 of {len(frame)} rows'
    page.fill('#search', '')
    expected = int((frame['origin'] == 'published').sum())
    assert counter.inner_text() == f'{expected} of {len(frame)} rows'
    assert set(column(page, 'records', 1)) == {'published'}
    page.select_option('select[data-column="0"]', 'MambaOut-Tiny')
    assert set(column(page, 'records', 0)) == {'MambaOut-Tiny'}
    for index in (0, 9):
        page.select_option(f'select[data-column="{index}"]', '')


def test_a_select_changes_what_a_figure_shows(page):
    def shown():
        return page.evaluate(
            'const d = document.getElementById("segmentation"); [d.layout.xaxis.title.text, '
            'd.layout.yaxis.title.text, d.data.filter(t => t.visible).map(t => t.x.length)]'
        )

    x, y, points = shown()
    assert (x, y) == (
        'MACs, G (published; a scan counts 9 L D N)',
        'mIoU, single-scale, % (published)',
    )
    rows = published_results()
    rows = rows[(rows['schedule'] == '160k') & rows['miou_ss'].notna()]
    assert sum(points) == rows['macs_g'].notna().sum() < len(rows)
    assert 'PlainMamba-L1' in page.inner_text('#segmentation-missing')
    page.select_option(
        'select[data-figure=segmentation]', label='UperNet 60k: mIoU, single-scale by params'
    )
    x, y, points = shown()
    assert (x, sum(points)) == ('params, M (published)', 4)  # Vim and the DeiT beside it
    assert page.inner_text('#segmentation-missing') == ''


@pytest.mark.parametrize('scheme', ['dark', 'light'])
@pytest.mark.parametrize('width', [400, 1280])
def test_is_readable_at_any_width_in_any_light(page, width, scheme):
    page.set_viewport_size(dict(width=width, height=900))
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(
        f'[...document.querySelectorAll(".main-svg")].every(e => e.clientWidth < {width})'
    )
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    sizes = page.evaluate(
        '[...document.querySelectorAll("body *")].filter(e => [...e.childNodes].some(n => '
        'n.nodeType === 3 && n.data.trim()) && e.getClientRects().length)'
        '.map(e => [parseFloat(getComputedStyle(e).fontSize), e.textContent])'
    )
    assert len(sizes) > 1000
    assert [text for size, text in sizes if size < 11] == []
    assert page.evaluate(CONTRASTS) == []


# Texts of cells, captions and headings whose contrast with what lies behind them is below 4.5.
CONTRASTS = """(() => {
  const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('p, small, a, th, dt, dd, li, label, #summary td')]
    .filter(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05) < 4.5;
    }).map(e => e.textContent);
})()"""


def test_text_is_shown_as_text(page):
    assert page.locator('b').count() == 0  # plotly's tooltips are SVG
    assert HOSTILE in page.inner_text('.warn')
    assert HOSTILE in page.inner_text('#records')


def test_no_text_ends_the_script_it_is_in():
    text = script_json(dict(key=HOSTILE))
    assert '<' not in text and json.loads(text) == dict(key=HOSTILE)


def test_an_empty_cell_says_why(page):
    texts = page.locator('td[data-key=""]').all_text_contents()
    assert [text for text in texts if text.strip() == '\u2013'] == []
    reasons = page.locator('#summary td[data-key=""] small')
    assert set(reasons.all_inner_texts()) == {
        'failed',
        'not computed',
        'not fitted: 3 sizes, four are needed',
        'not measured',
        'not published',
    }
    fitted = page.locator('#exponents tr:has(th[data-key="ViT-S/16"]) small').nth(1)
    assert fitted.inner_text() == 'not fitted: 3 sizes, four are needed'
    broken = page.locator('#summary tr:has(th[data-key=Broken]) td').first
    assert broken.get_attribute('title') == f'failed: RuntimeError: {HOSTILE}'


def test_sections_without_records_are_not_shown(browser, tmp_path):
    frame = synthetic_frame(['cost'])
    visit = Visit(browser, write(tmp_path / 'report.html', frame))
    headings = visit.page.locator('h2').all_inner_texts()
    assert headings == [
        'How to read this',
        'Made on',
        'In short',
        'Cost',
        'Your runs',
        'All records',
    ]
    assert '--runs work_dirs/a' in visit.page.inner_text('body')
    assert visit.page.locator('#summary .published').count() == 0
    visit.page.close()


# Without a browser.


def test_the_file_is_one_whole_small_and_the_same_again(path, tmp_path):
    again = write(tmp_path / 'report.html', synthetic_frame())
    assert again.read_bytes() == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ['report.html']
    without_plotly = path.read_text().replace(str(get_plotlyjs()), '')
    assert len(without_plotly) < 1_000_000


def test_a_report_of_nothing_is_a_report(tmp_path):
    text = write(tmp_path / 'report.html', to_frame([])).read_text()
    assert '<h2 id="all">' in text and 'id="summary"' not in text


def test_growth_has_log_axes_and_no_point_where_none_was_measured():
    comparison = comparison_of(synthetic_frame(['growth']))
    figures = GrowthSection().figures(comparison)
    assert [figure.title for figure in figures] == [
        'Time: forward, fp32',
        'Peak memory: forward, fp32',
        'Time: forward+backward, fp32',
        'Peak memory: forward+backward, fp32',
    ]
    for figure in figures:
        layout = figure.spec['layout']
        assert layout['xaxis']['type'] == layout['yaxis']['type'] == 'log'
        curves = {trace['name']: list(trace['x']) for trace in figure.spec['data']}
        assert curves['MambaOut-T'] == [14**2, 32**2, 64**2, 128**2]
        assert curves['ViT-S/16'] == [14**2, 32**2, 64**2]
    missing = missing_points(comparison.rows)
    assert ('ViT-S/16', 'time, forward, fp32, at 2048x2048', f'out of memory: {HOSTILE}') in missing


def test_a_mixer_has_its_own_colour_and_shape():
    styles = [OURS, *MIXERS.values()]
    assert all(len(set(kind)) == len(styles) for kind in zip(*styles, strict=True))


def test_the_summary_takes_time_where_all_have_it_and_keeps_origins_apart():
    (table,) = summary(comparison_of(synthetic_frame()))
    assert [origin for origin, *_ in table.groups] == ['computed', 'measured', 'published']
    by_title = {c.title: i for i, c in enumerate(table.columns)}
    assert table.columns[by_title['time, ms']].small == 'forward, fp32, 1024x1024'
    assert table.columns[by_title['peak memory, MB']].small == 'forward+backward, fp32, 1024x1024'
    cells = {backbone: cells for backbone, _, cells in table.rows}
    assert cells['MambaOut-T'][by_title['box AP, %']].text == '45.1'
    note = cells['MambaOut-T'][by_title['box AP, %']].note
    assert table.notes[note - 1].startswith('MambaOut-Tiny in arXiv 2405.07992 table 2')
    assert cells['ViT-S/16'][by_title['box AP, %']].small == 'not published'
    assert cells['VMamba-T'][by_title['receptive field, px']].text == '200'
    assert all(cell.text == '\u2013' for cell in cells['Broken'])


def test_another_schedule_does_not_stand_in_for_the_one_asked():
    records = [record('cost', 'Vim-Ti', 'params', 7.0, 'M', 'computed')]
    records += published_records(published_results(), {})
    (table,) = summary(comparison_of(to_frame(records), {'Vim-Ti': 'Vim-Ti'}))
    cells = table.rows[0][2]
    assert cells[1].text == '76.1'
    assert cells[2].title.startswith('not published: only with Cascade Mask R-CNN')
    assert cells[3].title == 'not published: only with UperNet, 60k'


def test_costs_stand_beside_the_published_ones():
    (table,) = CostSection().tables(comparison_of(synthetic_frame(['cost'])))
    cells = {backbone: cells for backbone, _, cells in table.rows}
    mask = [c.group for c in table.columns].index('Mask R-CNN')
    assert cells['MambaOut-T'][mask].small == 'published 260 (+0.2\u00a0%)'
    assert table.notes[cells['MambaOut-T'][mask].note - 1] == 'paper; a caveat'
    assert cells['VMamba-T'][mask].small == 'not published'


def test_a_failure_is_the_reason_where_it_happened_and_no_further():
    point = dict(setting='forward, fp32', size='224x224')
    comparison = comparison_of(
        to_frame(
            [
                record('cost', 'VMamba-T', 'params', 30.0, 'M', 'computed'),
                record('cost', 'Swin-T', 'params', 28.0, 'M', 'computed'),
                record('sequence', 'Swin-T', 'tokens / 6D', 2.0, '', 'computed'),
                record('growth', 'Swin-T', 'time', 3.0, 'ms', 'measured', **point),
                record('growth', 'VMamba-T', 'all', NAN, '', 'measured', note='out of memory'),
                record('cost', 'Broken', '', NAN, '', 'computed', note='failed: always'),
            ]
        )
    )
    assert comparison.rows.failures == [('VMamba-T', 'out of memory'), ('Broken', 'failed: always')]
    (table,) = summary(comparison)
    titles = {backbone: [cell.title for cell in cells] for backbone, _, cells in table.rows}
    assert titles['VMamba-T'] == ['', 'out of memory']
    assert titles['Broken'] == ['failed: always', 'failed: always']
    (table,) = SequenceSection().tables(comparison)
    (_, _, cells) = table.rows[0]
    assert cells[0].small == 'not computed'


def test_the_records_table_has_its_columns_in_this_order():
    assert ' '.join(PAGE_COLUMNS) == (
        'backbone section model quantity setting size value unit interval origin published source '
        'note'
    )
