"""What can be compared: named backbones, presets, anything registered, anything in a config."""

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mambaout_mm.errors import UserError, near_names

PACKAGE = Path(__file__).parents[1]
# A checkout has the configs beside the package, a wheel inside of it, as `mim` expects.
CONFIGS = next(
    (p for p in (PACKAGE.parent / 'configs', PACKAGE / '.mim' / 'configs') if p.is_dir()), None
)
# The recipe that every backbone is put into, and the size at which the papers count its MACs.
WHOLE_MODELS = {
    'Mask R-CNN': ('detection/maskrcnn_mambaout_t.py', (800, 1280)),
    'UperNet': ('segmentation/upernet_mambaout_t.py', (512, 2048)),
}


class Entry(NamedTuple):
    """A backbone to compare.

    Attributes:
        name (str): As in the tables.
        mixer (str): 'Conv', 'Attn', 'Conv+SSM'; '' where it is not known.
        backbone (dict): Its config.
        published (str): Its rows in ``published.csv``; '' where there is none.
        scope (str): MMEngine's scope in which ``backbone['type']`` is looked up.
        dense (bool): Whether detectors and segmentors are built over it, too.
    """

    name: str
    mixer: str
    backbone: dict[str, Any]
    published: str = ''
    scope: str = 'mambaout_mm'
    dense: bool = True


class PlainViT(nn.Module):
    """timm's ViT at any image size, as one map at stride 16: the control of the growth curves.

    The position embedding is interpolated to the image, which is padded to whole patches.

    Args:
        model_name (str): A ``vit_*_patch16_*`` of timm.
    """

    out_strides = (16,)

    def __init__(self, model_name: str) -> None:
        super().__init__()
        self.vit = timm.create_model(
            model_name, num_classes=0, dynamic_img_size=True, dynamic_img_pad=True
        )
        self.out_channels = (self.vit.embed_dim,)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        (out,) = self.vit.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        return (out,)  # (N, embed_dim, ceil(H / 16), ceil(W / 16))


def _mambaout(scale: str, arch: str) -> Entry:
    backbone = dict(type='mambaout_mm.MambaOut', arch=arch)
    return Entry(f'MambaOut-{scale}', 'Conv', backbone, f'MambaOut-{arch.capitalize()}')


def _vmamba(name: str, arch: str, published: str) -> Entry:
    return Entry(name, 'Conv+SSM', dict(type='mambaout_mm.VMamba', arch=arch), published)


def _timm(name: str, mixer: str, model_name: str) -> Entry:
    backbone = dict(type='mambaout_mm.TimmPyramid', model_name=model_name)
    return Entry(name, mixer, backbone, name)


# MambaOut's tables call VMamba's first release (here "v0") VMamba, and today's VMambaV9.
ENTRIES = (
    _mambaout('Femto', 'femto'),
    _mambaout('Kobe', 'kobe'),
    _mambaout('T', 'tiny'),
    _mambaout('S', 'small'),
    _mambaout('B', 'base'),
    _vmamba('VMamba-T', 'tiny_s1l8', 'VMamba-T[s1l8]'),
    _vmamba('VMamba-T[s2l5]', 'tiny_s2l5', 'VMamba-T[s2l5]'),
    _vmamba('VMamba-S', 'small_s2l15', 'VMamba-S[s2l15]'),
    _vmamba('VMamba-B', 'base_s2l15', 'VMamba-B[s2l15]'),
    _vmamba('VMamba-T v0', 'tiny_v0', 'VMamba-T'),
    _vmamba('VMamba-S v0', 'small_v0', 'VMamba-S'),
    _vmamba('VMamba-B v0', 'base_v0', 'VMamba-B'),
    _timm('ConvNeXt-T', 'Conv', 'convnext_tiny'),
    _timm('ConvNeXt-S', 'Conv', 'convnext_small'),
    _timm('ConvNeXt-B', 'Conv', 'convnext_base'),
    _timm('Swin-T', 'Attn', 'swin_tiny_patch4_window7_224'),
    _timm('Swin-S', 'Attn', 'swin_small_patch4_window7_224'),
    _timm('Swin-B', 'Attn', 'swin_base_patch4_window7_224'),
)
# Attention over all tokens, whose time grows with their square: what the others are held against.
CONTROL = Entry(
    'ViT-S/16',
    'Attn',
    dict(type=PlainViT, model_name='vit_small_patch16_224'),
    dense=False,
)
_BY_NAME = {entry.name: entry for entry in (*ENTRIES, CONTROL)}
PRESETS = {
    'tiny': ('MambaOut-T', 'VMamba-T', 'ConvNeXt-T', 'Swin-T'),
    'small': ('MambaOut-S', 'VMamba-S', 'ConvNeXt-S', 'Swin-S'),
    'base': ('MambaOut-B', 'VMamba-B', 'ConvNeXt-B', 'Swin-B'),
    'all': tuple(entry.name for entry in ENTRIES),
}


