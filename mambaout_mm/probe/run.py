"""A training of the probe: one network, one seed."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn

from mambaout_mm.errors import UserError
from mambaout_mm.files import write_text
from mambaout_mm.measure.effective_field import effective_fields, side_holding

from .curves import BACKGROUND, CLASSES, Curves
from .network import FusedMap, MarkedIoU, Probe

TEST_SEED = 1 << 20
STARTED, DONE = 'settings.json', 'result.json'
FIELD_IMAGES = 16
FIELD_PERCENT = 95  # of the gradient, in the square that is called the effective field


class Settings(NamedTuple):
    """What is the same for all networks of a probe.

    Attributes:
        size (int): Height and width of images.
        distances (tuple[float, ...]): Lengths of curves as fractions of ``size``; all are trained
            on together.
        distractors (int): Curves beside the marked one.
        iterations (int): Steps of training.
        batch (int): Images of a step.
        test_images (int): For each distance.
        learning_rate (float): Of AdamW, after its warm-up.
    """

    size: int = 96
    distances: tuple[float, ...] = (0.25, 0.4, 0.55, 0.75)
    distractors: int = 2
    iterations: int = 2000
    batch: int = 16
    test_images: int = 100
    learning_rate: float = 2e-3


def class_weights(data: Curves) -> list[float]:
    """The inverse of the classes' shares of pixels, at most 1 for the background's rivals."""
    labels = torch.stack([data[i]['labels'] for i in range(min(64, len(data)))])
    counts = torch.bincount(labels.flatten(), minlength=CLASSES)[:CLASSES].double()
    weights = counts.min() / counts
    weights[BACKGROUND] = weights[BACKGROUND] ** 0.5  # or all around a curve would count as curve
    return weights.tolist()


def data_of(settings: Settings, seed: int) -> Curves:
    """The images that a seed is trained on."""
    count = settings.iterations * settings.batch
    return Curves(settings.size, settings.distances, count, seed, settings.distractors)


def tests_of(settings: Settings) -> Curves:
    """The images that all networks and seeds are tested on."""
    count = settings.test_images * len(settings.distances)
    return Curves(settings.size, settings.distances, count, TEST_SEED, settings.distractors)


def run_probe(
    build: Callable[[], nn.Module],
    settings: Settings,
    seed: int,
    folder: Path,
    data: Curves,
    tests: Curves,
) -> dict[str, Any]:
    """Train and test a network, unless the folder has its result already.

    An interrupted training goes on from its last checkpoint in the folder.

    Args:
        build (Callable): Gives the backbone; its weights are drawn from ``seed``.
        settings (Settings): Of the training.
        seed (int): Of the weights and of the images to train on.
        folder (Path): For checkpoints, logs and the result.
        data (Curves): Of :func:`data_of`.
        tests (Curves): Of :func:`tests_of`.

    Returns:
        dict[str, Any]: ``iou`` for each distance; ``effective_px``, the side of the square with
        ``FIELD_PERCENT`` of the gradient of a pixel's features; and ``seconds`` of training since
        it was last interrupted.

    Raises:
        UserError: If the folder holds anything else: another training, or none of a probe.
    """
    torch.manual_seed(seed)
    backbone = build()
    params = sum(parameter.numel() for parameter in backbone.parameters())
    wanted = json.loads(json.dumps(dict(settings._asdict(), seed=seed, params=params)))
    if folder.exists() and _read(folder / STARTED) != wanted:
        raise UserError(
            f'{folder} holds something else than this training (other settings, another network); '
            'name another folder, or delete that one'
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / STARTED, json.dumps(wanted))
    done = folder / DONE
    if done.exists():
        return _read(done)
    model = Probe(backbone, class_weights(data))
    runner = make_runner(model, data, tests, settings, seed, folder)
    started = time.perf_counter()
    runner.train()
    seconds = time.perf_counter() - started
    scores = runner.test()
    images = torch.stack([tests[i]['inputs'] for i in range(FIELD_IMAGES)])
    (field,) = effective_fields(FusedMap(model).eval(), images, get_device())
    result = dict(
        iou=[scores[f'curves/iou_{distance:g}'] for distance in settings.distances],
        effective_px=side_holding(field, FIELD_PERCENT),
        seconds=round(seconds, 1),
    )
    write_text(done, json.dumps(result))
    return result


def _read(path: Path) -> Any:
    """The content of a JSON file; None if there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def make_runner(
    model: Probe,
    data: Curves,
    tests: Curves,
    settings: Settings,
    seed: int,
    folder: Path,
) -> Runner:
    """MMEngine's Runner for a training of the probe."""
    warmup = max(1, settings.iterations // 20)

    def loader(dataset: Curves) -> dict[str, Any]:
        return dict(
            batch_size=settings.batch,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),  # images are random as they are
            collate_fn=dict(type='default_collate'),
            dataset=dataset,
        )

    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=loader(data),
        test_dataloader=loader(tests),
        train_cfg=dict(by_epoch=False, max_iters=settings.iterations),
        test_cfg=dict(),
        test_evaluator=[MarkedIoU(settings.distances)],
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=settings.learning_rate, weight_decay=0.05),
            clip_grad=dict(max_norm=1.0),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup),
            dict(type='CosineAnnealingLR', by_epoch=False, begin=warmup, end=settings.iterations),
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=50),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=1),
        ),
        default_scope='mmengine',
        log_level='ERROR',
        resume=(folder / 'last_checkpoint').exists(),
        randomness=dict(seed=seed),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        experiment_name=f'{folder.parent.name}_{folder.name}',
    )
