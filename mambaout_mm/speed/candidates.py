"""Each form of a case, ready to run: this project's model or timm's, with the same weights."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import timm
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from mambaout_mm.backbones import MambaOut
from mambaout_mm.errors import UserError
from mambaout_mm.ops.products import has_onednn, linear_layers_by_onednn
from mambaout_mm.ops.torch_versions import FUSED_ON_CPU

from .cases import Case
from .whole_models import WHOLE_MODELS, build_random, find_model_config

CONFIG_NAMES = {'tiny': 't', 'small': 's', 'base': 'b'}


class Candidate(NamedTuple):
    """A form of a case, ready to run.

    Attributes:
        model (nn.Module): For its parameters.
        run (Callable): ``run()`` does the work to time, and returns tensors to compare.
        loss (Callable): The work before the backward pass, to count the bytes that it keeps.
    """

    model: nn.Module
    run: Callable[[], tuple[Tensor, ...]]
    loss: Callable[[], object]


class NotApplicable(Exception):
    """A form that a case does not have."""


def prepare(arch: str, case: Case, form: str, device: str) -> Candidate:
    """The form of the case, on the device, with weights that all forms share.

    Raises:
        NotApplicable: If the case has no such form.
    """
    side, _, mode = form.partition(' ')
    if mode == 'graph' and (device != 'cuda' or case.what != 'inference'):
        raise NotApplicable('CUDA graphs are for inference on CUDA')
    if mode in ('graph', 'compiled') and case.model != 'backbone':
        raise NotApplicable('only the backbone alone is timed so')
    if case.what == 'inference' and case.model != 'backbone':
        raise NotApplicable('whole models are timed in training')
    if mode == 'onednn' and (device != 'cpu' or case.model != 'backbone'):
        raise NotApplicable('only the backbone on a CPU is timed so')
    if mode == 'onednn' and (case.dtype != 'fp32' or not has_onednn(torch.float32)):
        raise NotApplicable('oneDNN runs the linear layers anyway, or cannot')
    make = backbone_candidate if case.model == 'backbone' else whole_candidate
    return make(arch, case, side, mode, device)


def backbones(arch: str) -> dict[str, nn.Module]:
    """MambaOut of this project and timm's, with the same random weights.

    Raises:
        UserError: If timm has no such variant.
    """
    name = f'mambaout_{arch}'
    if name not in timm.list_models('mambaout_*'):
        raise UserError(f'timm has no {name}; it has {", ".join(timm.list_models("mambaout_*"))}')
    torch.manual_seed(0)
    theirs = timm.create_model(name, features_only=True)
    # timm's maps are views, which neither side copies to another memory format
    ours = MambaOut(arch, output_norm=False, channels_last=True)
    official = {name.replace('stages_', 'stages.'): x for name, x in theirs.state_dict().items()}
    ours.load_state_dict(ours.convert_checkpoint(official))
    return dict(ours=ours, timm=theirs)


def backbone_candidate(arch: str, case: Case, side: str, mode: str, device: str) -> Candidate:
    model = backbones(arch)[side].to(device).train(case.what != 'inference')
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(case.batch, 3, case.height, case.width, generator=generator).to(device)
    if mode in ('channels_last', 'onednn'):
        model = model.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    library = linear_layers_by_onednn if mode == 'onednn' else nullcontext
    # One size is timed, so that graphs may be made for it.
    network = torch.compile(model, dynamic=False) if mode == 'compiled' else model
    channels_first = side == 'ours'

    def maps() -> tuple[Tensor, ...]:
        with autocast(case, device), library():
            return tuple(network(image))

    def to_compare(outs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.permute(0, 2, 3, 1) if channels_first else x for x in outs)

    if case.what == 'inference':

        def infer() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return to_compare(maps())

        return Candidate(model, captured(infer) if mode == 'graph' else infer, maps)
    step = optimizer_step(model) if case.what == 'step' else None

    def train() -> tuple[Tensor, ...]:
        model.zero_grad(set_to_none=True)
        outs = maps()
        torch.autograd.backward(outs, [torch.ones_like(x) for x in outs])
        stem = next(iter(model.parameters())).grad  # what every other gradient flows into
        if step is not None:
            step()
        return *to_compare(outs), stem

    return Candidate(model, train, maps)


def whole_candidate(arch: str, case: Case, side: str, mode: str, device: str) -> Candidate:
    """A detector or segmentor over either backbone, and its training iteration."""
    try:
        cfg = Config.fromfile(find_model_config(case.model, CONFIG_NAMES.get(arch, arch)))
    except UserError as error:
        raise NotApplicable(str(error)) from error
    # Without stochastic depth, for which timm's draws other random numbers.
    cfg.model.backbone.update(drop_path_rate=0.0, channels_last=True)
    size = case.height, case.width
    set_random_seed(0)
    model = build_random(cfg, size)
    pair = backbones(arch)
    model.backbone.load_state_dict(pair['ours'].state_dict(), strict=False)
    if side == 'timm':
        model.backbone = TimmWithNorms(pair['timm'], model.backbone)
    model = model.to(device).train()
    if mode == 'channels_last':
        model = model.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(1)
    batch = WHOLE_MODELS[case.model].samples(case.batch, size, generator)
    step = optimizer_step(model, cfg) if case.what == 'step' else None

    def loss() -> Tensor:
        torch.manual_seed(2)  # of the heads' samplers
        data = model.data_preprocessor(copy.deepcopy(batch), training=True)
        with autocast(case, device):
            losses = model(**data, mode='loss')
        return model.parse_losses(losses)[0]

    def train() -> tuple[Tensor, ...]:
        model.zero_grad(set_to_none=True)
        total = loss()
        total.backward()
        if step is not None:
            step()
        return (total.detach(),)

    return Candidate(model, train, loss)


class TimmWithNorms(nn.Module):
    """timm's backbone with the output norms of this project's, for the same neck and head."""

    def __init__(self, features: nn.Module, ours: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.norms = nn.ModuleList(getattr(ours, f'norm{i}') for i in ours.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.features(x)  # (N, H, W, C) each
        return tuple(norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, maps, strict=True))


def autocast(case: Case, device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=case.dtype == 'bf16')


def optimizer_step(model: nn.Module, cfg: Config | None = None) -> Callable[[], object]:
    """AdamW's step with a learning rate of zero, which is as much work and leaves the weights."""
    fused = FUSED_ON_CPU or next(model.parameters()).is_cuda
    if cfg is not None:
        optimizer = cfg.optim_wrapper.optimizer
        optimizer.lr = 0.0
        if optimizer.get('fused'):
            optimizer.fused = fused
        return build_optim_wrapper(model, cfg.optim_wrapper).step
    return torch.optim.AdamW(model.parameters(), lr=0.0, fused=fused).step


def captured(infer: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
    """Record a call into a CUDA graph; what is returned replays the graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            infer()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = infer()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outs

    return replay
