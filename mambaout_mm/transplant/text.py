"""Stock configs by name, and what a new config says beyond the stock one."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mambaout_mm.errors import UserError

PACKAGES = ('mmdet', 'mmseg')
LINE = 99  # columns, with the comma behind an item


def stock_configs(package: str) -> Path:
    """The folder of the configs that mmdet or mmseg installs.

    Raises:
        UserError: If the package is not installed, or without configs.
    """
    spec = find_spec(package)
    folder = Path(spec.origin).parent / '.mim' / 'configs' if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise UserError(f'{package} is not installed here, or has no configs beside it')
    return folder


def config_path(name: str) -> str:
    """The path of a config that is named by its path or as in ``_base_``: 'mmdet::detr/...'.

    Raises:
        UserError: If the name has another package than mmdet and mmseg before its '::'.
    """
    package, colons, inside = name.partition('::')
    if not colons:
        return name
    if package not in PACKAGES:
        raise UserError(f'{name!r}: configs are mmdet::NAME, mmseg::NAME or paths')
    return str(stock_configs(package) / inside)


def base_of(path: str) -> str:
    """What a config that builds on the one at ``path`` writes as its ``_base_``.

    That is its name, or its path where MMEngine cannot find it by name: the onedl fork of mmseg has
    another distribution name than it looks for, and it takes folders of letters, digits and _ only
    (not ``gn+ws``).
    """
    full = Path(path).resolve()
    for package, name in (('mmdet', None), ('mmseg', 'mmsegmentation')):
        try:
            folder = stock_configs(package).resolve()
            if name:
                distribution(name)
        except (UserError, PackageNotFoundError):
            continue
        if full.is_relative_to(folder):
            inside = full.relative_to(folder).as_posix()
            if re.match(r'\w*/', inside):
                return f'{package}::{inside}'
    return str(full)


def difference(old: dict, new: dict) -> dict[str, Any]:
    """What merges a config's dict into another one, as MMEngine merges a child into its base.

    Args:
        old (dict): The base's.
        new (dict): The wanted one.

    Returns:
        dict: Keys of ``new`` that ``old`` lacks or has otherwise; all of ``new``, with
        ``_delete_``, where ``old`` has a key that ``new`` has not.
    """
    if old.keys() - new.keys():
        return {'_delete_': True, **_plain(new)}
    changed = {}
    for key, value in new.items():
        if key in old and old[key] == value:
            continue
        both = isinstance(old.get(key), dict) and isinstance(value, dict)
        changed[key] = difference(old[key], value) if both else _plain(value)
    return changed


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def config_text(stock: Config, new: Config, base: str, notes: list[str]) -> str:
    """The config to write down.

    Args:
        stock (Config): What it builds on.
        new (Config): What it describes.
        base (str): Its ``_base_``.
        notes (list[str]): Lines of comment at its head.

    Returns:
        str: Python.
    """
    imports = (stock.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    parts = {'custom_imports': dict(imports=['mambaout_mm', *imports])}
    parts |= difference(stock.to_dict(), new.to_dict())
    lines = [*(f'# {note}' for note in notes), f'_base_ = {base!r}']
    lines += [f'{key} = {written(value, len(key) + 3)}' for key, value in parts.items()]
    return '\n'.join(lines) + '\n'


def written(value: Any, before: int = 0, indent: int = 0) -> str:
    """A value of a config as Python: on one line if it fits, else each item on its own.

    Args:
        value (Any): Dicts, lists and tuples of literals.
        before (int): Columns that are taken on its first line. Defaults to 0.
        indent (int): Columns before its last line. Defaults to 0.
    """
    if not isinstance(value, dict | list | tuple) or not value:
        return repr(value)
    words = isinstance(value, dict) and all(
        str(key).isidentifier() and not iskeyword(key) for key in value
    )
    brackets = 'dict()' if words else {dict: '{}', list: '[]', tuple: '()'}[type(value)]
    keys = [''] * len(value)
    if isinstance(value, dict):
        keys = [f'{key}=' if words else f'{key!r}: ' for key in value]
        value = list(value.values())
    items = [f'{key}{written(one)}' for key, one in zip(keys, value, strict=True)]
    comma = ',' if brackets == '()' and len(items) == 1 else ''
    line = f'{brackets[:-1]}{", ".join(items)}{comma}{brackets[-1]}'
    if before + len(line) <= LINE and '\n' not in line:
        return line
    inner = indent + 4
    items = [
        f'{" " * inner}{key}{written(one, inner + len(key), inner)},'
        for key, one in zip(keys, value, strict=True)
    ]
    return '\n'.join([brackets[:-1], *items, f'{" " * indent}{brackets[-1]}'])
