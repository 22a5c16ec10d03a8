"""What can be compared: named backbones, presets, anything registered, anything in a config."""

import ast
import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mambaout_mm.backbones import PyramidBackbone
from mambaout_mm.backbones.base import Network
from mambaout_mm.backbones.plain import PlainBackbone
from mambaout_mm.config_files import find_config
from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError, near_names
from mambaout_mm.registry import FAMILIES
from mambaout_mm.training.checks import load_config

PYRAMID = (4, 8, 16, 32)  # strides that the heads take
# The recipe that every backbone is put into, and the size at which the papers count its MACs.
WHOLE_MODELS = {
    'Mask R-CNN': ('detection/maskrcnn_mambaout_t.py', (800, 1280)),
    'UperNet': ('segmentation/upernet_mambaout_t.py', (512, 2048)),
}


ENTRIES: tuple[Network, ...] = tuple(network for family in FAMILIES for network in family.networks)
# Attention over all tokens, whose time grows with their square: what the others are held against.
CONTROL = Network(
    'ViT-S/16',
    'Attn',
    dict(type='mambaout_mm.ViT', arch='small', pyramid=None, out_indices=(3,)),
)
_BY_NAME = {entry.name: entry for entry in (*ENTRIES, CONTROL)}
PRESETS = {
    **{
        preset: tuple(entry.name for entry in ENTRIES if preset in entry.presets)
        # 'mambas' has one network of each family, of 25 to 50 million parameters, or the nearest;
        # 'mixers' MambaOut's body with each token mixer, 'vim' Vim beside DeiT as in its paper.
        for preset in ('tiny', 'small', 'base', 'mambas', 'mixers', 'vim')
    },
    'all': tuple(entry.name for entry in ENTRIES),
}


def entries_of(names: list[str]) -> list[Network]:
    """Entries by what a user writes.

    Args:
        names (list[str]): Names of ``ENTRIES`` in any case ('MambaOut-T'), presets ('tiny'),
            a registered backbone with what identifies it ('VMamba:small_s1l20',
            'TimmPyramid:resnet50') or its arguments ('mmdet.ResNet:depth=50'), or paths of mmdet's
            or mmseg's configs.

    Raises:
        UserError: If a name is none of these, or two entries have the same name.
    """
    entries = [entry for name in names for entry in _look_up(name)]
    stems = [Path(name).stem for name in names if name.endswith('.py')]
    entries = [
        entry._replace(name=entry.path.removesuffix('.py'))
        if stems.count(entry.name) > 1
        else entry
        for entry in entries
    ]
    taken = [entry.name for entry in entries]
    for name in taken:
        if taken.count(name) > 1:
            raise UserError(f'{name} is there twice; name it once')
    return entries


def _look_up(name: str) -> list[Network]:
    """What one of the names that a user writes stands for."""
    if name in PRESETS:
        return [_BY_NAME[known] for known in PRESETS[name]]
    by_lower_case = {known.lower(): entry for known, entry in _BY_NAME.items()}
    if name.lower() in by_lower_case:
        return [by_lower_case[name.lower()]]
    return [_from_config(Path(name)) if name.endswith('.py') else _from_type(name)]


def _from_type(name: str) -> Network:
    """The network that 'TYPE:VARIANT' or 'TYPE:ARGUMENTS' names, of ``ENTRIES`` if it is there."""
    kind, _, variant = name.partition(':')
    full = kind if '.' in kind else f'mambaout_mm.{kind}'
    named = all(part.isidentifier() for part in full.split('.'))
    if ':' not in name or not named or MODELS.get(full) is None:
        raise UserError(
            f'{_start_of(name)!r} is no backbone to compare; '
            f'{near_names(name, [*PRESETS, *_BY_NAME])} Or TYPE:VARIANT, as in '
            'VMamba:small_s1l20, TimmPyramid:resnet50 and mmdet.ResNet:depth=50, or the path of a '
            'config'
        )
    if '=' in variant:
        backbone = dict(type=full, **_arguments(name, variant))
    else:
        backbone = {'type': full, 'model_name' if kind == 'TimmPyramid' else 'arch': variant}
    mixer = ''
    for entry in ENTRIES:
        if entry.backbone == backbone:
            return entry
        if entry.backbone['type'] == full and kind != 'TimmPyramid':  # timm has all mixers
            mixer = entry.mixer
    return Network(name, mixer, backbone, scope=full.split('.')[0])


