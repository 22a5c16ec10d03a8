"""Maps of a backbone that no neck or head uses, which stop DistributedDataParallel.

A parameter without a gradient stops it in the second iteration, with a message that names no part
of the config. The output norm of a map that nobody uses is such a parameter: FPN with
``start_level=1`` leaves the first map, a head of mmseg with ``in_index=3`` all but the last.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mambaout_mm.backbones import PyramidBackbone
from mambaout_mm.errors import UserError

from .launch import without_sync_bn

SIDE = 64  # of the images whose maps are sent through necks and heads


def check_distributed(cfg: Config) -> None:
    """Check that a distributed training will not stop at norms of maps that nobody uses.

    Args:
        cfg (Config): The whole config.

    Raises:
        UserError: If it will, with the two ways out.
    """
    if _finds_unused(cfg):
        return
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    backbone = on_meta(cfg.model.get('backbone'))
    if not isinstance(backbone, PyramidBackbone):
        return
    used = used_maps(cfg.model, backbone.out_channels, backbone.out_strides)
    if used is None:
        return
    stages = backbone.out_indices
    unused = [stage for place, stage in enumerate(stages) if place not in used]
    parts = [name for stage in unused for name in parts_of_map(backbone, stage)]
    if parts:
        names = ', '.join(f'backbone.{name}' for name in parts)
        raise UserError(
            f'no neck or head uses the map of stage {", ".join(map(str, unused))}, so that {names} '
            'will have no gradients, at which DistributedDataParallel stops. Either leave '
            f'the stage out, model.backbone.out_indices={tuple(stages[i] for i in sorted(used))} '
            'with in_channels, start_level and in_index of neck and heads changed accordingly '
            '(tools/try_config.py prints them), or set find_unused_parameters=True, which costs a '
            'little time in each iteration'
        )


def _finds_unused(cfg: Config) -> bool:
    """Whether the wrapper of the model takes parameters without gradients, or is another one."""
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if wrapper.get('type', 'MMDistributedDataParallel') != 'MMDistributedDataParallel':
        return True
    keys = ('find_unused_parameters', 'static_graph')
    return bool(cfg.get(keys[0]) or any(wrapper.get(key) for key in keys))


def parts_of_map(backbone: PyramidBackbone, stage: int) -> list[str]:
    """Modules with parameters to train that only the map of this stage uses."""
    names = [f'fpn{stage + 1}']  # the level of a network of one resolution
    if backbone.taps == backbone.out_indices:
        names.append(f'norm{stage}')
    found = {name: getattr(backbone, name, None) for name in names}
    return [
        name
        for name, module in found.items()
        if module is not None and any(p.requires_grad for p in module.parameters())
    ]


def used_maps(
    model: dict, channels: Sequence[int], strides: Sequence[int]
) -> tuple[int, ...] | None:
    """Which of a backbone's maps the neck, and the heads of a segmentor, compute with.

    Small maps go through the neck, and through the heads of a segmentor; autograd says which of
    them the results depend on.

    Args:
        model (dict): Config of a detector or segmentor, or of one inside of another model.
        channels (Sequence[int]): Of the backbone's maps.
        strides (Sequence[int]): Of the maps.

    Returns:
        tuple[int, ...] | None: Places of the used maps. None if it cannot be told: the heads of a
        detector without a neck take more than maps, and a part may not run.
    """
    heads = _list_of(model.get('decode_head')) + _list_of(model.get('auxiliary_head'))
    necks = _list_of(model.get('neck'))
    if not necks and not heads:
        return None
    maps = _maps(channels, strides)
    try:
        with torch.random.fork_rng(devices=[]):
            results = _run(necks, maps)
            if heads:
                results = [_build(head)(results) for head in heads]
        total = sum(x.sum() for x in tensors_in(results))
        grads = torch.autograd.grad(total, maps, allow_unused=True)
    except Exception:  # of any kind: then nothing is claimed, and training itself will tell
        return None
    return tuple(place for place, grad in enumerate(grads) if grad is not None)


def channels_after(
    necks: list[dict], channels: Sequence[int], strides: Sequence[int]
) -> tuple[int, ...]:
    """Channels of the maps behind a chain of necks.

    Args:
        necks (list[dict]): Their configs; none gives the maps as they are.
        channels (Sequence[int]): Of the maps before them.
        strides (Sequence[int]): Of the maps before them.
    """
    with torch.random.fork_rng(devices=[]):
        return tuple(x.shape[1] for x in tensors_in(_run(necks, _maps(channels, strides))))


def _maps(channels: Sequence[int], strides: Sequence[int]) -> tuple[Tensor, ...]:
    """Maps of two pictures, since batch norms behind a global pooling need two."""
    return tuple(
        torch.zeros(2, c, SIDE // s, SIDE // s, requires_grad=True)
        for c, s in zip(channels, strides, strict=True)
    )


def _run(necks: list[dict], maps: Any) -> Any:
    for neck in necks:
        maps = _build(neck)(maps)
    return maps


def _build(part: dict) -> nn.Module:
    part = copy.deepcopy(part)
    without_sync_bn(part)
    return MODELS.build({**part, 'init_cfg': None})


def on_meta(part: Any) -> nn.Module | None:
    """A part of a model, built without memory for its weights; None if that fails."""
    if not isinstance(part, dict):
        return None
    with torch.device('meta'):
        try:
            return _build(part)
        except Exception:  # of any kind; building the model for real raises it again
            return None


def tensors_in(results: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(results, Tensor):
        yield results
    elif isinstance(results, dict):
        yield from tensors_in(list(results.values()))
    elif isinstance(results, list | tuple):
        for one in results:
            yield from tensors_in(one)


def _list_of(parts: Any) -> list[dict]:
    return [parts] if isinstance(parts, dict) else list(parts or [])
