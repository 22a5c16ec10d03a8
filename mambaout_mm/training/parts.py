"""Whether backbone, neck and heads of a config fit together, told before anything is trained."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mambaout_mm.backbones import PyramidBackbone
from mambaout_mm.config_tree import dicts_in
from mambaout_mm.errors import UserError

from .unused_maps import on_meta


def check_parts(cfg: Config) -> None:
    """Check that each part of a model expects the maps that the part before it gives.

    Only what says so in its config is looked at: ``in_channels`` of the neck and of the heads,
    ``in_index``, ``num_outs`` beside the strides of anchors and of RoI extractors. Channels are
    known of this package's backbones, which are built without memory for their weights.

    Args:
        cfg (Config): The whole config.

    Raises:
        UserError: If a part expects other maps, with the line to write.
    """
    model = cfg.model
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    given = _channels_of_backbone(model.get('backbone'))
    if given is None:
        return
    source = f'{model.backbone.type} gives maps of {list(given)} channels (its out_channels)'
    wrong = []
    necks = model.get('neck') or []
    necks = [necks] if isinstance(necks, dict) else necks
    if not necks:
        wrong += _wrong_heads(model, given, source)
    else:
        place = 'model.neck' if isinstance(model.neck, dict) else 'model.neck.0'
        name, expected = necks[0].get('type'), necks[0].get('in_channels')
        if isinstance(expected, list | tuple) and list(expected) != list(given):
            wrong.append(
                f'{place} ({name}) expects in_channels={list(expected)}, but {source}: write '
                f'{place}.in_channels={list(given)}'
            )
        after = _after_necks(necks)
        if after:
            what = f'model.neck ({name}) gives {len(after)} maps of {after[0]} channels'
            wrong += _wrong_heads(model, after, what)
    if wrong:
        raise UserError(f'the parts of the model do not fit: {"; ".join(wrong)}')


def _channels_of_backbone(backbone: Any) -> tuple[int, ...] | None:
    """None if it is not one of ours, or says itself what is wrong with its arguments."""
    built = on_meta(backbone)
    return built.out_channels if isinstance(built, PyramidBackbone) else None


def _after_necks(necks: list[dict]) -> tuple[int, ...] | None:
    """Channels of the maps after necks that say how many they make, as FPN does."""
    channels, maps = necks[-1].get('out_channels'), necks[0].get('num_outs')
    return (channels,) * maps if isinstance(channels, int) and isinstance(maps, int) else None


def _wrong_heads(model: dict, given: Sequence[int], source: str) -> Iterator[str]:
    for path, part in dicts_in(model, 'model'):
        if path.startswith(('model.backbone', 'model.neck', 'model.train_cfg', 'model.test_cfg')):
            continue
        name = path.split('.')[-1] if not path.split('.')[-1].isdigit() else path.split('.')[-2]
        if 'in_index' in part:
            yield from _wrong_index(path, part, given, source)
        elif name == 'anchor_generator':
            strides = part.get('strides') or ()
            if len(strides) != len(given):
                yield (
                    f'{path}.strides has {len(strides)} entries, one for each map, but {source}: '
                    f'give it {len(given)}, or change model.neck.num_outs'
                )
        elif 'featmap_strides' in part:
            if len(part['featmap_strides']) > len(given):
                yield (
                    f'{path}.featmap_strides names {len(part["featmap_strides"])} maps, but '
                    f'{source}'
                )
            elif part.get('out_channels') not in (None, given[0]):
                yield (
                    f'{path} expects maps of {part["out_channels"]} channels, but {source}: write '
                    f'{path}.out_channels={given[0]}'
                )
        elif (
            path in ('model.rpn_head', 'model.bbox_head')
            and isinstance(part.get('in_channels'), int)
            and part['in_channels'] != given[0]
        ):
            yield (
                f'{path} expects in_channels={part["in_channels"]}, but {source}: write '
                f'{path}.in_channels={given[0]}'
            )


def _wrong_index(path: str, part: dict, given: Sequence[int], source: str) -> Iterator[str]:
    """mmseg's heads: ``in_index`` chooses maps, ``in_channels`` says how wide these are."""
    single = isinstance(part['in_index'], int)
    index = [part['in_index']] if single else list(part['in_index'])
    beyond = [i for i in index if not -len(given) <= i < len(given)]
    if beyond:
        yield (
            f'{path}.in_index={part["in_index"]} asks for map {beyond[0]}, but {source}: choose '
            f'out of 0 to {len(given) - 1}, or add to model.backbone.out_indices'
        )
        return
    right = [given[i] for i in index]
    expected = part.get('in_channels')
    have = [expected] if isinstance(expected, int) else list(expected or right)
    if have != right:
        yield (
            f'{path} expects in_channels={expected}, but {source}, of which it takes '
            f'{part["in_index"]}: write {path}.in_channels={right[0] if single else right}'
        )