def _arguments(name: str, text: str) -> dict[str, Any]:
    """'depth=50, out_indices=(1, 2)' as a dict."""
    try:
        call = ast.parse(f'dict({text})', mode='eval').body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            raise ValueError('write NAME=VALUE, NAME=VALUE')
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        deep = isinstance(error, MemoryError | RecursionError)  # in words or none, by Python
        reason = 'they are nested too deeply' if deep else error
        raise UserError(
            f'the arguments of {_start_of(name)!r} are no Python literals: {reason}'
        ) from error
    if 'type' in arguments or None in arguments:
        raise UserError(f'the arguments of {_start_of(name)!r} must have names, and none is type')
    return arguments


def _start_of(name: str) -> str:
    return name if len(name) <= 80 else f'{name[:77]}...'


def _from_config(path: Path) -> Network:
    cfg = load_config(str(path))
    try:
        backbone = cfg.model.backbone.to_dict()
    except AttributeError as error:
        raise UserError(f'{str(path)!r} has no model.backbone to compare') from error
    if not all(isinstance(key, str) for _, node in dicts_in(backbone) for key in node):
        raise UserError(f'{str(path)!r}: a key in model.backbone is no name')
    backbone.pop('init_cfg', None)
    scope = cfg.get('default_scope', 'mmengine')
    return Network(path.stem, '', backbone, scope=scope, path=str(path))


def build_backbone(
    entry: Network, checkpoint: str | None = None, seed: int | None = 0
) -> nn.Module:
    """The backbone with random weights, or those of a checkpoint, in eval mode.

    Without drop path, which would make results random, and without
    frozen stages, which cost less in training.

    Args:
        entry (Network): Which.
        checkpoint (str, optional): As ``init_cfg``'s: a path, a URL or a catalogue name. Defaults
            to None.
        seed (int, optional): Of the weights; None leaves PyTorch's random state as it is. Defaults
            to 0: the same weights at every call.

    Raises:
        UserError: If the backbone cannot be built or the checkpoint does not fit.
    """
    cfg = copy.deepcopy(entry.backbone)
    for name, off in (('drop_path_rate', 0.0), ('frozen_stages', -1)):
        if name in cfg:
            cfg[name] = off
    if checkpoint:
        cfg['init_cfg'] = dict(type='Pretrained', checkpoint=checkpoint)
    if seed is not None:
        torch.manual_seed(seed)
    try:
        with DefaultScope.overwrite_default_scope(entry.scope):
            model = MODELS.build(cfg)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{entry.name} cannot be built: {error}') from error
    if checkpoint and not isinstance(model, PyramidBackbone):
        raise UserError(
            f'{entry.name} takes no checkpoint: only backbones of this project refuse one that '
            'does not fit, others would stay random in silence'
        )
    if checkpoint:
        model.init_weights()
    model.eval()  # whose result mmdet's ResNet does not return
    return model


def build_without_pyramid(entry: Network, checkpoint: str | None = None) -> nn.Module:
    """As :func:`build_backbone`; of a plain network the last map alone, at the tokens' stride."""
    model = build_backbone(entry, checkpoint)
    if not isinstance(model, PlainBackbone):
        return model
    alone = {**entry.backbone, 'pyramid': None, 'out_indices': (3,)}
    return build_backbone(entry._replace(backbone=alone), checkpoint)


def maps_of(model: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of a backbone's maps, read off its output for a 128x128 image."""
    if hasattr(model, 'out_channels') and hasattr(model, 'out_strides'):
        return tuple(model.out_channels), tuple(model.out_strides)
    with torch.no_grad():
        outs = model(torch.zeros(1, 3, 128, 128))
    return tuple(x.shape[1] for x in outs), tuple(128 // x.shape[-1] for x in outs)


def stages_of(strides: tuple[int, ...]) -> list[int]:
    """Numbers of stages: those of a pyramid, 1 for stride 4 to 4 for 32; else from 1 on."""
    numbers = [PYRAMID.index(stride) + 1 if stride in PYRAMID else 0 for stride in strides]
    in_order = 0 not in numbers and len(set(numbers)) == len(numbers)
    return numbers if in_order else list(range(1, len(strides) + 1))


def whole_config(name: str, channels: tuple[int, ...]) -> Config:
    """The project's Mask R-CNN or UperNet for maps of these widths, its backbone left to fill in.

    Args:
        name (str): Of ``WHOLE_MODELS``.
        channels (tuple[int, ...]): Of the four maps, strides 4 to 32.

    Raises:
        UserError: If the configs are not installed.
    """
    cfg = Config.fromfile(find_config(WHOLE_MODELS[name][0]))
    for part in {'neck', 'decode_head'} & set(cfg.model):
        cfg.model[part].in_channels = list(channels)
    if 'auxiliary_head' in cfg.model:
        cfg.model.auxiliary_head.in_channels = channels[2]
    return cfg
