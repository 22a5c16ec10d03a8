"""Whole models as ONNX files give what the models give, for images of any size."""

import csv
import re
import runpy
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from support import ROOT, needs_torch
from support_models import small_config
from torch import nn

from mambaout_mm.errors import UserError
from mambaout_mm.export import write
from mambaout_mm.export.segmentor import ExportedSegmentor, PoolingByProducts
from mambaout_mm.export.write import exportable, write_onnx
from mambaout_mm.measure.complexity import build_model
from mambaout_mm.training.onnx_model import OnnxModel

pytest.importorskip('onnxscript', reason="PyTorch's exporter needs it")
pytestmark = needs_torch('2.7', 'before, an exported graph has operators of this package')
SIZES = [(96, 160), (133, 75)]
ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
WIDTHS = {
    'maskrcnn': ('neck', [8, 16, 24, 32]),
    'retinanet': ('neck', [16, 24, 32]),
    'upernet': ('decode_head', [8, 16, 24, 32]),
}


def config_of(name, folder):
    """A small model of the kind."""
    if name == 'retinanet':
        cfg = Config.fromfile(ROOT / 'configs' / 'detection' / 'retinanet_mambaout_t.py')
        cfg.model.neck.out_channels = 16
        cfg.model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1)
        cfg.model.test_cfg.nms_pre = 64
    else:
        cfg = Config.fromfile(small_config(name, folder))
    cfg.model.backbone.update(arch=ARCH, init_cfg=None)
    part, widths = WIDTHS[name]
    cfg.model[part].in_channels = widths
    if name == 'upernet':
        cfg.model.auxiliary_head.in_channels = widths[2]
    return cfg


