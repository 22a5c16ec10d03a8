"""A stock config with another backbone: what has to follow from the exchange."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from mambaout_mm.backbones import PyramidBackbone
from mambaout_mm.backbones.base import Network
from mambaout_mm.comparison.catalogue import PYRAMID, build_backbone, maps_of
from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError
from mambaout_mm.training.launch import without_sync_bn
from mambaout_mm.training.unused_maps import channels_after, on_meta, used_maps

# Networks that are built around a ResNet's own layers, so that no other can take its place.
BOUND_TO_RESNET = {
    'DetectoRS_ResNet': 'its neck (RFP) feeds the pyramid back into the stages of its ResNets',
    'ICNet': 'it runs the layers of its ResNet one by one, at two image sizes',
    'TridentResNet': 'the three branches of its ResNet are the method',
}
UNUSED = (
    'a map of the backbone has no user and cannot be left out: its norm gets no gradient, which '
    'find_unused_parameters lets DistributedDataParallel take'
)
# Mean and deviation of ImageNet's images in RGB, with which the weights here were trained.
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
# The recipe of the configs here; the learning rate of a ResNet's SGD is no guide for such networks.
ADAMW = dict(type='AdamW', lr=1e-4, weight_decay=0.05)


class Transplant(NamedTuple):
    """A config with its new backbone.

    Attributes:
        cfg (Config): The whole config.
        notes (list[str]): What the user should know of it.
    """

    cfg: Config
    notes: list[str]


def transplant(stock: Config, network: Network) -> Transplant:
    """Put a backbone into a config, and change what follows from it.

    That is: ``in_channels``, ``in_index`` and ``start_level`` of necks and heads, ``out_indices``
    without the maps that nobody uses, the mean and deviation of images, pre-trained weights, and
    AdamW in place of SGD.

    Args:
        stock (Config): Of mmdet or mmseg; left as it is.
        network (Network): The backbone, as the comparison names it.

    Returns:
        Transplant: The new config and what to say of it.

    Raises:
        UserError: If the config has no backbone that could be exchanged.
    """
    cfg = copy.deepcopy(stock)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    check_inputs(cfg)
    notes: list[str] = []
    for path, model in models_in(cfg):
        notes += _exchange(model, path, network)
        if UNUSED in notes:
            cfg.find_unused_parameters = True
    for path, node in dicts_in(cfg.model, 'model'):
        if 'data_preprocessor' in path and 'mean' in node and len(node['mean']) == 3:
            known = {key: node.get(key) for key in IMAGENET}
            if known != IMAGENET:
                node.update(copy.deepcopy(IMAGENET))
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if optimizer.get('type') == 'SGD':
        cfg.optim_wrapper.optimizer = dict(ADAMW)
        keys = cfg.optim_wrapper.setdefault('paramwise_cfg', {}) or {}
        keys.pop('norm_decay_mult', None)
        keys.setdefault('custom_keys', {})['norm'] = dict(decay_mult=0.0)
        cfg.optim_wrapper.paramwise_cfg = keys
        notes.append('AdamW in place of SGD, as in the configs of this project')
    if cfg.get('load_from'):
        notes.append('load_from is None: its checkpoint holds the other backbone')
        cfg.load_from = None
    return Transplant(cfg, notes)


def check_inputs(cfg: Config) -> None:
    """Check that a config is of a model whose inputs can be made up: pictures alone.

    Raises:
        UserError: If not; the message has the reason.
    """
    if not isinstance(cfg.get('model'), dict):
        raise UserError('the config has no model')
    if _kind(cfg.model) == 'Detectron2Wrapper':
        raise UserError("the model is Detectron2's, whose backbones are other classes")
    preprocessor = _kind(cfg.model.get('data_preprocessor') or {})
    if preprocessor == 'TrackDataPreprocessor':
        raise UserError('the model takes videos; a backbone is tried on pictures here')
    if preprocessor == 'ReIDDataPreprocessor':
        raise UserError('the model tells persons apart (ReID): it neither detects nor segments')
    if 'language_model' in cfg.model or 'text_encoder' in cfg.model:
        raise UserError('the model takes texts beside pictures, from a language model')


def models_in(cfg: Config) -> list[tuple[str, dict]]:
    """Every model inside ``cfg.model`` that has a backbone to exchange, by its dotted path.

    Raises:
        UserError: If there is none; the message has the reason.
    """
    found = [
        (path, node)
        for path, node in dicts_in(cfg.model, 'model')
        if isinstance(node.get('backbone'), dict)
    ]
    if not found:
        raise UserError('the config has no model.backbone to exchange')
    for path, model in found:
        kind = _kind(model['backbone'])
        if kind in BOUND_TO_RESNET:
            raise UserError(f'{path}.backbone is a {kind}: {BOUND_TO_RESNET[kind]}')
    return found


def _kind(part: dict) -> str:
    return str(part.get('type')).split('.')[-1]


def _exchange(model: dict, path: str, network: Network) -> list[str]:
    """Exchange the backbone of one model in place."""
    stock = model['backbone']
    if _kind(stock) == 'BiSeNetV1':
        return _exchange_in_bisenet(model, path, network)
    old_channels, old_strides = _maps_of_stock(stock)
    stages = _stages(stock, old_strides)
    if model.get('pretrained') is not None:
        model['pretrained'] = None
    backbone, notes = with_weights(network, path, stages)
    lost = [key for key in ('dcn', 'plugins') if stock.get(key)]
    if lost:
        names = ' and '.join(lost)
        notes.append(f'{path}.backbone had {names} inside of ResNet, which this backbone has not')
    built = _build(backbone, network)
    if built.out_strides != old_strides:
        notes.append(
            f'{path}.backbone gives maps at strides {", ".join(map(str, built.out_strides))}, the '
            f'stock one at {", ".join(map(str, old_strides))}'
        )
    _fit(model, old_channels, built.out_channels, old_strides)
    used = used_maps(model, built.out_channels, built.out_strides)
    if used and len(used) < len(stages):
        kept = used if _necks(model) else sorted({*used, *_named_by_heads(model, len(stages))})
        if _leave_out(model, built, kept):
            backbone['out_indices'] = tuple(stages[place] for place in kept)
            used = used if len(used) < len(kept) else None
        if used:
            notes.append(UNUSED)
    model['backbone'] = backbone
    return notes


def _exchange_in_bisenet(model: dict, path: str, network: Network) -> list[str]:
    """Exchange the ResNet inside of BiSeNetV1, whose paths have to be as wide together as a stage.

    Its fusion takes as many channels as the map at stride 16 has: those of the map at stride 8
    and of the spatial path.
    """
    outer = model['backbone']
    backbone, notes = with_weights(network, path)
    _, *context = _build(backbone, network).out_channels
    if context[1] <= context[0]:
        raise UserError(
            f'{path}.backbone is a BiSeNetV1, which needs wider maps at stride 16 than at 8, and '
            f'{network.name} has {context[1]} and {context[0]} channels'
        )
    old = outer['context_channels'][0]
    outer['backbone_cfg'] = backbone
    outer['context_channels'] = tuple(context)
    outer['spatial_channels'] = (*outer['spatial_channels'][:-1], context[1] - context[0])
    for _, head in _heads(model):
        if head.get('in_channels') == old:
            head['in_channels'] = context[0]
    return [*notes, UNUSED]  # the map at stride 4


def _maps_of_stock(backbone: dict) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of a stock backbone's maps."""
    backbone = copy.deepcopy(backbone)
    without_sync_bn(backbone)
    for _, node in dicts_in(backbone):
        node.pop('init_cfg', None)
        if node.get('pretrained'):
            node['pretrained'] = False
    entry = Network('the stock backbone', '', backbone, scope=_scope())
    try:
        with torch.device('meta'):  # without memory for its weights
            return maps_of(build_backbone(entry))
    except (NotImplementedError, RuntimeError):  # deformable convolutions take memory
        return maps_of(build_backbone(entry))
    except (AssertionError, ImportError) as error:
        raise UserError(f'the stock backbone cannot be built here: {error}') from error


