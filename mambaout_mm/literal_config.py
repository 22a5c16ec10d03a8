"""Configs that others made, as data: nothing in them runs, and they name registered classes alone.

MMEngine's configs are Python, which its reader executes. What it *writes*, into checkpoints and
work dirs, is literals only, so that those can be read without.
"""

import ast
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio.handlers import file_handlers
from mmengine.registry import registry as mmengine_registry

from .errors import UserError
from .files import read_file
from .trust import is_trusted

# Modules that run what a config says, and by what name: `nms.type` and `warp_mode` as Python,
# pictures as pickles.
RUNNING = {
    'mmcv.ops.nms': 'eval',
    'mmdet.models.task_modules.tracking.camera_motion_compensation': 'eval',
    'mmseg.utils.io': 'pickle',
}
# Of files that MMEngine reads for a config, by path or URL (a loss's `class_weight`): both can run
# code, since MMEngine reads YAML with PyYAML's unsafe loader.
FORMATS = ('pkl', 'pickle', 'yaml', 'yml')
NAMES = {'inf': float('inf'), 'nan': float('nan')}


def read_config(path: Path) -> Config:
    """Read a config file that was found, not named by the user: see :func:`config_of_text`.

    Raises:
        UserError: Also if there is no such file, or it is no text.
    """
    if is_trusted():
        return run_config(lambda: Config.fromfile(path, import_custom_modules=False), str(path))
    try:
        text = read_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read as a config: {error}') from error
    return config_of_text(text, str(path))


def config_of_text(text: str, name: str) -> Config:
    """A config from its text, which may hold literals only, except within ``trusting(True)``.

    Args:
        text (str): Python, as ``Config.dump`` writes it.
        name (str): What messages call it.

    Returns:
        Config: As MMEngine reads it. Modules of ``custom_imports`` are imported only where the text
        is trusted.

    Raises:
        UserError: If it is no Python, or more than data and not trusted, or fails as it runs.
    """
    if is_trusted():
        return run_config(lambda: Config.fromstring(text, '.py'), name)
    values = parse_literals(text, name)
    if '_base_' in values:
        raise _more_than_data(name, 1, '_base_, the name of another config')
    try:
        return Config(values)
    except Exception as error:  # of any kind: it depends on where the text departs from a config
        raise UserError(f'{name} cannot be read as a config: {_described(error)}') from error


def parse_literals(text: str, name: str) -> dict[str, Any]:
    """The values of a text of ``NAME = value`` statements.

    Values are numbers, strings, None, True, False, ``inf`` and ``nan``, with minus signs; lists,
    tuples, sets, dicts and ``dict(key=value)`` of values.

    Args:
        text (str): Python.
        name (str): What messages call it.

    Raises:
        UserError: If it is no Python or holds anything else; the message names the line.
    """
    try:
        statements = ast.parse(text).body
        values = {}
        for statement in statements:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if not isinstance(target, ast.Name) or len(statement.targets) > 1:
                raise _more_than_data(name, statement.lineno, _shown(statement))
            values[target.id] = _value(statement.value, name)
        return values
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte, an endless number
        line = getattr(error, 'lineno', None) or 1
        message = getattr(error, 'msg', str(error))
        raise UserError(f'{name}, line {line}, is no config: {message}') from error
    except (RecursionError, MemoryError) as error:  # both are how Python's parser refuses depth
        raise UserError(f'{name} is no config: it is nested too deeply') from error


def _value(node: ast.expr, name: str) -> Any:
    match node:
        case ast.Constant(value=value):
            if isinstance(value, int):
                str(value)  # a number that Python does not write would fail in every message
            return value
        case ast.Name(id=word) if word in NAMES:
            return NAMES[word]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, name)
            if isinstance(value, int | float | complex):
                return -value
        case ast.List(elts=parts):
            return [_value(part, name) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_value(part, name) for part in parts)
        case ast.Set(elts=parts):
            return {_hashable(part, name) for part in parts}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_hashable(k, name): _value(v, name) for k, v in zip(keys, values, strict=True)}
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=words) if all(
            word.arg is not None for word in words
        ):
            return {word.arg: _value(word.value, name) for word in words}
    raise _more_than_data(name, node.lineno, _shown(node))


def _hashable(node: ast.expr, name: str) -> Any:
    value = _value(node, name)
    try:
        hash(value)
    except TypeError as error:
        raise UserError(f'{name}, line {node.lineno}, is no config: {error}') from error
    return value


