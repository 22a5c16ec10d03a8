"""Bad input to a run gets one clear sentence."""

import json

import pytest
import torch
from mmengine.config import Config
from support import ROOT

from mambaout_mm.checkpoints import CheckpointError
from mambaout_mm.errors import UserError
from mambaout_mm.measure.complexity import build_model
from mambaout_mm.training import checks, options

MASKRCNN = ROOT / 'configs' / 'detection' / 'maskrcnn_mambaout_femto.py'
UPERNET = ROOT / 'configs' / 'segmentation' / 'upernet_mambaout_femto.py'


@pytest.fixture
def cfg():
    return Config.fromfile(MASKRCNN)


def test_unknown_config_names_near_ones():
    with pytest.raises(UserError, match=r'no config .*mambout_t.py.*mambaout_t.py'):
        checks.load_config(str(MASKRCNN.with_name('maskrcnn_mambout_t.py')))


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('model = dict(', r"line 1: '\(' was never closed"),
        ('a = 1\nb = nothing', "line 2: NameError: name 'nothing' is not defined"),
        ('\n\na = 1 / 0', 'line 3: ZeroDivisionError: division by zero'),
        ("_base_ = ['./c.py']", '_base_ leads back to itself'),
        (b'\x80\x04\x95\x00\xff', 'UnicodeDecodeError'),
        (b'a = 1\x00', 'no text|null bytes'),
        ('import sys\nsys.exit(3)', 'line 2: SystemExit: 3'),
        ('default_scope = 5', "default_scope must be a name, as 'mmdet', not 5"),
        ('_base_ = 3', 'TypeError|AssertionError'),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, text, words):
    file = tmp_path / 'c.py'
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf'c.py cannot be read as a config: .*({words})') as caught:
        checks.load_config(str(file))
    assert '\n' not in str(caught.value)


def test_a_config_with_a_missing_base(tmp_path):
    (tmp_path / 'c.py').write_text("_base_ = ['./nowhere.py']")
    with pytest.raises(UserError, match=r'c.py cannot be read as a config.*nowhere.py'):
        checks.load_config(str(tmp_path / 'c.py'))


@pytest.mark.parametrize(
    'key',
    [
        'model.backbone.arch',
        'model.backbone.with_cp',  # an argument that the config does not set
        'model.roi_head.bbox_head.num_classes',
        'train_dataloader.batch_size',
        'train_dataloader.dataset.indices',
        'train_cfg.max_epochs',
        'default_hooks.checkpoint.save_last',
        'optim_wrapper.clip_grad',
        'optim_wrapper.optimizer.amsgrad',
        'param_scheduler.0.end',
        'auto_scale_lr.enable',
        'env_cfg.dist_cfg.timeout',
        'randomness.seed',
        'load_from',
        'experiment_name',
        'visualizer.save_dir',
        'find_unused_parameters',  # read by the Runner, no argument of it
        'model_wrapper_cfg',
        'param_scheduler.1.convert_to_iter_based',
    ],
)
def test_options_that_something_reads_are_taken(cfg, key):
    options.merge_options(cfg, {key: 1})
    node = cfg
    for part in key.split('.'):
        node = node[int(part)] if part.isdigit() else node[part]
    assert node == 1


@pytest.mark.parametrize(
    ('key', 'words'),
    [
        ('model.backbone.drop_path_rat', "nothing reads 'model.backbone.drop_path_rat'; did you "),
        ('model.backbone.frozen', 'model.backbone.frozen_stages'),
        ('modle.backbone.arch', "nothing reads 'modle'; did you mean model"),
        ('train_dataloader.batchsize', 'train_dataloader.batch_size'),
        ('train_cfg.max_epoch', 'train_cfg.max_epochs'),
        ('default_hooks.checkpoint.intervl', 'default_hooks.checkpoint.interval'),
        ('optim_wrapper.optimizer.lrr', 'optim_wrapper.optimizer.lr'),
        ('param_scheduler.2.end', 'param_scheduler is a list of 2'),
        ('param_scheduler.end', 'param_scheduler is a list of 2'),
        ('model.backbone.arch.depths', "model.backbone.arch is 'femto' and has no 'depths'"),
        ('data_root', 'is a variable of the config file, read already; change train_dataloader'),
        ('train_pipeline.2.scale', "'train_pipeline' is a variable of the config file"),
        ('optim_wrapper.self', "nothing reads 'optim_wrapper.self'"),
    ],
)
def test_misspelt_options_name_near_ones(cfg, key, words):
    before = cfg.pretty_text
    with pytest.raises(UserError) as caught:
        options.merge_options(cfg, {key: 1})
    assert words in str(caught.value)
    assert cfg.pretty_text == before


