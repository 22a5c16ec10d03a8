"""The published results: complete, with their sources, and never mixed."""

import pytest

from mambaout_mm.comparison.published_results import published_results, recipe_of


@pytest.fixture(scope='module')
def rows():
    return published_results()


def test_every_row_has_its_source_and_an_accuracy(rows):
    assert not rows.duplicated(['method', 'schedule', 'backbone', 'input', 'source']).any()
    assert (rows['source'] != '').all()
    assert rows[['ap_box', 'ap_mask', 'miou_ss', 'miou_ms', 'top1']].notna().any(axis=1).all()


def test_caveats_hold_the_row_s_note_and_the_authors_recipe(rows):
    row = rows[(rows['backbone'] == 'PlainMamba-L1 (Adapter)')].iloc[0]
    assert row['caveat'].startswith('ViT-Adapter pyramid, not backbone-to-backbone; FP32')
    assert recipe_of('VMambaV9-S', 'segmentation').startswith('FP32, 8 x 2 images, lr 6e-5')
    assert row['caveat'].endswith("its MACs add the scan's floating-point operations")
    assert recipe_of('LocalVMamba-T', 'detection').startswith('mixed precision')
    assert recipe_of('ConvNeXt-T', 'detection') == ''
    assert recipe_of('LocalVim-T', 'segmentation').startswith('FP32')


def test_only_vmambas_first_tiny_is_not_averaged(rows):
    own = rows[(rows['task'] == 'classification') & rows['backbone'].str.startswith('VMamba')]
    averaged = own['caveat'].str.contains('averaged weights')
    assert set(own[~averaged]['backbone']) == {'VMamba-T', 'VMamba-T v0'}


# Where a row of MambaOut's tables differs from its original: what the note has to name.
CONFLICTS = {
    ('ViT-Adapter-B', 'detection'): '120M',
    ('VMamba-B', 'detection'): '48.6 / 70.0 / 53.1 and 43.3 / 67.1 / 46.7',
    ('Swin-S', 'detection'): '63.4',
    ('TransNeXt-Tiny', 'segmentation'): '51.5',
    ('TransNeXt-Small', 'segmentation'): '52.5',
    ('TransNeXt-Base', 'segmentation'): '53.5',
    ('Twins-B', 'segmentation'): '47.4',
    ('HorNet-B', 'classification'): '84.5',
    ('LocalVim-S', 'classification'): '81.1',
    ('VMambaV9-S', 'detection'): '70M and 349G',
    ('VMambaV9-B', 'detection'): 'batch of 8',
    ('VMamba-B[s2l15]', 'detection'): '49.2 / 43.9',
    ('Vim-S', 'classification'): '80.3',
    ('Vim-S+', 'classification'): '81.6',
}


@pytest.mark.parametrize(('backbone', 'task'), CONFLICTS)
def test_a_conflict_with_the_original_is_noted(backbone, task, rows):
    (row,) = rows[(rows['backbone'] == backbone) & (rows['task'] == task)].to_dict('records')
    assert CONFLICTS[backbone, task] in row['note']


def test_sources_are_where_the_numbers_stand(rows):
    own = rows[rows['source'].str.startswith('MzeroMiko/VMamba')]
    elsewhere = own['backbone'].str.contains('s2l5|s1l20|v0')
    assert own[elsewhere]['source'].str.contains('assets/performance.md').all()
    assert own[~elsewhere]['source'].str.contains('README').all()
    plain = rows[rows['source'].str.startswith('PlainMamba README') & (rows['top1'] > 0)]
    assert plain['params_m'].tolist() == [7.3, 25.7, 50.5]
    vim = rows[rows['source'].str.startswith('Vim') & rows['backbone'].str.startswith('Vim')]
    assert len(vim) == 9 and vim['macs_g'].isna().all()


def test_vims_paper_has_deit_beside_it(rows):
    own = rows[rows['source'].str.startswith('Vim paper')].set_index('backbone')
    miou = own['miou_ss'].dropna()
    assert miou.to_dict() == {'Vim-Ti': 41.0, 'Vim-S': 44.9, 'DeiT-Ti': 39.2, 'DeiT-S': 44.0}
    cascade = own[own['schedule'] == '100e']
    assert cascade['ap_box'].to_dict() == {'Vim-Ti': 45.7, 'DeiT-Ti': 44.4}
    assert cascade['ap_mask'].to_dict() == {'Vim-Ti': 39.2, 'DeiT-Ti': 38.1}
    tuned = own[own['schedule'] == '300e + 30e']['top1']
    assert tuned.to_dict() == {'Vim-Ti+': 78.3, 'Vim-S+': 81.4, 'Vim-B+': 83.2}
