"""What `--demo` changes in a config: the data, the number of classes, the length of training."""

from pathlib import Path

from mmengine.config import Config

from mambaout_mm.config_tree import dicts_in

from . import shapes

# Chosen so that MambaOut-T with Mask R-CNN passes AP 0.25 within ten minutes on two CPU cores.
SIZE = 192
BATCH_SIZE = 4
ITERATIONS = 150
LEARNING_RATE = 5e-4
ROIS = 64
PROPOSALS = 200


def apply_demo(cfg: Config, folder: Path) -> None:
    """Point a config of this project at the embedded data set, in place.

    The model stays the config's own but for the number of classes, fewer RoIs, no drop path, and
    random initial weights in place of pretrained ones, which would need a network.

    Args:
        cfg (Config): A detection (mmdet) or segmentation (mmseg) config of this project, or one
            built on those.
        folder (Path): Where the data set is drawn.
    """
    root = shapes.write_shapes(folder, SIZE)
    detection = cfg.default_scope == 'mmdet'
    num_classes = len(shapes.CLASSES if detection else shapes.SEG_CLASSES)
    for _, node in dicts_in(cfg.model):
        if 'num_classes' in node:
            node['num_classes'] = num_classes
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0, frozen_stages=-1)
    cfg.load_from, cfg.resume, cfg.custom_hooks = None, False, []
    cfg.optim_wrapper.accumulative_counts = 1
    if detection:
        _few_rois(cfg.model)
        _detection_data(cfg, root)
    else:
        cfg.model.data_preprocessor.size = (SIZE, SIZE)
        _segmentation_data(cfg, root)
    cfg.train_dataloader.batch_size = BATCH_SIZE
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.num_workers = 0
        loader.persistent_workers = False
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_evaluator = cfg.val_evaluator
    _short_schedule(cfg)


def _few_rois(model: dict) -> None:
    rcnn = model.train_cfg.get('rcnn', [])
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        stage.sampler.num = ROIS
    for proposals in (model.train_cfg.get('rpn_proposal'), model.test_cfg.get('rpn')):
        if proposals:
            proposals.max_per_img = PROPOSALS


def _detection_data(cfg: Config, root: Path) -> None:
    metainfo = dict(classes=shapes.CLASSES, palette=shapes.PALETTE)
    masks = 'mask_head' in cfg.model.get('roi_head', {})
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
        dict(type='Resize', scale=(SIZE, SIZE), keep_ratio=True),
    ]
    meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pipelines = dict(
        train=[*load, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')],
        val=[*load, dict(type='PackDetInputs', meta_keys=meta_keys)],
    )
    for split, loader in (('train', cfg.train_dataloader), ('val', cfg.val_dataloader)):
        loader.dataset = dict(
            type='CocoDataset',
            metainfo=metainfo,
            data_root=str(root),
            ann_file=f'annotations/instances_{split}.json',
            data_prefix=dict(img=f'images/{split}/'),
            test_mode=split == 'val',
            pipeline=pipelines[split],
        )
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.train_dataloader.batch_sampler = None
    cfg.val_evaluator = dict(
        type='CocoMetric',
        ann_file=str(root / 'annotations' / 'instances_val.json'),
        metric=['bbox', 'segm'] if masks else ['bbox'],
    )


def _segmentation_data(cfg: Config, root: Path) -> None:
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    pipelines = dict(
        train=[*load, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')],
        val=[*load, dict(type='PackSegInputs')],
    )
    for split, loader in (('train', cfg.train_dataloader), ('val', cfg.val_dataloader)):
        loader.dataset = dict(
            type='BaseSegDataset',
            metainfo=dict(classes=shapes.SEG_CLASSES, palette=shapes.SEG_PALETTE),
            data_root=str(root),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
            img_suffix='.png',
            seg_map_suffix='.png',
            pipeline=pipelines[split],
        )
    cfg.val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])


def _short_schedule(cfg: Config) -> None:
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=ITERATIONS)
    cfg.optim_wrapper.optimizer.lr = LEARNING_RATE
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=ITERATIONS // 10),
        dict(
            type='CosineAnnealingLR',
            T_max=ITERATIONS - ITERATIONS // 10,
            eta_min=LEARNING_RATE / 100,
            by_epoch=False,
            begin=ITERATIONS // 10,
            end=ITERATIONS,
        ),
    ]
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.logger.interval = 10
    cfg.default_hooks.logger.log_metric_by_epoch = False
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=ITERATIONS, max_keep_ckpts=1
    )
    cfg.randomness = dict(seed=0)
