"""One loss step with gradients and one prediction of a config's model, on made-up pictures."""

import copy
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError
from mambaout_mm.training.launch import without_sync_bn

from .samples import batch

# Height and width of the pictures; sides differ, so that exchanged axes are noticed. Models of many
# queries may choose them among the pixels of all maps, and get larger pictures.
SIZE, SIZE_FOR_QUERIES = (64, 96), (128, 160)
# RoIs of a sampler, proposals or detections of a picture, and queries: more show nothing more.
MOST = dict(num=32, max_per_img=100, num_queries=100)
LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain', 'mmengine', 'mmcv', 'mambaout_mm')


class Trial(NamedTuple):
    """What a trial showed.

    Attributes:
        loss (float): The sum of the losses.
        predictions (int): Pictures with a prediction.
        without_gradient (list[str]): Parameters that were to be trained and got no gradient.
    """

    loss: float
    predictions: int
    without_gradient: list[str]


def try_model(cfg: Config, size: tuple[int, int] | None = None) -> Trial:
    """Build a config's model with random weights, take a loss step and predict, on a CPU.

    For the trial alone, SyncBN is BN, nothing is downloaded, pictures are not padded to the size of
    the training's, and there are few RoIs and queries.

    Args:
        cfg (Config): The whole config, of mmdet or mmseg.
        size (tuple[int, int], optional): Height and width of the pictures. Defaults to None:
            :func:`size_for`.

    Returns:
        Trial: What it showed.

    Raises:
        UserError: If the model cannot be built or stops; the message says where.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    size = size or size_for(cfg.model)
    torch.manual_seed(0)
    # What the Runner tells, by which some losses warm up
    progress = dict(iter=1, max_iters=100, epoch=0, max_epochs=1)
    MessageHub.get_current_instance().update_info_dict(progress)
    model = _step('the model cannot be built', build_for_trial, cfg, size)
    data = batch(cfg, size)
    losses = _step('the loss step stops', _loss, model, data)
    total, _ = model.parse_losses(losses)
    _step('the backward pass stops', total.backward)
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if not torch.isfinite(total):
        raise UserError(f'the loss is {total.item()} with random weights')
    results = _step('the prediction stops', _predict, model, cfg, size)
    return Trial(total.item(), len(results), unused)


def size_for(model: dict) -> tuple[int, int]:
    """Height and width of the pictures for a model."""
    queries = max((node.get('num_queries') or 0 for _, node in dicts_in(model)), default=0)
    return SIZE_FOR_QUERIES if queries > MOST['num_queries'] else SIZE


def build_for_trial(cfg: Config, size: tuple[int, int]) -> nn.Module:
    """A config's model with random weights, for small pictures and one process."""
    parts = copy.deepcopy(cfg.model)
    without_sync_bn(parts)
    for path, node in dicts_in(parts):
        starts = node.get('init_cfg')
        starts = [starts] if isinstance(starts, dict) else list(starts or [])
        if any(str(start.get('type')) == 'Pretrained' for start in starts):
            node['init_cfg'] = [s for s in starts if str(s.get('type')) != 'Pretrained'] or None
        for key in ('pretrained', 'teacher_ckpt'):  # a checkpoint, or timm's True
            if node.get(key):
                node[key] = None if isinstance(node[key], str) else False
        if 'data_preprocessor' in path.split('.'):
            if node.get('size') and 'mean' in node:
                node['size'] = size
            if node.get('batch_augments'):
                node['batch_augments'] = None
        for key, most in MOST.items():
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')  # or MMEngine tells of every parameter
    try:
        model = MODELS.build(parts)
        model.init_weights()
    finally:
        logger.setLevel(level)
    return model


def _loss(model: nn.Module, data: dict[str, Any]) -> dict[str, Any]:
    model.train()
    data = model.data_preprocessor(data, True)
    return model(**data, mode='loss')


def _predict(model: nn.Module, cfg: Config, size: tuple[int, int]) -> list[Any]:
    model.eval()
    data = batch(cfg, size)
    if isinstance(data['inputs'], dict):
        data = {key: next(iter(value.values())) for key, value in data.items()}
    results = []
    for picture, sample in zip(data['inputs'], data['data_samples'], strict=True):
        # One by one, as test data loaders of mmdet and mmseg give them; some models take no more
        one = model.data_preprocessor(dict(inputs=[picture], data_samples=[sample]), False)
        with torch.no_grad():
            results += model(**one, mode='predict')
    return results


def _step(what: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except UserError:
        raise
    except Exception as error:  # of any kind, from any model
        raise UserError(f'{what}: {_described(error)}') from error


def _described(error: Exception) -> str:
    """An error's first line, and the place of the library where it arose."""
    lines = str(error).strip().splitlines() or ['no reason is given']
    text = f'{type(error).__name__}: {lines[0]}'
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        parts = Path(frame.filename).parts
        library = next((name for name in LIBRARIES if name in parts), None)
        if library and (library != 'mambaout_mm' or 'transplant' not in parts):
            inside = parts[len(parts) - parts[::-1].index(library) - 1 :]
            return f'{text} ({"/".join(inside)}, line {frame.lineno})'
    return text