def _shown(node: ast.AST) -> str:
    text = ast.unparse(node).replace('\n', ' ')
    return text if len(text) <= 60 else f'{text[:57]}...'


def _more_than_data(name: str, line: int, what: str) -> UserError:
    return UserError(
        f'{name}, line {line}: `{what}` is more than data, and is not run, since a config that is '
        'run can do anything; say --trust if you trust who made it'
    )


def run_config(read: Callable[[], Config], name: str) -> Config:
    """A config that is run as Python.

    Args:
        read (Callable): Has MMEngine run it.
        name (str): What messages call it.

    Raises:
        UserError: If it raises anything; the message says what, and at which line.
    """
    try:
        return read()
    except (Exception, SystemExit) as error:  # a config is Python and may raise anything
        raise UserError(f'{name} cannot be read as a config: {_place_and_words(error)}') from error


def _place_and_words(error: BaseException) -> str:
    """What a config raised, with its line there."""
    if isinstance(error, RecursionError):
        return 'its _base_ leads back to itself'
    if isinstance(error, SyntaxError):
        return f'line {error.lineno}: {error.msg}: {(error.text or "").strip()}'
    if isinstance(error, UnicodeDecodeError | ValueError) and 'null bytes' in str(error):
        return 'it is no text'
    words = f'{type(error).__name__}: {str(error) or "no reason is given"}'
    if isinstance(error, OSError | UnicodeDecodeError):
        return words
    # MMEngine compiles a config under its own name, or that of a copy with the same ending
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.name == '<module>' and 'site-packages' not in frame.filename:
            return f'line {frame.lineno}: {words}'
    return words


def _described(error: BaseException) -> str:
    """Type and message in a line."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


@contextmanager
def only_registered() -> Iterator[None]:
    """Let configs name what is registered, and nothing else, as long as they are at work.

    MMEngine's registries also take the path of any object in any module, so that a config of
    literals could call ``os.system``; and what they build evaluates some texts as Python or reads
    files that can run code (``RUNNING``, ``FORMATS``). Does nothing within ``trusting(True)``.
    """
    if is_trusted():
        yield
        return
    found = mmengine_registry.get_object_from_string
    mmengine_registry.get_object_from_string = lambda path: None  # 'is not in the registry'
    mmengine_registry.import_module = _import_known
    formats = {name: file_handlers.pop(name) for name in FORMATS if name in file_handlers}
    _disarm()
    try:
        yield
    finally:
        mmengine_registry.get_object_from_string = found
        mmengine_registry.import_module = import_module
        file_handlers.update(formats)
        for module in filter(None, map(sys.modules.get, RUNNING)):
            _set(module, {'eval': None, 'pickle': pickle})


def _import_known(module: str) -> ModuleType:
    """A module of OpenMMLab or of a package in use; a scope in a config may name any."""
    package = module.split('.')[0]
    if package not in MODULE2PACKAGE and package not in sys.modules:
        raise ModuleNotFoundError(module)
    imported = import_module(module)
    _disarm()
    return imported


def _disarm() -> None:
    """Put look-ups in the place of what runs texts in the modules of ``RUNNING``."""
    for module in filter(None, map(sys.modules.get, RUNNING)):
        _set(
            module,
            {
                'eval': lambda text, module=module: _named_in(module, text),
                'pickle': SimpleNamespace(loads=_no_pickle),
            },
        )


def _set(module: ModuleType, values: dict[str, Any]) -> None:
    name = RUNNING[module.__name__]
    if values[name] is None:  # Python's own is behind it
        vars(module).pop(name, None)
    else:
        setattr(module, name, values[name])


def _named_in(module: ModuleType, text: str) -> Any:
    """One of a module's own functions, or a number under a dotted name."""
    found: Any = module
    for part in str(text).split('.'):
        found = getattr(found, part, None) if part.isidentifier() else None
    if isinstance(found, int) or getattr(found, '__module__', None) == module.__name__:
        return found
    raise UserError(
        f'the config has {text!r}, which {module.__name__} would run as Python; say --trust if '
        'you trust who made it'
    )


def _no_pickle(content: bytes) -> None:
    raise UserError(
        'the config has pictures read as pickles, which can run any code; say --trust if you trust '
        'who made both'
    )
