"""The contract of a backbone for dense prediction, written once for every family."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .weights import PublishedWeights

STAGE_STRIDES = (4, 8, 16, 32)


class Network(NamedTuple):
    """A network as tables name it.

    Attributes:
        name (str): As in the tables: 'VMamba-T'.
        mixer (str): How its blocks mix tokens, in the words of MambaOut's tables: 'Conv', 'Attn',
            'Conv+SSM'; '' where it is not known.
        backbone (dict): Its config.
        published (str): Its name in ``published.csv``. Defaults to '': it has no rows there.
        scope (str): MMEngine's scope in which ``backbone['type']`` is looked up. Defaults to
            'mambaout_mm'.
        path (str): Of the config file that it was read from. Defaults to '': from none.
        presets (tuple[str, ...]): Comparisons that it takes part in by default. Defaults to none.
        other_heads (str): Why its published UperNet costs cannot stand beside the costs of the
            UperNet here. Defaults to '': they can.
    """

    name: str
    mixer: str
    backbone: dict[str, Any]
    published: str = ''
    scope: str = 'mambaout_mm'
    path: str = ''
    presets: tuple[str, ...] = ()
    other_heads: str = ''


class Paper(NamedTuple):
    """Where a family comes from.

    Attributes:
        url (str): Of the paper.
        title (str): Of the paper.
        block (str): What it calls its blocks, or what is in them.
        licence (str): Of the authors' code and weights. Defaults to 'Apache License 2.0'.
    """

    url: str
    title: str
    block: str
    licence: str = 'Apache License 2.0'


class DenseWeights(NamedTuple):
    """A detector or segmentor whose weights its authors released.

    Attributes:
        url (str): Of the file.
        config (str): Under configs/, without `.py`: the config that the file belongs to.
        published (str): Its backbone, as published.csv has it.
        schedule (str): Of its row in published.csv.
    """

    url: str
    config: str
    published: str
    schedule: str


class Stage(NamedTuple):
    """The parts of a stage, in the order in which they run.

    Attributes:
        lead_in (Sequence): What leads to the blocks: the stem for stage 0, else the downsampling.
            A stem may have parameters that stand alone, such as a position embedding.
        blocks (Sequence[nn.Module]): The blocks.
    """

    lead_in: Sequence[nn.Module | nn.Parameter]
    blocks: Sequence[nn.Module]


class PyramidBackbone(PublishedWeights):
    """Images to a tuple of feature maps at strides 4, 8, 16 and 32.

    A family subclasses this, builds its modules and ends its ``__init__`` with
    :meth:`freeze_stages`. It provides :meth:`stage`, from which forward pass, freezing and layer
    ids follow, :meth:`convert_checkpoint` and :meth:`describe_checkpoint`, and says what it is
    known by in the class attributes below. Networks of one resolution, which have no stages of
    their own, are :class:`.plain.PlainBackbone`.

    Stages behind the last that is needed are not built: their parameters would never receive a
    gradient, which stops DistributedDataParallel.

    Args:
        depths (Sequence[int]): Blocks in each of the four stages.
        dims (Sequence[int]): Channels of each of the four stages.
        out_indices (Sequence[int]): Stages whose maps are returned, ascending.
            Defaults to (0, 1, 2, 3).
        output_norm (bool): A LayerNorm ``norm{i}`` on the output of each stage in ``out_indices``,
            as the author of MambaOut says of segmentation (yuweihao/MambaOut issue #251). That
            detection has it too is an inference. Defaults to True.
        norm_eps (float): Epsilon of the output norms. Defaults to 1e-6.
        frozen_stages (int): -1 freezes nothing, 0 the stem, i the stem and the first i stages with
            their output norms (the convention of mmdet's Swin). Defaults to -1.
        with_cp (bool): Recompute each block's activations in the backward pass (non-reentrant
            activation checkpointing): less memory for more time. Defaults to False.
        init_cfg (dict | list[dict], optional): MMEngine's initialisation config. For
            ``type='Pretrained'`` see :meth:`init_weights`. Defaults to None.
        channels_last (bool): Return maps in the memory in which they were computed, which is
            channels-last, without copying them: a neck or head of convolutions takes them as well.
            False copies each to contiguous memory, NCHW in memory too, as other backbones do it,
            since some heads call ``view`` on a map (mmseg's DMNet). Defaults to False.
        taps (Sequence[int], optional): Stages whose outputs are used, and normalised. Defaults to
            None: those in ``out_indices``.

    Raises:
        ValueError: If ``depths``, ``dims``, ``out_indices`` or ``frozen_stages`` is out of range.
    """

    # Networks of this family that tables name, in the tables' order.
    networks: tuple[Network, ...] = ()
    # The paper of each family among the networks, by the family's name in the model index. The
    # names of its networks begin with the first word of that name.
    papers: dict[str, Paper] = {}
    # How the authors' recipes differ from the recipe here. The first key is the name of a published
    # row, or the beginning of the name; the second is the task ('detection', 'segmentation',
    # 'classification').
    recipes: dict[str, dict[str, str]] = {}
    # Released detectors and segmentors, by catalogue name ('vmamba-det://tiny_s1l8').
    dense_weights: dict[str, DenseWeights] = {}
    # Types of modules whose every output depends on the whole map. None means that nobody has
    # looked, and the theoretical receptive field is not known.
    global_modules: tuple[type[nn.Module], ...] | None = None

    output_norm_type: type[nn.Module] = nn.LayerNorm

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norm: bool = True,
        norm_eps: float = 1e-6,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        channels_last: bool = False,
        taps: Sequence[int] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        for name, values in (('depths', depths), ('dims', dims)):
            if len(values) != 4 or any(not isinstance(v, int) or v < 1 for v in values):
                raise ValueError(f'{name} must be four positive integers, got {values!r}')
        out_indices = tuple(out_indices)
        if not out_indices or list(out_indices) != sorted(set(out_indices) & {0, 1, 2, 3}):
            raise ValueError(f'out_indices must be ascending, out of 0, 1, 2, 3; got {out_indices}')
        self.taps = out_indices if taps is None else tuple(taps)
        self.num_stages = self.taps[-1] + 1
        if frozen_stages not in range(-1, self.num_stages + 1):
            raise ValueError(
                f'frozen_stages must be between -1 (none) and {self.num_stages} (the stem and all '
                f'{self.num_stages} stages that out_indices={out_indices} uses), '
                f'got {frozen_stages}'
            )
        self.depths = tuple(depths)
        self.dims = tuple(dims)
        self.out_indices = out_indices
        self.output_norm = output_norm
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.channels_last = channels_last
        if output_norm:
            for i in self.taps:
                self.add_module(f'norm{i}', self.output_norm_type(dims[i], eps=norm_eps))

    @property
    def normed_taps(self) -> tuple[int, ...]:
        """The stages with an output norm."""
        return self.taps if self.output_norm else ()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned map: ``in_channels`` of a neck."""
        return tuple(self.dims[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Stride of each returned map against the image."""
        return tuple(STAGE_STRIDES[i] for i in self.out_indices)

    def stage(self, i: int) -> Stage:
        """The parts of stage ``i``, without its output norm."""
        raise NotImplementedError

    def forward_stage(self, i: int, x: Tensor) -> Tensor:
        """Output of stage ``i``.

        Args:
            i (int): The stage.
            x (Tensor): For stage 0 the images, (N, 3, H, W); else the previous stage's output.

        Returns:
            Tensor: Channels-last map, (N, H_i, W_i, dims[i]).
        """
        lead_in, blocks = self.stage(i)
        for module in lead_in:
            x = module(x)
        for block in blocks:
            x = self.run_block(block, x)
        return x

    def modules_of_stage(self, i: int) -> list[nn.Module | nn.Parameter]:
        """The modules of stage ``i`` without its output norm; the stem's for ``i = -1``."""
        if i == -1:
            return [*self.stage(0).lead_in]
        lead_in, blocks = self.stage(i)
        return [*blocks] if i == 0 else [*lead_in, *blocks]

    def stage_and_block(self, param_name: str) -> tuple[int, int | None] | None:
        """Where one of the backbone's parameters belongs.

        Returns:
            tuple[int, int | None] | None: Stage and block; block None for what leads to the stage
            (the stem for stage 0, else its downsampling); None for output norms and names that
            are not the backbone's.
        """
        positions: dict[int, tuple[int, int | None]] = {}
        for i in range(self.num_stages):
            lead_in, blocks = self.stage(i)
            # A permutation between the blocks has no parameters and is not counted.
            trained = [block for block in blocks if next(block.parameters(), None) is not None]
            positions |= {id(part): (i, None) for part in lead_in}
            positions |= {id(block): (i, j) for j, block in enumerate(trained)}
        part, position = self, None
        for name in param_name.split('.'):
            part = getattr(part, name, None)
            position = positions.get(id(part), position)
        return position

    def get_layer_depth(
        self, param_name: str, prefix: str = '', stage_wise: bool = False
    ) -> tuple[int, int]:
        """Layer id of a parameter, and the number of layers, for learning-rate decay.

        The ids of ConvNeXt, right for any depth. Layer-wise: 0 the stem, 1 and 2 the first two
        stages, then one id for every three blocks of the third stage, one for the fourth, and one
        more for output norms, neck and heads. A downsampling layer has the id of the stage that
        follows. Stage-wise: 0 all downsampling layers, 1 to 4 the stages, 5 the rest.

        Args:
            param_name (str): Name in the whole model or in the backbone.
            prefix (str): What precedes the backbone's names in ``param_name``, as in
                ``'backbone.'``. Names without it are the head's. Defaults to ''.
            stage_wise (bool): Count stages in place of groups of blocks. Defaults to False.

        Returns:
            tuple[int, int]: The layer id and the number of layers; the last id is the head's.
        """
        num_layers = 6 if stage_wise else layer_wise_depth(self.depths, 3, 0) + 2
        ours = param_name.startswith(prefix)
        position = self.stage_and_block(param_name.removeprefix(prefix)) if ours else None
        if position is None:
            return num_layers - 1, num_layers
        stage, block = position
        if block is None and (stage_wise or stage == 0):
            return 0, num_layers
        if stage_wise:
            return stage + 1, num_layers
        return layer_wise_depth(self.depths, stage, block or 0), num_layers

    def is_unbuilt(self, name: str) -> bool:
        """Whether a parameter belongs to a stage that this model does not build.

        Each stage of a family is a numbered child: stages.3.0.fc1, downsample_layers.3.conv,
        layers.3.
        """
        unbuilt = '|'.join(map(str, range(self.num_stages, 4)))
        return unbuilt != '' and re.match(rf'^\w+\.({unbuilt})\.', name) is not None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices``.

        Args:
            x (Tensor): Images, (N, 3, H, W), of any H and W from 32.

        Returns:
            tuple[Tensor, ...]: Maps (N, dims[i], H_i, W_i) with H_i = ceil(H / stride), but for
            families whose patches have no padding. Contiguous unless ``channels_last``.
        """
        outs = []
        for i in range(self.num_stages):
            x = self.forward_stage(i, x)  # (N, H_i, W_i, C_i)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x) if self.output_norm else x
                outs.append(self.lay_out(out.permute(0, 3, 1, 2)))  # (N, C_i, H_i, W_i)
        return tuple(outs)

    def lay_out(self, out: Tensor) -> Tensor:
        """A map (N, C, H, W) in the memory that ``channels_last`` asks for."""
        return out if self.channels_last else out.contiguous()

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """``block(*inputs)``, checkpointed where ``with_cp`` asks and a gradient is wanted."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def freeze_stages(self) -> None:
        """Put what ``frozen_stages`` names into eval mode and take it out of training."""
        for i in range(-1, self.frozen_stages):
            frozen = list(self.modules_of_stage(i))
            if self.output_norm and i in self.taps:
                frozen.append(getattr(self, f'norm{i}'))
            for part in frozen:
                part.requires_grad_(False)
                if isinstance(part, nn.Module):
                    part.eval()

    def train(self, mode: bool = True) -> 'PyramidBackbone':
        """Switch between training and evaluation; frozen stages stay in evaluation."""
        super().train(mode)
        self.freeze_stages()
        return self


def layer_wise_depth(depths: Sequence[int], stage: int, block: int) -> int:
    """Layer id of a block: stages 0 and 1 count as one layer each, stage 2 as one per three blocks.

    The rule of ConvNeXt's layer-wise decay (mmpretrain ``ConvNeXt.get_layer_depth``), with the
    number of layers taken from ``depths`` in place of the two hard-coded cases 6 and 12.
    """
    if stage < 2:
        return stage + 1
    return 3 + block // 3 if stage == 2 else 3 + math.ceil(depths[2] / 3)


def drop_path_rates(drop_path_rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic-depth rate of each block, rising linearly from 0 at the first to the last.

    Raises:
        ValueError: As :func:`check_drop_path_rate`.
    """
    check_drop_path_rate(drop_path_rate)
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        [drop_path_rate * (start + block) / last for block in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]


def check_drop_path_rate(drop_path_rate: float) -> None:
    """Check that a rate of stochastic depth is in range.

    Raises:
        ValueError: If the rate is no number from 0 to below 1.
    """
    if not isinstance(drop_path_rate, int | float) or not 0 <= drop_path_rate < 1:
        raise ValueError(f'drop_path_rate must be from 0 to below 1, got {drop_path_rate!r}')