def _scope() -> str:
    current = DefaultScope.get_current_instance()
    return current.scope_name if current else 'mmengine'


def _build(backbone: dict, network: Network) -> PyramidBackbone:
    built = on_meta(backbone)
    if built is None:
        try:
            built = MODELS.build({**backbone, 'init_cfg': None})
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise UserError(f'{network.name} cannot be built: {error}') from error
    if not isinstance(built, PyramidBackbone):
        raise UserError(
            f'{network.name} is no backbone of this project; for timm networks write '
            'TimmPyramid:NAME'
        )
    return built


def _stages(stock: dict, strides: Sequence[int]) -> tuple[int, ...]:
    """The stages of a pyramid that stand for a stock backbone's maps: 0 for stride 4 to 3 for 32.

    A dilated ResNet's stages have smaller strides than their place says; the place counts then.
    """
    dilated = any(d > 1 for d in stock.get('dilations') or ())
    if not dilated and len(set(strides)) == len(strides) and set(strides) <= set(PYRAMID):
        return tuple(PYRAMID.index(stride) for stride in strides)
    stages = tuple(stock.get('out_indices') or range(len(strides)))
    if set(stages) <= {0, 1, 2, 3} and len(stages) == len(strides):
        return stages
    raise UserError(
        f'the stock backbone has maps at strides {", ".join(map(str, strides))}, which no stages '
        'of a pyramid stand for'
    )


def with_weights(
    network: Network, path: str, stages: Sequence[int] = (0, 1, 2, 3)
) -> tuple[dict[str, Any], list[str]]:
    """A backbone's config with its published weights, and a note if there are none."""
    backbone = {**network.backbone, 'out_indices': tuple(stages)}
    pretrained = weights_of(network)
    if pretrained is None:
        return backbone, [f'{path}.backbone starts at random: no published weights are known']
    return {**backbone, 'init_cfg': dict(type='Pretrained', checkpoint=pretrained)}, []


