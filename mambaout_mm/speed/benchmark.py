"""MambaOut of this project against timm's, with the same weights, in one process.

Every form is checked against timm's float32 before any is timed; then they take turns.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import timm
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from mambaout_mm.backbones import MambaOut
from mambaout_mm.config_files import find_config
from mambaout_mm.errors import UserError
from mambaout_mm.measure.complexity import build_model, count_macs
from mambaout_mm.measure.synthetic import detection_samples, segmentation_samples
from mambaout_mm.measure.timing import (
    PROBE,
    bytes_kept,
    copy_rate,
    machine,
    memory_free,
    peak_bytes,
    peak_increase,
    product_rate,
    reason_of,
    spread_of,
    take_turns,
)

# 'ours' is how this project runs by default.
FORMS = (
    'ours',
    'ours channels_last',
    'timm',
    'timm channels_last',
    'ours compiled',
    'timm compiled',
    'ours graph',
    'timm graph',
)
WHATS = ('inference', 'forward+backward', 'step')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
WHOLE_MODELS = {
    'maskrcnn': ('detection', detection_samples),
    'upernet': ('segmentation', segmentation_samples),
}
LARGE = 4_000_000  # pixels of a batch, above which memory is looked at first
CONFIG_NAMES = {'tiny': 't', 'small': 's', 'base': 'b'}


class Case(NamedTuple):
    """One thing to time.

    Attributes:
        model (str): 'backbone', 'maskrcnn' or 'upernet'.
        what (str): 'inference'; 'forward+backward'; or 'step', that and AdamW's.
        height, width, batch (int): Of the images.
        dtype (str): 'fp32', or 'bf16' for autocast.
    """

    model: str
    what: str
    height: int
    width: int
    batch: int
    dtype: str


class ParityError(UserError):
    """A form computes something else; it is not timed."""


class Candidate(NamedTuple):
    """A form of a model, ready to run.

    Attributes:
        model (nn.Module): For its parameters.
        run (Callable): ``run()`` does what is timed, and returns tensors to compare.
        loss (Callable): The part of it before the backward pass, for counting what that keeps.
    """

    model: nn.Module
    run: Callable[[], tuple[Tensor, ...]]
    loss: Callable[[], object]


def benchmark(
    arch: str, cases: list[Case], forms: list[str], rounds: int, limit_s: float, device: str
) -> Iterator[dict[str, Any]]:
    """Time each case in each form.

    Args:
        arch (str): A variant of MambaOut that timm has, too: 'tiny'.
        cases (list[Case]): What to time.
        forms (list[str]): Out of ``FORMS``.
        rounds (int): Measurements of each, at most.
        limit_s (float): Seconds for a case after which no round starts, but for the first three.
        device (str): 'cpu' or 'cuda'.

    Yields:
        dict[str, Any]: A row for each form of a case as soon as the case is done. Where something
        could not be measured, ``status`` has the reason.
    """
    rates = dict(copy=copy_rate(device))
    for name in sorted({case.dtype for case in cases}):
        rates[name] = product_rate(device, DTYPES[name])
    context = machine(device) | dict(
        timm=timm.__version__,
        copy_gb_per_s=round(rates['copy'] / 1e9, 2),
    )
    macs = {}
    for case in cases:
        size = case.height, case.width
        lacking = lacking_memory(arch, case, device)
        if lacking:
            rows = [named(arch, case, form) | dict(status=lacking) for form in forms]
        else:
            rows = time_case(arch, case, forms, rounds, limit_s, device)
        floor = None
        if case.model == 'backbone' and not all('status' in row for row in rows):
            if size not in macs:
                macs[size] = count_macs(backbones(arch)['ours'].eval(), torch.zeros(1, 3, *size))
            floor = floor_seconds(arch, case, macs[size], rates)
        for row in rows:
            if floor and 'median_ms' in row:
                row |= dict(
                    macs_g=round(case.batch * macs[size] / 1e9, 2),
                    floor_ms=round(1e3 * floor, 3),
                    share_of_floor=round(1e3 * floor / row['median_ms'], 3),
                )
            rate = round(rates[case.dtype] / 1e9)
            yield dict.fromkeys(COLUMNS, '') | row | context | dict(product_gflop_per_s=rate)


COLUMNS = (
    'arch',
    'model',
    'what',
    'size',
    'batch',
    'dtype',
    'form',
    'median_ms',
    'p10_ms',
    'p90_ms',
    'rounds',
    'over_ours',
    'parity',
    'kept_mb',
    'peak_mb',
    'macs_g',
    'floor_ms',
    'share_of_floor',
    'status',
)


def named(arch: str, case: Case, form: str) -> dict[str, Any]:
    """What a row is of."""
    return dict(
        arch=arch,
        model=case.model,
        what=case.what,
        size=f'{case.height}x{case.width}',
        batch=case.batch,
        dtype=case.dtype,
        form=form,
    )


def lacking_memory(arch: str, case: Case, device: str) -> str:
    """Why a large case is not tried, or ''.

    Linux grants memory that it does not have, and ends the process once that is used. So the memory
    of a small image is measured, and grows with the pixels.
    """
    pixels, free = case.batch * case.height * case.width, memory_free(device)
    if pixels <= LARGE or not free:
        return ''
    needed = 4 * 3 * pixels
    if needed < free:
        small = case._replace(height=PROBE[0], width=PROBE[1], batch=1)
        try:
            run = prepare(arch, small, 'timm', device).run
        except NotApplicable:
            return ''  # which every form says of itself
        needed += peak_increase(run, device) * pixels / (PROBE[0] * PROBE[1])
    if needed <= 0.8 * free:
        return ''
    return (
        f'not measured: out of memory: about {needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB '
        'free'
    )


def time_case(
    arch: str, case: Case, forms: list[str], rounds: int, limit_s: float, device: str
) -> list[dict[str, Any]]:
    """Rows of one case, one for each form."""
    rows = {form: named(arch, case, form) for form in forms}
    ready, exact = {}, None
    for form in forms:
        try:
            candidate = prepare(arch, case, form, device)
            if exact is None:
                reference = prepare(arch, case._replace(dtype='fp32'), 'timm', device)
                exact = reference.run()
                plain = max(errors(prepare(arch, case, 'timm', device).run(), exact))
                del reference
            found = max(errors(candidate.run(), exact))
            check_parity(form, case, found, plain)
            rows[form]['parity'] = f'{found:.1e}'
            ready[form] = candidate
        except (torch.OutOfMemoryError, torch._dynamo.exc.TorchDynamoException) as error:
            rows[form]['status'] = f'not measured: {type(error).__name__}'
        except NotApplicable as error:
            rows[form]['status'] = f'not measured: {error}'
        except (RuntimeError, MemoryError) as error:
            if reason_of(error) != 'out of memory':  # as torch says it on a CPU
                raise
            rows[form]['status'] = 'not measured: out of memory'
    times = take_turns(
        {form: candidate.run for form, candidate in ready.items()}, rounds, device, 2, limit_s
    )
    for form, candidate in ready.items():
        spread = spread_of(times[form])
        rows[form] |= dict(
            median_ms=round(1e3 * spread.median, 3),
            p10_ms=round(1e3 * spread.p10, 3),
            p90_ms=round(1e3 * spread.p90, 3),
            rounds=len(times[form]),
        )
        if 'ours' in times:
            rows[form]['over_ours'] = round(spread.median / spread_of(times['ours']).median, 3)
        if case.what != 'inference' and 'compiled' not in form:
            rows[form]['kept_mb'] = round(bytes_kept(candidate.loss, candidate.model) / 1e6, 1)
        if device == 'cuda':
            rows[form]['peak_mb'] = round(peak_bytes(candidate.run) / 1e6, 1)
    return list(rows.values())


class NotApplicable(Exception):
    """A form that a case does not have."""


def prepare(arch: str, case: Case, form: str, device: str) -> Candidate:
    """The form of the case, on the device, with weights that all forms share.

    Raises:
        NotApplicable: If the case has no such form.
    """
    side, _, way = form.partition(' ')
    if way == 'graph' and (device != 'cuda' or case.what != 'inference'):
        raise NotApplicable('CUDA graphs are for inference on CUDA')
    if way in ('graph', 'compiled') and case.model != 'backbone':
        raise NotApplicable('only the backbone alone is timed so')
    if case.what == 'inference' and case.model != 'backbone':
        raise NotApplicable('whole models are timed in training')
    make = backbone_candidate if case.model == 'backbone' else whole_candidate
    return make(arch, case, side, way, device)


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


def backbone_candidate(arch: str, case: Case, side: str, way: str, device: str) -> Candidate:
    model = backbones(arch)[side].to(device).train(case.what != 'inference')
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(case.batch, 3, case.height, case.width, generator=generator).to(device)
    if way == 'channels_last':
        model = model.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    # One size is timed, so that graphs may be made for it.
    network = torch.compile(model, dynamic=False) if way == 'compiled' else model
    channels_first = side == 'ours'

    def maps() -> tuple[Tensor, ...]:
        with autocast(case, device):
            return tuple(network(image))

    def to_compare(outs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.permute(0, 2, 3, 1) if channels_first else x for x in outs)

    if case.what == 'inference':

        def infer() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return to_compare(maps())

        return Candidate(model, captured(infer) if way == 'graph' else infer, maps)
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


def whole_candidate(arch: str, case: Case, side: str, way: str, device: str) -> Candidate:
    """A detector or segmentor over either backbone, and its training iteration."""
    task, samples = WHOLE_MODELS[case.model]
    name = f'{task}/{case.model}_mambaout_{CONFIG_NAMES.get(arch, arch)}.py'
    try:
        cfg = Config.fromfile(find_config(name))
    except UserError as error:
        raise NotApplicable(str(error)) from error
    # No pretrained weights, and no stochastic depth, which timm's draws otherwise.
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0, channels_last=True)
    if 'size' in cfg.model.data_preprocessor:  # mmseg's pads to it
        cfg.model.data_preprocessor.size = (case.height, case.width)
    set_random_seed(0)
    model = build_model(cfg)
    model.init_weights()
    pair = backbones(arch)
    model.backbone.load_state_dict(pair['ours'].state_dict(), strict=False)
    if side == 'timm':
        model.backbone = TimmWithNorms(pair['timm'], model.backbone)
    model = model.to(device).train()
    if way == 'channels_last':
        model = model.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(1)
    batch = samples(case.batch, (case.height, case.width), generator)
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
    if cfg is not None:
        cfg.optim_wrapper.optimizer.lr = 0.0
        return build_optim_wrapper(model, cfg.optim_wrapper).step
    return torch.optim.AdamW(model.parameters(), lr=0.0, fused=True).step


def captured(infer: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
    """The same from a CUDA graph."""
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


def errors(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    """Largest difference of each tensor, relative to the largest exact value."""
    return [
        ((a.detach().float() - b.detach()).abs().max() / b.detach().abs().max()).item()
        for a, b in zip(found, exact, strict=True)
    ]


def check_parity(form: str, case: Case, found: float, plain: float) -> None:
    """Against timm's float32: 1e-4, or twice what timm's own error is in the case's dtype.

    Raises:
        ParityError: If the form is further off than that.
    """
    granted = 2 * plain + 1e-4
    if not found <= granted:  # so that NaN fails, too
        raise ParityError(
            f'{form} is wrong by {found:.1e} for {case}; {granted:.1e} is granted. Nothing of this '
            'case was timed'
        )


def floor_seconds(arch: str, case: Case, macs: int, rates: dict[str, float]) -> float:
    """What the arithmetic takes at the measured rate of products, or the bytes at that of copies.

    The larger of the two. Bytes of a block are those that no fusion around the matrix products
    avoids, in units of its width C for each pixel: forward 23 (norm 2, fc1 6.33, gate 8, fc2 3.67,
    residual 3), backward 39.3 (norm 3, fc1 12.67, gate 13.33, fc2 7.33, residual 3), both for
    h = 8/3 C; stem and downsampling read their input and write their output once, three times with
    a backward pass. AdamW reads four numbers of each parameter and writes three.
    """
    model = MambaOut(arch, output_norm=False)
    training = case.what != 'inference'
    size = torch.empty((), dtype=DTYPES[case.dtype]).element_size()
    height, width = case.height, case.width
    moved = 3.0 * height * width
    for i, (depth, dim) in enumerate(zip(model.depths, model.dims, strict=True)):
        pixels = -(-height // 4 // 2**i) * -(-width // 4 // 2**i)
        moved += pixels * dim * depth * (62.3 if training else 23.0)
        moved += pixels * dim * (3.0 if training else 1.0)
    byte_count = case.batch * moved * size
    if case.what == 'step':
        byte_count += 7 * 4 * sum(p.numel() for p in model.parameters())
    flops = case.batch * macs * (6 if training else 2)
    return max(byte_count / rates['copy'], flops / rates[case.dtype])
