"""Every algorithm of mmdet or mmseg with its own ResNet-50, and with a backbone of this project."""

import contextlib
import csv
import io
import multiprocessing
import re
import time
import warnings
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger

from mambaout_mm.errors import UserError
from mambaout_mm.files import read_file, write_csv
from mambaout_mm.training.checks import load_config

from .run import adopt, only_one, try_stock
from .text import stock_configs
from .trial import try_model

COLUMNS = ('algorithm', 'config', 'resnet50', 'ours', 'without_gradient')
RUNS = 'runs'
R50 = re.compile(r'(^|[_-])(r50|resnet50)([_-]|$)')


def algorithms(package: str) -> list[Path]:
    """The first config with a ResNet-50 of each folder of configs, in the order of their names.

    Args:
        package (str): 'mmdet' or 'mmseg'.
    """
    found = []
    for folder in sorted(path for path in stock_configs(package).iterdir() if path.is_dir()):
        configs = sorted(path for path in folder.glob('*.py') if R50.search(path.stem))
        found += configs[:1]
    return found


def sweep(
    package: str, backbone: str = 'MambaOut-Femto', out: Path | None = None, limit: float = 300
) -> list[dict[str, str]]:
    """Try every algorithm, each in a process of its own, and print a line for each.

    Args:
        package (str): 'mmdet' or 'mmseg'.
        backbone (str): As ``tools/compare.py`` takes it. Defaults to 'MambaOut-Femto', the fastest.
        out (Path, optional): A csv file for the results, written anew after each; rows that are in
            it are kept, so that the same command goes on after an interruption. Defaults to None.
        limit (float): Seconds for each trial. Defaults to 300.

    Returns:
        list[dict[str, str]]: A row for each algorithm, with the keys of ``COLUMNS``: 'runs', or why
        not; ``without_gradient`` names the backbone's parameters of that kind.
    """
    only_one(backbone)
    # Imported once, for all processes that are forked from this one
    for name in ('mmdet.models', 'mmdet.structures', f'{package}.models', f'{package}.structures'):
        import_module(name)
    rows = rows_of(out) if out else []
    known = {row['config'] for row in rows}
    if known:
        print(f'{len(known)} rows of {out} are kept; remove it to start anew')
    for path in algorithms(package):
        name = path.relative_to(stock_configs(package)).as_posix()
        if name in known:
            continue
        started = time.perf_counter()
        stock, _ = _apart(limit, path, None)
        ours, missing = _apart(limit, path, backbone)
        row = (path.parent.name, name, stock, ours, ' '.join(missing))
        rows.append(dict(zip(COLUMNS, row, strict=True)))
        if out:
            write_csv(out, rows, COLUMNS)
        print(
            f'{name} ({time.perf_counter() - started:.0f} s)\n'
            f'    ResNet-50: {stock}\n    {backbone}: {ours}',
            flush=True,
        )
    both = sum(row['resnet50'] == row['ours'] == RUNS for row in rows)
    stocks = sum(row['resnet50'] == RUNS for row in rows)
    print(
        f'{len(rows)} algorithms, of which {stocks} run with their ResNet-50, and {both} of these '
        f'with {backbone}'
    )
    return rows


def rows_of(out: Path) -> list[dict[str, str]]:
    """What an earlier sweep has written; none if there is no file.

    Raises:
        UserError: If the file is not of a sweep.
    """
    if not out.exists():
        return []
    try:
        rows = list(csv.DictReader(read_file(out).splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{str(out)!r} cannot be read: {error}') from error
    if any(tuple(row) != COLUMNS for row in rows):
        raise UserError(f'{str(out)!r} has other columns than {", ".join(COLUMNS)}')
    return rows


def _apart(limit: float, path: Path, backbone: str | None) -> tuple[str, list[str]]:
    """The outcome of one trial in a process that may crash, hang or change what is registered."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(theirs, path, backbone))
    process.start()
    theirs.close()
    try:
        if not ours.poll(limit):
            return f'no end within {limit:g} seconds', []
        return ours.recv()
    except EOFError:
        process.join()
        return f'the process ended with code {process.exitcode}', []
    finally:
        process.kill()
        process.join()


def _try(pipe: Connection, path: Path, backbone: str | None) -> None:
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pipe.send(outcome(path, backbone))


def outcome(path: Path, backbone: str | None = None) -> tuple[str, list[str]]:
    """How a trial ends.

    Args:
        path (Path): Of a stock config.
        backbone (str, optional): The backbone to exchange. Defaults to None: the config's own.

    Returns:
        tuple[str, list[str]]: 'runs' or the reason why not; and the parameters of the exchanged
        backbone that got no gradient.
    """
    try:
        cfg: Config = load_config(str(path))
        if backbone is None:
            try_stock(cfg)
            return RUNS, []
        _, cfg = adopt(cfg, str(path), only_one(backbone))
        missing = try_model(cfg).without_gradient
        return RUNS, [name for name in missing if 'backbone.' in name and 'teacher' not in name]
    except UserError as error:
        first_line = str(error).partition(', the current sys.path')[0].partition('\n')[0]
        # No path of this machine in a table
        return re.sub(r'/[^\s\'"]*/site-packages/', '', first_line), []
    except Exception as error:  # of any kind: it is a row of the table
        return f'unexpected: {type(error).__name__}: {error}', []