def entries_of(names: list[str]) -> list[Entry]:
    """Entries by what a user writes.

    Args:
        names (list[str]): Names of ``ENTRIES`` in any case ('MambaOut-T'), presets ('tiny'),
            a registered backbone with what identifies it ('VMamba:small_s1l20',
            'TimmPyramid:resnet50'), or paths of mmdet's or mmseg's configs.

    Raises:
        UserError: If a name is none of these, or two entries have the same name.
    """
    entries = [entry for name in names for entry in _look_up(name)]
    taken = [entry.name for entry in entries]
    for name in taken:
        if taken.count(name) > 1:
            raise UserError(f'{name} is there twice; name it once')
    return entries


def _look_up(name: str) -> list[Entry]:
    if name in PRESETS:
        return [_BY_NAME[known] for known in PRESETS[name]]
    lower = {known.lower(): known for known in _BY_NAME}
    if name.lower() in lower:
        return [_BY_NAME[lower[name.lower()]]]
    if name.endswith('.py'):
        return [_from_config(Path(name))]
    kind, colon, variant = name.partition(':')
    registered = MODELS.get(f'mambaout_mm.{kind}') if colon else None
    if registered is None:
        known = [*PRESETS, *_BY_NAME]
        raise UserError(
            f'{name!r} is no backbone to compare; {near_names(name, known)} Or TYPE:VARIANT, as '
            'in VMamba:small_s1l20 and TimmPyramid:resnet50, or the path of a config'
        )
    key = 'model_name' if kind == 'TimmPyramid' else 'arch'
    backbone = {'type': f'mambaout_mm.{kind}', key: variant}
    same = [entry for entry in ENTRIES if entry.backbone == backbone]
    mixer = {'MambaOut': 'Conv', 'VMamba': 'Conv+SSM'}.get(kind, '')
    return same or [Entry(name, mixer, backbone)]


def _from_config(path: Path) -> Entry:
    try:
        cfg = Config.fromfile(path)
        backbone = cfg.model.backbone.to_dict()
    except FileNotFoundError as error:
        raise UserError(f'there is no config {str(path)!r}') from error
    except AttributeError as error:
        raise UserError(f'{str(path)!r} has no model.backbone to compare') from error
    backbone.pop('init_cfg', None)
    return Entry(path.stem, '', backbone, scope=cfg.get('default_scope', 'mmengine'))


def build_backbone(entry: Entry, checkpoint: str | None = None) -> nn.Module:
    """The backbone with random weights, or those of a checkpoint, without drop path, in eval mode.

    The same weights at every call.

    Args:
        entry (Entry): Which.
        checkpoint (str, optional): As ``init_cfg``'s: a path, a URL or a catalogue name. Defaults
            to None.

    Raises:
        UserError: If the backbone cannot be built or the checkpoint does not fit.
    """
    init_default_scope(entry.scope)
    cfg = copy.deepcopy(entry.backbone)
    if 'drop_path_rate' in cfg:
        cfg['drop_path_rate'] = 0.0
    if checkpoint:
        cfg['init_cfg'] = dict(type='Pretrained', checkpoint=checkpoint)
    torch.manual_seed(0)
    try:
        model = MODELS.build(cfg)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{entry.name} cannot be built: {error}') from error
    if checkpoint:
        model.init_weights()
    model.eval()  # whose result mmdet's ResNet does not return
    return model


def maps_of(model: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of a backbone's maps, read off its output for a 128x128 image."""
    if hasattr(model, 'out_channels') and hasattr(model, 'out_strides'):
        return tuple(model.out_channels), tuple(model.out_strides)
    with torch.no_grad():
        outs = model(torch.zeros(1, 3, 128, 128))
    return tuple(x.shape[1] for x in outs), tuple(128 // x.shape[-1] for x in outs)


def stage_of(stride: int) -> int:
    """The number that a pyramid's stage of this stride has: 1 for 4, 4 for 32."""
    return round(math.log2(stride)) - 1


def whole_config(name: str, channels: tuple[int, ...]) -> Config:
    """The project's Mask R-CNN or UperNet for maps of these widths, its backbone left to fill in.

    Args:
        name (str): Of ``WHOLE_MODELS``.
        channels (tuple[int, ...]): Of the four maps, strides 4 to 32.

    Raises:
        UserError: If there are not four maps, or the configs are not installed.
    """
    if len(channels) != 4:
        raise UserError(f'{name} takes four maps, the backbone gives {len(channels)}')
    if CONFIGS is None:
        raise UserError('the configs are not installed beside mambaout_mm; install the package')
    cfg = Config.fromfile(CONFIGS / WHOLE_MODELS[name][0])
    for part in {'neck', 'decode_head'} & set(cfg.model):
        cfg.model[part].in_channels = list(channels)
    if 'auxiliary_head' in cfg.model:
        cfg.model.auxiliary_head.in_channels = channels[2]
    return cfg