@pytest.mark.parametrize(
    ('without', 'words'),
    [
        (None, None),
        ('message_hub', 'has no message_hub, so that a training cannot go on from it'),
        ('optimizer', 'has no optimizer'),
        ('meta', 'has no meta.epoch, meta.iter,'),
        ('epoch', 'has no meta.epoch,'),
    ],
)
def test_checkpoints_that_a_training_can_go_on_from(tmp_path, without, words):
    meta = dict(epoch=1, iter=3, seed=5)
    content = dict(meta=meta, message_hub={}, optimizer={}, state_dict={'a': torch.zeros(1)})
    content.pop(without, None)
    meta.pop(without, None)
    torch.save(content, tmp_path / 'a.pth')
    if words is None:
        assert checks.check_resumable(str(tmp_path / 'a.pth'))['seed'] == 5
        return
    with pytest.raises(CheckpointError, match=words):
        checks.check_resumable(str(tmp_path / 'a.pth'))


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        (MASKRCNN, ['data/coco/annotations/instances_train2017.json', 'prepare_data.py coco']),
        (UPERNET, ['data/ade/ADEChallengeData2016/images/training', 'prepare_data.py ade20k']),
    ],
)
def test_missing_data_names_every_path_and_two_ways_on(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        checks.check_data(Config.fromfile(path), ('train', 'val'))
    message = str(caught.value)
    for word in [*words, 'with `--demo`', str(tmp_path)]:
        assert word in message
    assert message.count('val') >= 2


def write_coco(folder, names, count=1):
    (folder / 'images').mkdir(exist_ok=True)
    path = folder / 'instances.json'
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    path.write_text(json.dumps(dict(images=[], annotations=[], categories=categories)))
    return path


def with_data(cfg, folder, classes):
    metainfo = dict(classes=classes)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(
            data_root=str(folder),
            ann_file='instances.json',
            data_prefix=dict(img='images/'),
            metainfo=metainfo,
        )
    cfg.val_evaluator.ann_file = str(folder / 'instances.json')
    return cfg


def test_missing_annotation_file_alone(cfg, tmp_path):
    write_coco(tmp_path, ['date', 'fig'])
    cfg = with_data(cfg, tmp_path, ('date', 'fig'))
    checks.check_data(cfg, ('train', 'val'))
    cfg.train_dataloader.dataset.ann_file = 'instances_trian.json'
    with pytest.raises(UserError) as caught:
        checks.check_data(cfg, ('train', 'val'))
    assert str(tmp_path / 'instances_trian.json') in str(caught.value)
    assert 'change data_root, ann_file' in str(caught.value)


def test_missing_image_folder(cfg, tmp_path):
    write_coco(tmp_path, ['date', 'fig'])
    cfg = with_data(cfg, tmp_path, ('date', 'fig'))
    cfg.val_dataloader.dataset.data_prefix.img = 'val_images/'
    with pytest.raises(UserError, match='val_images'):
        checks.check_data(cfg, ('val',))


def test_class_names_that_the_file_does_not_have(cfg, tmp_path):
    write_coco(tmp_path, ['date', 'fig', 'hazelnut'])
    with pytest.raises(UserError) as caught:
        checks.check_data(with_data(cfg, tmp_path, ('date', 'figs')), ('train',))
    message = str(caught.value)
    assert "has the classes 'date', 'fig', 'hazelnut'" in message
    assert "of which 'figs' is not in the file" in message
    assert "metainfo=dict(classes=('date', 'fig', 'hazelnut'))" in message


def test_class_names_in_another_order(cfg, tmp_path):
    """mmdet would number them by the file and name them by the config."""
    write_coco(tmp_path, ['date', 'fig', 'hazelnut'])
    checks.check_data(with_data(cfg, tmp_path, ('date', 'hazelnut')), ('train',))
    with pytest.raises(UserError, match=r"another order .*: 'date', 'fig' against 'fig', 'date'"):
        checks.check_data(with_data(cfg, tmp_path, ('fig', 'date')), ('train',))


def test_an_annotation_file_that_is_not_coco(cfg, tmp_path):
    write_coco(tmp_path, [])
    (tmp_path / 'instances.json').write_text('[]')
    with pytest.raises(UserError, match='is not a COCO annotation file'):
        checks.check_data(with_data(cfg, tmp_path, ('date',)), ('train',))


def test_number_of_classes_in_the_heads(cfg, tmp_path):
    checks.check_num_classes(cfg)
    with pytest.raises(UserError, match=r'bbox_head.num_classes is 80, but the data set has 2'):
        checks.check_num_classes(with_data(cfg, tmp_path, ('date', 'fig')))


def test_amp_on_a_cpu(monkeypatch):
    for device in ('cpu', 'mps'):
        monkeypatch.setattr(checks, 'get_device', lambda device=device: device)
        with pytest.raises(UserError, match=f'--amp needs an accelerator, .* only {device} here'):
            checks.check_amp()
    monkeypatch.setattr(checks, 'get_device', lambda: 'cuda')
    checks.check_amp()


def test_a_type_and_its_arguments_are_taken_together(cfg):
    changes = {
        'optim_wrapper.type': 'AmpOptimWrapper',
        'optim_wrapper.dtype': 'bfloat16',
        'optim_wrapper.optimizer.type': 'SGD',
        'optim_wrapper.optimizer.momentum': 0.9,
        'train_cfg.type': 'IterBasedTrainLoop',
        'train_cfg.max_iters': 5,
    }
    options.merge_options(cfg, changes)
    assert cfg.optim_wrapper.optimizer.momentum == 0.9
    with pytest.raises(UserError, match='optimizer.momentum'):
        options.merge_options(Config.fromfile(MASKRCNN), {'optim_wrapper.optimizer.momentum': 0.9})


def test_absolute_and_remote_paths_are_mmengines(cfg, tmp_path):
    write_coco(tmp_path, ['date', 'fig'])
    cfg = with_data(cfg, tmp_path, ('date', 'fig'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(
            data_root='elsewhere/',
            ann_file=str(tmp_path / 'instances.json'),
            data_prefix=dict(img=str(tmp_path / 'images')),
        )
    checks.check_data(cfg, ('train', 'val'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(data_root='s3://bucket/', ann_file='a.json', data_prefix={})
    cfg.val_evaluator.ann_file = 's3://bucket/a.json'
    checks.check_data(cfg, ('train', 'val'))


def test_classes_in_a_file(cfg, tmp_path):
    write_coco(tmp_path, ['date', 'fig'])
    (tmp_path / 'classes.txt').write_text('date\nfig\n')
    checks.check_data(with_data(cfg, tmp_path, str(tmp_path / 'classes.txt')), ('train',))


def test_the_paths_of_another_data_set_do_not_recommend_coco(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg.val_dataloader.dataset.data_root = 'data/coco128/'
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_evaluator = dict(type='CocoMetric')
    with pytest.raises(UserError) as caught:
        checks.check_data(cfg, ('test',))
    assert 'prepare_data.py' not in str(caught.value)
    assert '--demo' not in str(caught.value)  # tools/test.py has no such flag


def test_checkpoint_of_another_model(cfg, tmp_path):
    model = build_model(cfg)
    path = str(tmp_path / 'w.pth')
    torch.save(dict(state_dict=model.state_dict()), path)
    checks.check_fits(model, path)

    cfg.model.roi_head.bbox_head.num_classes = 3
    other_head = build_model(cfg)
    checks.check_backbone_fits(other_head, path)  # fine-tuning
    with pytest.raises(CheckpointError, match=r'bbox_head.fc_cls.weight \(81, 1024\) in the file'):
        checks.check_fits(other_head, path)

    cfg.model.backbone.out_indices = (1, 2, 3)  # as RetinaNet starting from Mask R-CNN
    cfg.model.neck.in_channels = cfg.model.neck.in_channels[1:]
    checks.check_backbone_fits(build_model(cfg), path)

    kobe = build_model(Config.fromfile(MASKRCNN.with_name('maskrcnn_mambaout_kobe.py')))
    with pytest.raises(CheckpointError, match='belongs to another model than this config'):
        checks.check_fits(kobe, path)
    with pytest.raises(CheckpointError, match=r'another backbone .* it holds MambaOut femto'):
        checks.check_backbone_fits(kobe, path)
    torch.save(model.backbone.state_dict(), path)
    with pytest.raises(CheckpointError, match=r'goes to model.backbone.init_cfg.checkpoint'):
        checks.check_backbone_fits(kobe, path)


@pytest.mark.parametrize(('epoch', 'iteration'), [(-1, 5), (0, -5), (0, 10**30), (0, True)])
def test_places_where_no_training_was(epoch, iteration, tmp_path):
    content = dict(meta=dict(epoch=epoch, iter=iteration), message_hub={}, optimizer={})
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'has no meta.(epoch|iter), so that a training'):
        checks.check_resumable(str(tmp_path / 'a.pth'))


def test_data_sets_without_a_type(cfg):
    cfg.train_dataloader.dataset.pop('type')
    with pytest.raises(UserError, match='a data set in the config has no type'):
        checks.check_split_classes(cfg, 'train')
    cfg.pop('model')
    checks.check_num_classes(cfg)


def test_options_that_put_a_value_in_the_place_of_a_dict(cfg):
    with pytest.raises(UserError, match='--cfg-options cannot be merged into the config'):
        options.merge_options(cfg, {'train_dataloader.dataset.pipeline.0': 'LoadImageFromFile'})
