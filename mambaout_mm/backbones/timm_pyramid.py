"""Conv and attention baselines: timm's models as four-stage backbones.

Verified against the implementations that detectors use: Swin against mmdet's ``SwinTransformer``,
ConvNeXt against torchvision's (``tests/backbones/test_timm_pyramid.py``, timm 1.0.31).

Weights of ConvNeXt: github.com/facebookresearch/ConvNeXt, MIT; the last weights, which its authors'
detectors and segmentors start from. timm's ``fb_in1k`` are their moving average.
"""

import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import timm
from timm.models import FeatureListNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from mambaout_mm.checkpoints import CheckpointError, UnknownLayoutError
from mambaout_mm.registry import register_family

from .base import STAGE_STRIDES, Network, Paper, PyramidBackbone, Stage, check_drop_path_rate

CONVNEXT = 'https://dl.fbaipublicfiles.com/convnext/convnext_{}_1k_224.pth'


class PaddedSwinBlock(SwinTransformerBlock):
    """timm's Swin block with the official order for maps that the window does not divide.

    The official detectors (and mmdet's) pad the map and then shift it. timm shifts first and pads
    then, while its mask is that of the padded map, so pixels of opposite image borders attend to
    each other: at 256x320, with random weights, features differ by a quarter of their range.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window_h, window_w = self.window_size
        y = F.pad(self.norm1(x), (0, 0, 0, -width % window_w, 0, -height % window_h))
        x = x + self.drop_path1(self._attn(y)[:, :height, :width])  # (N, H, W, C)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


@register_family
class TimmPyramid(PyramidBackbone):
    """A timm model as a four-stage backbone for mmdet and mmseg.

    For models whose features timm gives as a chain of modules (``FeatureListNet``) with maps at
    strides 4, 8, 16 and 32: ConvNeXt and Swin, which the configs use, ResNet, RegNet, PVT v2,
    FocalNet, PoolFormer, the EfficientNet and MobileNet families and most others. The classifier
    and final norm are left out.

    Swin takes images of any size: windows keep their size, are shifted in the last stage too, and
    maps are padded as in the official detectors; each stride rounds up. The others treat odd sizes
    as timm does: ConvNeXt's patches of 4x4 and 2x2 pixels, official, round down at each stride.

    Parameter names are those of timm's ``features_only`` models under ``net.``, for example
    ``net.stages_2.blocks.5.gamma``.

    Args:
        model_name (str): As in ``timm.list_models()``, without a tag: 'convnext_tiny',
            'swin_tiny_patch4_window7_224'. Weights are named in ``init_cfg``.
        drop_path_rate (float): Stochastic depth, given to timm: rising linearly from 0 at the first
            block to this at the last. Defaults to 0.0.
        out_indices, frozen_stages, with_cp, init_cfg, channels_last: See :class:`PyramidBackbone`.
            The stem is all that precedes the module which ends stride 4.
        output_norm (bool): As in :class:`PyramidBackbone`, with the epsilon of the model's own
            LayerNorms: 1e-6 for ConvNeXt (as mmpretrain's), 1e-5 for Swin (as mmdet's); 1e-6 where
            it has none. Defaults to True.

    Raises:
        ValueError: If timm has no such model, cannot give its features as a chain, binds it to one
            image size, or it lacks one of the strides 4, 8, 16 and 32; or ``drop_path_rate`` is not
            zero for a model without stochastic depth.

    Example:
        >>> import torch
        >>> from mambaout_mm import TimmPyramid
        >>> backbone = TimmPyramid('convnext_atto')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 40, 16, 24), (1, 80, 8, 12), (1, 160, 4, 6), (1, 320, 2, 3)]
    """

    weights = {f'convnext://{size}': CONVNEXT.format(size) for size in ('tiny', 'small', 'base')}
    networks = tuple(
        Network(
            f'{family}-{size[0].upper()}',
            mixer,
            dict(type='mambaout_mm.TimmPyramid', model_name=model_name.format(size)),
            f'{family}-{size[0].upper()}',
            presets=(size,),
        )
        for family, mixer, model_name in (
            ('ConvNeXt', 'Conv', 'convnext_{}'),
            ('Swin', 'Attn', 'swin_{}_patch4_window7_224'),
        )
        for size in ('tiny', 'small', 'base')
    )
    papers = {
        'ConvNeXt': Paper(
            'https://arxiv.org/abs/2201.03545', 'A ConvNet for the 2020s', 'ConvNeXt block'
        ),
        'Swin Transformer': Paper(
            'https://arxiv.org/abs/2103.14030',
            'Swin Transformer: Hierarchical Vision Transformer using Shifted Windows',
            'Shifted-window attention',
        ),
    }
    recipes = {
        'ConvNeXt': dict(
            segmentation='mixed precision, 8 x 2 images, weight decay .05, learning rate decayed '
            'by stage, sliding-window test',
            classification='averaged weights',
        )
    }

    def __init__(
        self,
        model_name: str,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        channels_last: bool = False,
    ) -> None:
        net = feature_net(model_name, drop_path_rate)
        parts, dims = split(net)
        blocks = [[b for name in part for b in block_names(name, net[name])] for part in parts[1:]]
        super().__init__(
            depths=[len(names) for names in blocks],
            dims=dims,
            out_indices=out_indices,
            output_norm=output_norm,
            norm_eps=next((m.eps for m in net.modules() if isinstance(m, nn.LayerNorm)), 1e-6),
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            channels_last=channels_last,
        )
        self.model_name = model_name
        self.net_is_nhwc = net.output_fmt == 'NHWC'
        self.parts = parts
        self.block_names = blocks
        # Not of ConvNeXt V2, whose response norm looks at the whole map.
        if model_name.startswith(('convnext_', 'mambaout_', 'swin_')):
            self.global_modules = ()
        self.net = nn.ModuleDict(
            {name: net[name] for part in parts[: self.num_stages + 1] for name in part}
        )
        for module in self.net.modules():
            if hasattr(module, 'grad_checkpointing'):  # timm's stages checkpoint their own blocks
                module.grad_checkpointing = with_cp
        self.freeze_stages()

    def forward_stage(self, i: int, x: Tensor) -> Tensor:
        if i == 0:
            for name in self.parts[0]:
                x = self.net[name](x)
        elif not self.net_is_nhwc:
            x = x.permute(0, 3, 1, 2)  # (N, C, H, W)
        for name in self.parts[i + 1]:
            module = self.net[name]
            if hasattr(module, 'grad_checkpointing'):
                x = module(x)
                continue
            for block in module if isinstance(module, nn.Sequential) else [module]:
                x = self.run_block(block, x)
        return x if self.net_is_nhwc else x.permute(0, 2, 3, 1)

    def stage(self, i: int) -> Stage:
        """The parts of stage ``i``: blocks, and the modules that hold and precede them.

        Blocks are the children of a stage's ``blocks``, or of a stage that is an ``nn.Sequential``;
        any other module of a stage counts as one block. What a stage has beside its blocks is its
        downsampling.
        """
        stem = self.parts[0] if i == 0 else []
        blocks = [self.net.get_submodule(name) for name in self.block_names[i]]
        return Stage([self.net[name] for name in (*stem, *self.parts[i + 1])], blocks)

    def modules_of_stage(self, i: int) -> list[nn.Module]:
        return [self.net[name] for name in self.parts[i + 1]]

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Own names for a state dict in timm's layout, with or without the classifier.

        A layout that timm itself converts for this model, such as Microsoft's of Swin and
        Facebook's of ConvNeXt, goes through timm's ``checkpoint_filter_fn``.

        Raises:
            UnknownLayoutError: If nothing of this model is in it.
            CheckpointError: If something is, and timm cannot convert the rest.
        """
        own = self.state_dict()
        classifier = timm.create_model(self.model_name)
        known = self._own_names(classifier.state_dict())
        names = self._own_names(state_dict)
        unknown = [n for n in names if n not in known and not re.match(r'norm[0-3]\.', n)]
        family = importlib.import_module(type(classifier).__module__)
        if unknown and hasattr(family, 'checkpoint_filter_fn'):
            check_windows(state_dict, classifier.state_dict())
            try:
                names = self._own_names(family.checkpoint_filter_fn(dict(state_dict), classifier))
            except (AttributeError, KeyError, RuntimeError) as error:
                known_in_part = any(name in own for name in names)
                raise (CheckpointError if known_in_part else UnknownLayoutError)(
                    f'it holds {self.describe_checkpoint(names)}: {len(unknown)} keys are unknown '
                    f'({", ".join(unknown[:3])}, ...), and timm cannot convert it ({error!r})'
                ) from error
        if not any(name in own for name in names if name.startswith('net.')):
            raise UnknownLayoutError(
                f'no {self.model_name} in it: none of its {len(state_dict)} keys '
                f"({', '.join(list(state_dict)[:4])}, ...) is one of timm's"
            )
        return {name: t for name, t in names.items() if name in own or name not in known}

    def may_be_published(self, names: Collection[str]) -> bool:
        # What others publish is a whole network, without our `net.`
        whole = 2 * len(names) > len(self.state_dict())
        return whole and not any(name.startswith('net.') for name in names)

    def _own_names(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``stages.2.blocks.5.gamma`` or ``stages_2...``, with ``net.`` or not, to this model's."""
        modules = {name for part in self.parts for name in part}
        renamed = {}
        for name, tensor in state_dict.items():
            name = name.removeprefix('net.')
            first, _, rest = name.partition('.')
            if f'{first}_{rest.split(".")[0]}' in modules:
                name = name.replace('.', '_', 1)
            renamed[f'net.{name}' if name.split('.')[0] in modules else name] = tensor
        return renamed

    def describe_checkpoint(self, state_dict: dict[str, Tensor]) -> str:
        return f"something other than timm's {self.model_name}"


def check_windows(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse a Swin of another window, which timm's filter would interpolate to this one.

    Raises:
        CheckpointError: If a table of position biases has another shape.
    """
    for name, table in own.items():
        if not name.endswith('relative_position_bias_table') or name not in given:
            continue
        if given[name].shape != table.shape:
            raise CheckpointError(
                f'{name} {tuple(given[name].shape)} in the file, {tuple(table.shape)} here: its '
                'windows have another size'
            )


def feature_net(model_name: str, drop_path_rate: float) -> FeatureListNet:
    """timm's ``features_only`` model: a chain of named modules, for images of any size.

    Raises:
        ValueError: As :class:`TimmPyramid`.
    """
    check_drop_path_rate(drop_path_rate)
    known = timm.list_models()
    if model_name not in known:
        near = timm.list_models(f'{model_name}*')[:4]
        near = near or get_close_matches(str(model_name), known, n=4, cutoff=0)
        raise ValueError(f'timm has no model {model_name!r}; did you mean {", ".join(near)}?')
    options: dict[str, Any] = dict(drop_path_rate=drop_path_rate)
    is_swin = model_name.startswith('swin_')
    if is_swin:
        # As in mmdet: masks made for each image's size, windows that keep their size and are
        # shifted in every stage. timm would stop shifting where 224x224 gives a single window.
        options.update(strict_img_size=False, always_partition=True)
    net = create(model_name, options)
    strides = net.feature_info.reduction()
    if not set(STAGE_STRIDES) <= set(strides):
        raise ValueError(
            f"timm's {model_name} has maps at strides {', '.join(map(str, sorted(set(strides))))}; "
            'detectors and segmentors need 4, 8, 16 and 32'
        )
    if net.pretrained_cfg.get('fixed_input_size') and not is_swin:
        size = 'x'.join(map(str, net.pretrained_cfg['input_size'][1:]))
        raise ValueError(
            f'timm binds {model_name} to images of {size}; of such models only Swin (swin_*) is '
            'taken here, since detectors and segmentors see images of any size'
        )
    if isinstance(net, EfficientNetFeatures | MobileNetV3Features):  # chains under another name
        net = FeatureListNet(net, tuple(range(len(strides))), flatten_sequential=True)
    if not isinstance(net, FeatureListNet):
        raise ValueError(
            f'timm gives the features of {model_name} by {type(net).__name__}, not as a chain of '
            'modules, so that its stages cannot be told apart'
        )
    if is_swin:
        net['patch_embed'].dynamic_img_pad = True
        for module in net.modules():
            if isinstance(module, SwinTransformerBlock):
                module.__class__ = PaddedSwinBlock  # differs in forward alone
    return net


def create(model_name: str, options: dict[str, Any]) -> nn.Module:
    """``timm.create_model`` with errors in words, and without drop path for models that lack it."""
    try:
        return timm.create_model(model_name, features_only=True, **options)
    except TypeError as error:
        if 'drop_path_rate' not in str(error):
            raise
        if options['drop_path_rate'] > 0:
            raise ValueError(
                f"timm's {model_name} has no stochastic depth; leave drop_path_rate at 0"
            ) from error
        options = {name: value for name, value in options.items() if name != 'drop_path_rate'}
        return timm.create_model(model_name, features_only=True, **options)
    except (AssertionError, AttributeError, RuntimeError) as error:  # differs from family to family
        raise ValueError(f'timm cannot give the features of {model_name}: {error}') from error


def split(net: FeatureListNet) -> tuple[list[list[str]], list[int]]:
    """Names of the modules of the stem and of each stage, and the stages' channels."""
    info = net.feature_info
    ends = dict(zip(info.reduction(), net.return_layers, strict=True))  # the last of each stride
    channels = dict(zip(info.reduction(), info.channels(), strict=True))
    names = list(net)
    cuts = [names.index(ends[stride]) + 1 for stride in STAGE_STRIDES]
    bounds = [0, cuts[0] - 1, *cuts]
    parts = [names[a:b] for a, b in pairwise(bounds)]
    return parts, [channels[stride] for stride in STAGE_STRIDES]


def block_names(name: str, module: nn.Module) -> list[str]:
    """What the parameters of each block in one of timm's modules start with."""
    for prefix, inner in ((f'{name}.blocks', getattr(module, 'blocks', None)), (name, module)):
        if isinstance(inner, nn.Sequential | nn.ModuleList):
            return [f'{prefix}.{child}' for child, _ in inner.named_children()]
    return [name]
