"""MambaOut of this project against timm's, with the same weights, in one process.

Every form is checked against timm's float32 before any form is timed; then they take turns.
"""

from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import Tensor

from mambaout_mm.errors import UserError
from mambaout_mm.measure.complexity import count_macs
from mambaout_mm.measure.failure import reason_of
from mambaout_mm.measure.machine import copy_rate, machine, matmul_rate
from mambaout_mm.measure.memory import PROBE, bytes_kept, memory_free, peak_bytes, peak_increase
from mambaout_mm.measure.timing import spread_of, take_turns
from mambaout_mm.ops.torch_versions import OutOfMemoryError

from .candidates import NotApplicable, backbones, prepare
from .cases import DTYPES, Case
from .floor import floor_seconds

LARGE = 4_000_000  # pixels of a batch, above which memory is looked at first
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


class ParityError(UserError):
    """A form computes something else than timm's model; it is not timed."""


def benchmark(
    arch: str, cases: list[Case], forms: list[str], rounds: int, limit_s: float, device: str
) -> Iterator[dict[str, Any]]:
    """Time each case in each form.

    Args:
        arch (str): A variant of MambaOut that timm has, too: 'tiny'.
        cases (list[Case]): What to time.
        forms (list[str]): Out of ``FORMS``.
        rounds (int): Measurements of each form, at most.
        limit_s (float): Seconds of a case after which no round starts, except the first three.
        device (str): 'cpu' or 'cuda'.

    Yields:
        dict[str, Any]: A row for each form of a case, as soon as the case is done. ``status`` has
        the reason if a form could not be measured.
    """
    rates = dict(copy=copy_rate(device))
    for name in sorted({case.dtype for case in cases}):
        rates[name] = matmul_rate(device, DTYPES[name])
    context = machine(device) | dict(
        timm=timm.__version__,
        copy_gb_per_s=round(rates['copy'] / 1e9, 2),
    )
    macs = {}
    for case in cases:
        size = case.height, case.width
        lacking = lacking_memory(arch, case, device)
        if lacking:
            rows = [identity(arch, case, form) | dict(status=lacking) for form in forms]
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


def identity(arch: str, case: Case, form: str) -> dict[str, Any]:
    """Columns that say which case and form a row is about."""
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

    Linux grants memory that it does not have, and ends the process that uses it. So the memory of a
    small image is measured, and taken to grow with the pixels.
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
            return ''  # every form of the case will say so
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
    rows = {form: identity(arch, case, form) for form in forms}
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
        except (OutOfMemoryError, torch._dynamo.exc.TorchDynamoException) as error:
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


def errors(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    """Largest difference of each tensor, relative to the largest exact value."""
    return [
        ((a.detach().float() - b.detach()).abs().max() / b.detach().abs().max()).item()
        for a, b in zip(found, exact, strict=True)
    ]


def check_parity(form: str, case: Case, found: float, plain: float) -> None:
    """Allow an error, against timm's float32, of twice timm's own in the case's dtype plus 1e-4.

    Raises:
        ParityError: If the form is further off than that.
    """
    granted = 2 * plain + 1e-4
    if not found <= granted:  # so that NaN fails, too
        raise ParityError(
            f'{form} is wrong by {found:.1e} for {case}; {granted:.1e} is granted. Nothing of this '
            'case was timed'
        )