def weights_of(network: Network) -> str | None:
    """The catalogue name of a network's published weights; None if none are known."""
    cls = MODELS.get(network.backbone['type'])
    if network.backbone.get('mixer', 'conv') != 'conv':
        return None
    arch = network.backbone.get('arch')
    names = [name for name in getattr(cls, 'weights', {}) if name.split('://')[-1] == arch]
    return names[0] if names else None


def _necks(model: dict) -> list[dict]:
    neck = model.get('neck') or []
    return [neck] if isinstance(neck, dict) else list(neck)


def _heads(model: dict) -> Iterator[tuple[str, dict]]:
    """Every dict in a model's heads, with its path."""
    for name, part in model.items():
        if name.endswith('head') or name in ('panoptic_fusion_head', 'bbox_roi_extractor'):
            yield from dicts_in(part, name)


def _fit(model: dict, old: Sequence[int], new: Sequence[int], strides: Sequence[int]) -> None:
    """Give necks and heads the new widths of the maps, in place."""
    necks = _necks(model)
    old_after, new_after = old, new
    if not necks and any('shared_head' in node for _, node in _heads(model)):
        # ResNet's last stage as a head: it takes what the stage before gave
        kind = 'mmdet.ChannelMapper'
        model['neck'] = dict(
            type=kind, in_channels=list(new), kernel_size=1, out_channels=old[-1], num_outs=len(new)
        )
        return
    if necks:
        old_after = _after(necks, old, strides)
        first = necks[0]
        expected = first.get('in_channels')
        if isinstance(expected, list | tuple) and list(expected) == list(old):
            first['in_channels'] = type(expected)(new)
        elif expected == old[-1]:
            first['in_channels'] = new[-1]
        new_after = _after(necks, new, strides)
    if old_after is None or new_after is None or old_after == new_after:
        return
    for path, head in _heads(model):
        expected, index = head.get('in_channels'), head.get('in_index', -1)
        if head.get('c1_in_channels') == old_after[0]:
            head['c1_in_channels'] = new_after[0]
        if isinstance(expected, list | tuple):
            if not isinstance(index, list | tuple):
                index = range(len(old_after))
            if list(expected) == [old_after[i] for i in index]:
                head['in_channels'] = type(expected)(new_after[i] for i in index)
        elif expected == old_after[index] and ('in_index' in head or '.' not in path):
            head['in_channels'] = new_after[index]


def _after(
    necks: list[dict], channels: Sequence[int], strides: Sequence[int]
) -> tuple[int, ...] | None:
    """None if a neck cannot run by itself: then its own widths are what heads expect."""
    try:
        return channels_after(necks, channels, strides)
    except Exception:  # of any kind, from any neck
        return None


def _named_by_heads(model: dict, count: int) -> set[int]:
    """Places of the maps that ``in_index`` of a head names."""
    named = [head['in_index'] for _, head in _heads(model) if 'in_index' in head]
    return {
        i % count
        for index in named
        for i in (index if isinstance(index, list | tuple) else [index])
    }


def _leave_out(model: dict, built: PyramidBackbone, kept: Sequence[int]) -> bool:
    """Leave out all maps but those at the places in ``kept``, if the first neck can do that.

    Returns:
        bool: Whether it could; if not, the model is as it was.
    """
    count, necks = len(built.out_channels), copy.deepcopy(_necks(model))
    channels = tuple(built.out_channels[place] for place in kept)
    if necks:
        first, unused = necks[0], count - len(kept)
        if (
            list(kept) != list(range(unused, count))  # the first maps
            or first.get('start_level') != unused
            or first.get('end_level', -1) not in (-1, None, count - 1)
            or len(first.get('in_channels') or ()) != count
        ):
            return False
        strides = built.out_strides
        before = _after(necks, built.out_channels, strides)
        _select(dict(neck=necks), built.out_channels, channels, kept)
        # NASFCOS_FPN counts its maps from the backbone's, not from start_level
        if _after(necks, channels, [strides[place] for place in kept]) != before:
            return False
    _select(model, built.out_channels, channels, kept)
    return True


def _select(
    model: dict, all_channels: Sequence[int], channels: Sequence[int], used: Sequence[int]
) -> None:
    """Leave out unused maps: of the first neck's inputs, or of what heads choose from."""
    necks = _necks(model)
    if necks:
        necks[0]['in_channels'] = type(necks[0]['in_channels'])(channels)
        necks[0]['start_level'] = 0
        if necks[0].get('end_level', -1) == len(all_channels) - 1:
            necks[0]['end_level'] = len(channels) - 1
        return
    places = {place: new for new, place in enumerate(used)}
    for _, head in _heads(model):
        index = head.get('in_index')
        if isinstance(index, int):
            head['in_index'] = places[index % len(all_channels)]
        elif isinstance(index, list | tuple):
            head['in_index'] = type(index)(places[i % len(all_channels)] for i in index)