@pytest.fixture(scope='module', params=WIDTHS)
def exported(request, tmp_path_factory):
    """A config, its model with random weights that find something, and the ONNX file of both."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = config_of(request.param, folder)
    MMLogger.get_current_instance().setLevel('WARNING')
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for name, factor in (('fc_cls', 6), ('retina_cls', 1.5)):
            for key, parameter in model.named_parameters():
                if key.endswith(f'{name}.weight'):
                    parameter *= factor
                elif key.endswith(f'{name}.bias'):
                    parameter.normal_(-1)
    torch.save(model.state_dict(), folder / 'weights.pth')
    write_onnx(cfg, str(folder / 'weights.pth'), folder / 'model.onnx')
    return cfg, model.eval(), folder / 'model.onnx'


def image_of(height, width):
    """Pixels with large shapes, (3, H, W)."""
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(height))
    return nn.functional.interpolate(coarse, (height, width), mode='bilinear')[0].mul(255).byte()


def sample_of(cfg, size):
    if cfg.default_scope == 'mmseg':
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    height, width = size
    meta = dict(img_shape=size, pad_shape=size, img_id=0, scale_factor=(0.5, 0.5))
    return Sample(metainfo=dict(meta, ori_shape=(2 * height, 2 * width)))


@pytest.mark.slow
@pytest.mark.parametrize('size', SIZES)
def test_onnxruntime_predicts_what_the_model_predicts(exported, size):
    cfg, model, file = exported
    task = 'segmentation' if cfg.default_scope == 'mmseg' else 'detection'
    batch = dict(inputs=[image_of(*size)])
    with torch.no_grad():
        (expected,) = model.test_step(dict(batch, data_samples=[sample_of(cfg, size)]))
    (found,) = OnnxModel(str(file), task).test_step(
        dict(batch, data_samples=[sample_of(cfg, size)])
    )
    if task == 'segmentation':
        same = found.pred_sem_seg.data == expected.pred_sem_seg.data
        assert same.shape == (1, 2 * size[0], 2 * size[1]) and same.float().mean() > 0.999
        assert expected.pred_sem_seg.data.unique().numel() > 1
        return
    ours, theirs = found.pred_instances, expected.pred_instances
    assert len(ours) == len(theirs) > 2
    assert torch.equal(ours.labels, theirs.labels)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.bboxes, theirs.bboxes, atol=1e-2, rtol=0)
    if 'masks' in theirs:
        assert (ours.masks == theirs.masks).float().mean() > 0.999
        assert theirs.masks.any()


@pytest.mark.slow
def test_the_tool_scores_the_file_as_it_scores_the_checkpoint(
    exported, published_data, tmp_path, run_tool, monkeypatch
):
    cfg, _, file = exported
    monkeypatch.chdir(published_data)
    cfg.dump(tmp_path / 'config.py')
    scores = []
    for checkpoint in (file.with_name('weights.pth'), file):
        code, out, err = run_tool(
            'test.py', tmp_path / 'config.py', checkpoint, '--work-dir', tmp_path, '--cfg-options',
            'test_dataloader.dataset.indices=2', 'test_dataloader.num_workers=0',
            'test_dataloader.persistent_workers=False',
        )  # fmt: skip
        assert code == 0, err[-2000:]
        scores.append(re.findall(r'(?:mIoU|bbox_mAP|segm_mAP): +([-\d.]+)', out + err))
    assert scores[0] and scores[0] == scores[1]


@pytest.mark.slow
def test_the_benchmark_times_both(exported, published_data, tmp_path, monkeypatch):
    cfg, _, file = exported
    monkeypatch.chdir(published_data)
    cfg.dump(tmp_path / 'config.py')
    main = runpy.run_path(str(ROOT / 'benchmarks' / 'exported.py'))['main']
    paths = [tmp_path / 'config.py', file.with_name('weights.pth'), file]
    main([*map(str, paths), '--images', '2', '--rounds', '2', '--out', str(tmp_path)])
    with open(tmp_path / 'exported.csv') as table:
        rows = list(csv.DictReader(table))
    assert [row['by'] for row in rows] == ['PyTorch', 'onnxruntime']
    assert all(row['images'] == '2' and float(row['median_s']) > 0 for row in rows)
    detector = cfg.default_scope == 'mmdet'
    assert all((int(row['objects']) > 0) if detector else row['objects'] == '' for row in rows)


@pytest.mark.parametrize('size', [1, (2, 3), 6])
@pytest.mark.parametrize('shape', [(7, 5), (6, 6), (3, 11)])
def test_pooling_by_products(size, shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(PoolingByProducts(size)(x), nn.AdaptiveAvgPool2d(size)(x))


@pytest.mark.parametrize(
    ('name', 'change', 'words'),
    [
        ('upernet', dict(test_cfg=dict(mode='slide', crop_size=(8, 8), stride=(8, 8))), "'slide'"),
        ('retinanet', dict(test_cfg=dict(nms=dict(type='soft_nms'))), "has 'soft_nms'"),
        ('retinanet', dict(bbox_head=dict(type='FreeAnchorRetinaHead')), 'FreeAnchorRetinaHead'),
    ],
)
def test_what_is_not_taken_is_named(name, change, words, tmp_path):
    cfg = config_of(name, tmp_path)
    cfg.merge_from_dict(dict(model=change))
    if name == 'retinanet' and 'bbox_head' in change:
        cfg.model.bbox_head.pop('loss_cls')
        cfg.model.bbox_head.pop('loss_bbox')
    with pytest.raises(UserError, match=words):
        exportable(build_model(cfg))


def test_the_model_itself_keeps_its_pooling(tmp_path):
    model = build_model(config_of('upernet', tmp_path))
    ExportedSegmentor(model)
    assert any(isinstance(module, nn.AdaptiveAvgPool2d) for module in model.modules())


def test_an_old_pytorch_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(write, 'EXPORTS_PLAIN_OPERATORS', False)
    with pytest.raises(UserError, match=r'takes PyTorch 2\.7 or newer; this is'):
        write_onnx(config_of('upernet', tmp_path), 'weights.pth', tmp_path / 'model.onnx')


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / 'model.onnx').write_bytes(b'nothing')
    with pytest.raises(UserError, match=r'model\.onnx is no ONNX file of tools/export\.py'):
        OnnxModel(str(tmp_path / 'model.onnx'), 'detection')
    with pytest.raises(UserError, match='there is no file'):
        OnnxModel(str(tmp_path / 'none.onnx'), 'detection')


def test_a_missing_onnxruntime_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match=r'model\.onnx needs onnxruntime: pip install onnxruntime'):
        OnnxModel(str(tmp_path / 'model.onnx'), 'detection')
