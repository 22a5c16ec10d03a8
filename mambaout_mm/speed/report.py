"""The speed benchmark's table on the screen and on disk, and its picture."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import track

from mambaout_mm.errors import UserError
from mambaout_mm.files import check_folder, noted, whole_file, write_csv

from .benchmark import COLUMNS, benchmark
from .cases import Case

# The colours of Okabe and Ito, which people of any colour vision tell apart.
COLOURS = {
    'ours': '#D55E00',
    'ours channels_last': '#F0E442',
    'timm': '#0072B2',
    'timm channels_last': '#56B4E9',
    'timm onednn': '#999999',
    'ours compiled': '#E69F00',
    'timm compiled': '#009E73',
    'ours graph': '#CC79A7',
    'timm graph': '#000000',
}


def report(
    arch: str,
    cases: list[Case],
    forms: list[str],
    rounds: int,
    limit_s: float,
    device: str,
    out: Path,
) -> None:
    """Time every case, print and write rows as they come, and draw them.

    Args:
        arch, cases, forms, rounds, limit_s, device: See :func:`.benchmark.benchmark`.
        out (Path): Folder for speed.csv and speed.png.

    Raises:
        UserError: If the folder cannot be written to, before anything is timed; if a file cannot be
            written, after everything is timed.
    """
    check_folder(out, '--out')
    # Initialising a detector logs three lines for every parameter.
    MMLogger.get_instance('speed', log_level='WARNING')
    console = Console()
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    results = benchmark(arch, cases, forms, rounds, limit_s, device)
    total = len(cases) * len(forms)
    for row in track(results, 'Timing', total=total, console=console, transient=True):
        rows.append(row)
        console.print(line(row), highlight=False, soft_wrap=True)
        if len(rows) % len(forms) == 0:
            failures.clear()  # only a file that is missing at the end has failed
            with noted(failures):
                write_csv(out / 'speed.csv', rows)
    with noted(failures):
        draw(rows, out / 'speed.png')
    if failures:
        raise UserError('; '.join(failures))
    console.print(f'{out / "speed.csv"} has all {len(COLUMNS)} columns, {out / "speed.png"} a plot')


def line(row: dict[str, Any]) -> str:
    """A row as one line of text."""
    case = f'{row["model"]} {row["what"]} {row["size"]} x{row["batch"]} {row["dtype"]}'
    if row['status']:
        return f'{case:44} {row["form"]:20} {row["status"]}'
    parts = [
        f'{case:44} {row["form"]:20} {row["median_ms"]:10.2f} ms',
        f'({row["p10_ms"]:.2f} to {row["p90_ms"]:.2f})',
        f'{row["over_ours"]:.2f} of ours' if row['over_ours'] else '',
        f'kept {row["kept_mb"]} MB' if row['kept_mb'] != '' else '',
        f'share of floor {row["share_of_floor"]:.2f}' if row['share_of_floor'] else '',
    ]
    return '  '.join(part for part in parts if part)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds against pixels, with a panel for each model, pass and dtype."""
    rows = [row for row in rows if row['median_ms'] != '']
    panels = list(dict.fromkeys((row['model'], row['what'], row['dtype']) for row in rows))
    if not panels:
        return
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(6 * columns, 4 * lines), squeeze=False, layout='constrained'
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        for form in dict.fromkeys(row['form'] for row in rows):
            points = sorted(
                (pixels(row), row['median_ms'], row['p10_ms'], row['p90_ms'])
                for row in rows
                if row['form'] == form and (row['model'], row['what'], row['dtype']) == panel
            )
            if not points:
                continue
            x, median, low, high = zip(*points, strict=True)
            axis.plot(x, median, 'o-', label=form, color=COLOURS[form])
            axis.fill_between(x, low, high, color=COLOURS[form], alpha=0.2)
        axis.set(
            xscale='log',
            yscale='log',
            title=', '.join(panel),
            xlabel='megapixels of a batch',
            ylabel='ms',
        )
        axis.grid(alpha=0.3, which='both')
        axis.legend()
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    first = rows[0]
    figure.suptitle(
        f'MambaOut {first["arch"]}, {first["device"]}, {first["threads"]} threads, '
        f'torch {first["torch"]}, timm {first["timm"]}; bands: 10th to 90th percentile',
        fontsize='small',
    )
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format='png')
    plt.close(figure)


def pixels(row: dict[str, Any]) -> float:
    """Megapixels of a row's batch."""
    height, width = (int(side) for side in row['size'].split('x'))
    return row['batch'] * height * width / 1e6
