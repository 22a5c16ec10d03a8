"""Stock configs of mmdet and mmseg run with MambaOut, as they are printed."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mambaout_mm.errors import UserError
from mambaout_mm.transplant import run, sweep
from mambaout_mm.transplant.run import adopt, only_one, try_config, try_stock
from mambaout_mm.transplant.text import config_path
from mambaout_mm.transplant.trial import try_model

FEMTO = only_one('MambaOut-Femto')
SIZE = (64, 96)
RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'


@pytest.mark.parametrize(
    'name',
    [
        RETINANET,
        'mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py',
        'mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py',
        'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
        'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        'mmdet::guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py',
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
        'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
        'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        'mmseg::psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        'mmseg::dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        'mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py',
    ],
    ids=lambda name: name.split('/')[1].split('_4xb')[0],
)
def test_algorithms_with_a_resnet50_run_with_mambaout(name):
    path = config_path(name)
    _, cfg = adopt(Config.fromfile(path), path, FEMTO)
    trial = try_model(cfg, SIZE)
    assert trial.predictions == 2
    assert [name for name in trial.without_gradient if name.startswith('backbone.')] == []


def test_what_is_printed_is_the_whole_difference(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, 'try_model', lambda cfg: try_model(cfg, SIZE))
    out = tmp_path / 'folder' / 'mine.py'
    try_config(RETINANET, 'MambaOut-Femto', out)
    printed = capsys.readouterr().out
    assert out.read_text() in printed
    assert "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'" in printed
    assert 'every parameter got a gradient' in printed
    written, stock = Config.fromfile(out), Config.fromfile(config_path(RETINANET))
    assert written.model.backbone.out_indices == (1, 2, 3)
    assert written.model.bbox_head.num_classes == stock.model.bbox_head.num_classes
    assert written.train_dataloader.dataset.ann_file == stock.train_dataloader.dataset.ann_file


def test_norms_that_nobody_uses_are_named():
    cfg = Config.fromfile(config_path(RETINANET))
    cfg.model.backbone = dict(FEMTO.backbone)  # all four maps, of which FPN leaves the first
    cfg.model.neck.in_channels = [48, 96, 192, 288]
    trial = try_model(cfg, SIZE)
    assert trial.without_gradient == ['backbone.norm0.weight', 'backbone.norm0.bias']
    assert 'find_unused_parameters = True' in run.describe(trial, cfg)
    cfg.find_unused_parameters = True
    assert 'find_unused' not in run.describe(trial, cfg)


def broken(tmp_path, text):
    (tmp_path / 'config.py').write_text(f"_base_ = '{RETINANET}'\n{text}")
    return str(tmp_path / 'config.py')


def test_a_failure_says_whether_the_config_has_it_too(tmp_path, capsys):
    path = broken(tmp_path, "model = dict(bbox_head=dict(loss_cls=dict(type='NoSuchLoss')))")
    with pytest.raises(UserError, match='cannot be built.*NoSuchLoss.*So does the config with'):
        try_config(path, 'MambaOut-Femto')
    assert 'mambaout_mm.MambaOut' in capsys.readouterr().out  # the config is there all the same


def test_a_stop_in_the_middle_names_the_place(tmp_path):
    path = broken(tmp_path, 'model = dict(train_cfg=dict(assigner=dict(pos_iou_thr="much")))')
    with pytest.raises(UserError, match=r'the loss step stops: TypeError.*\(mmdet/models/.*, line'):
        try_stock(Config.fromfile(path))


def test_a_preset_is_no_backbone():
    with pytest.raises(UserError, match="'tiny' is a preset of 5 backbones; name one"):
        only_one('tiny')


def test_the_sweep_takes_the_first_config_of_each_algorithm():
    found = {path.parent.name: path.name for path in sweep.algorithms('mmdet')}
    assert len(found) > 80
    assert found['atss'] == 'atss_r50_fpn_1x_coco.py'
    assert 'yolox' not in found  # it has no ResNet
    assert len(sweep.algorithms('mmseg')) > 20


def test_the_sweep_outlives_trials_that_crash_or_hang(tmp_path, monkeypatch, capsys):
    def outcome(path, backbone):
        if backbone is None:
            return 'runs', []
        if path.stem == 'crash':
            import os

            os._exit(7)
        while path.stem == 'hang':
            pass
        return 'runs', ['backbone.norm0.weight']

    names = ('crash', 'hang', 'works')
    paths = [tmp_path / name / f'{name}.py' for name in names]
    monkeypatch.setattr(sweep, 'outcome', outcome)
    monkeypatch.setattr(sweep, 'algorithms', lambda package: paths)
    monkeypatch.setattr(sweep, 'stock_configs', lambda package: tmp_path)
    rows = sweep.sweep('mmdet', out=tmp_path / 'rows.csv', limit=0.5)
    assert [row['ours'] for row in rows] == [
        'the process ended with code 7',
        'no end within 0.5 seconds',
        'runs',
    ]
    assert rows[2]['without_gradient'] == 'backbone.norm0.weight'
    assert len(Path(tmp_path / 'rows.csv').read_text().splitlines()) == 4
    assert '3 algorithms, of which 3 run with their ResNet-50, and 1' in capsys.readouterr().out
    monkeypatch.setattr(sweep, 'outcome', None)  # all rows are there
    assert sweep.sweep('mmdet', out=tmp_path / 'rows.csv') == rows
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    with pytest.raises(UserError, match='other columns than algorithm, config'):
        sweep.sweep('mmdet', out=tmp_path / 'other.csv')
