"""The png pictures show what the frame has, and nothing where it has nothing."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from mambaout_mm.comparison import pictures
from mambaout_mm.comparison.erf import ErfMap
from mambaout_mm.comparison.published import gaps, published_records, published_results
from mambaout_mm.comparison.records import Record, to_frame
from mambaout_mm.comparison.report.figures import MIXERS


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def growth_record(backbone, size, value, quantity='time', unit='ms'):
    return Record(
        'growth', backbone, quantity, value, unit, 'measured', 'Conv', setting='forward, fp32',
        size=size, low=0.9 * value, high=1.1 * value,
    )  # fmt: skip


def test_growth_has_logarithmic_axes_and_the_exponents():
    records = [
        growth_record(backbone, f'{side}x{side}', side**power)
        for backbone, power in (('MambaOut-T', 2), ('ConvNeXt-T', 2.2))
        for side in (64, 128, 256)
    ]
    records.append(growth_record('MambaOut-T', '512x512', math.nan))
    records.append(growth_record('MambaOut-T', '', 1.25, 'exponent of time', ''))
    figure = pictures.draw_growth(to_frame(records), 'a machine')
    (axis,) = figure.axes
    assert axis.get_xscale() == axis.get_yscale() == 'log'
    ours, theirs = axis.get_lines()
    assert ours.get_xdata().tolist() == [16, 64, 256]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ['MambaOut-T  (tokens to the power 1.25 ± 0.12)', 'ConvNeXt-T']
    assert ours.get_color() != theirs.get_color()
    assert 'a machine' in figure.get_suptitle()


def test_stages_stand_at_their_strides():
    records = [
        Record(
            'sequence', 'ViT-S/16', 'tokens / 6D', 1.7, '', 'computed', 'Attn', setting='stage 3',
            size='800x1280',
        )
    ]  # fmt: skip
    (axis,) = pictures.draw_sequence(to_frame(records)).axes
    line, overtaken = axis.get_lines()
    assert line.get_xdata().tolist() == [3] and overtaken.get_ydata() == [1, 1]


def test_the_gallery_has_a_place_for_each_stage():
    def erf(name, stage):
        return ErfMap(name, stage, '8x8', 'random', np.eye(8))

    figure = pictures.draw_erf([*(erf('a', i) for i in (1, 2, 3, 4)), erf('ViT', 3)])
    shown = [bool(axis.images) for axis in figure.axes]
    assert shown == [True] * 4 + [False, False, True, False]
    assert '8x8' in figure.get_suptitle() and 'random' in figure.get_suptitle()


def test_published_points_are_all_there():
    rows = published_results()
    figure = pictures.draw_published(rows)
    for axis, (method, schedule, accuracy, _) in zip(
        figure.axes[::2], pictures.PANELS, strict=True
    ):
        same = rows[(rows['method'] == method) & (rows['schedule'] == schedule)]
        same = same[same[accuracy].notna() & same['macs_g'].notna()]
        points = np.concatenate(
            [c.get_offsets() for c in axis.collections] + [line.get_xydata() for line in axis.lines]
        )
        expected = same[['macs_g', accuracy]].to_numpy()
        assert {tuple(p) for p in expected} == {tuple(p) for p in points}


def test_gaps_are_bars():
    table = gaps(published_results())
    (axis,) = pictures.draw_gap(published_results()).axes
    heights = sorted(round(bar.get_height(), 1) for bar in axis.patches)
    assert heights == sorted(table['gap'])
    assert 'batch of 8' in axis.get_title()


def test_every_published_mixer_has_its_mark():
    assert set(published_results()['mixer']) <= set(MIXERS)
    assert {shape for _, shape in MIXERS.values()} <= set(pictures.MARKERS)


def test_only_what_is_there_is_drawn(tmp_path):
    frame = to_frame([growth_record('a', '64x64', math.nan)])
    assert pictures.draw_pictures(frame, published_results(), [], tmp_path, '', []) == []
    frame = to_frame(published_records(published_results(), {}))
    drawn = pictures.draw_pictures(frame, published_results(), [], tmp_path, '', [])
    assert [path.name for path in drawn] == ['published.png', 'gap.png']
    assert {path.name for path in tmp_path.iterdir()} == {'published.png', 'gap.png'}


def test_backbones_of_one_colour_can_be_told_apart():
    rows = pd.DataFrame(dict(backbone=[f'Mamba-{i}' for i in range(7)], mixer='Conv+SSM'))
    looks = pictures.looks_of(rows).values()
    assert len({look['color'] for look in looks}) == 1
    assert len({(str(look['linestyle']), look['markerfacecolor']) for look in looks}) == 7
