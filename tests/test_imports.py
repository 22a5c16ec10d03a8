"""Arrows between the rooms of the package run one way, and imports make no circle.

Imports inside of functions and for types alone count as well.
"""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from support import ROOT

PACKAGE = ROOT / 'mambaout_mm'
# What each room may import. Modules that stand alone in the package are rooms of their own.
MAY_IMPORT = {
    'version': set(),
    '__main__': {'ops', 'version'},
    'errors': {'version'},
    'config_tree': set(),
    'trust': set(),
    'files': {'errors'},
    'config_files': {'errors'},
    'literal_config': {'errors', 'files', 'trust'},
    'ops': set(),
    'compat': set(),
    'checkpoints': {'errors', 'trust'},
    'registry': {'checkpoints'},
    'backbones': {'checkpoints', 'errors', 'ops', 'registry'},
    'data': {'errors'},
    'measure': {'backbones', 'compat', 'errors', 'ops'},
    'training': {
        'backbones', 'checkpoints', 'config_tree', 'data', 'demo', 'errors', 'files',
        'literal_config', 'ops', 'trust',
    },
    'export': {'errors', 'files', 'measure', 'ops', 'training'},
    'demo': {'config_tree', 'errors', 'files'},
    'inference': {'checkpoints', 'errors', 'files', 'literal_config', 'training', 'trust'},
    'speed': {'backbones', 'config_files', 'errors', 'files', 'measure', 'ops'},
    'runs': {'config_tree', 'errors', 'files', 'literal_config', 'training', 'trust'},
    'study': {
        'backbones', 'comparison', 'config_tree', 'demo', 'errors', 'files', 'measure', 'runs',
        'training',
    },
    'probe': {'backbones', 'comparison', 'errors', 'files', 'measure', 'study'},
    'transplant': {'backbones', 'comparison', 'config_tree', 'errors', 'files', 'training'},
    'comparison': {
        'backbones', 'checkpoints', 'compat', 'config_files', 'config_tree', 'errors', 'files',
        'measure', 'ops', 'registry', 'runs', 'training', 'trust', 'version',
    },
}  # fmt: skip


def module_name(path):
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


MODULES = {module_name(path): path for path in PACKAGE.rglob('*.py')}


def imports_of(name):
    """Names of the package's modules that a module imports, wherever in the file."""
    path = MODULES[name]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split('.') if path.name == '__init__.py' else name.split('.')[:-1]
            base = '.'.join(package[: len(package) - node.level + 1]) if node.level else ''
            source = '.'.join(filter(None, (base, node.module)))
            # `from .room import module` or `from .module import name`
            found.update(
                f'{source}.{alias.name}' if f'{source}.{alias.name}' in MODULES else source
                for alias in node.names
            )
    return {module for module in found if module in MODULES} - {name}


IMPORTS = {name: imports_of(name) for name in MODULES}


def test_the_tree_is_read():
    assert 'mambaout_mm.backbones.base' in IMPORTS['mambaout_mm.backbones.mambaout']
    assert 'mambaout_mm.checkpoints' in IMPORTS['mambaout_mm.registry']


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f'a circle of imports: {" <- ".join(error.args[1])}')


def test_arrows_between_rooms_run_as_planned():
    forbidden = []
    for name, imported in IMPORTS.items():
        if name == 'mambaout_mm':
            continue
        room = name.split('.')[1]
        for module in imported:
            other = module.split('.')[1] if '.' in module else ''
            if other != room and other not in MAY_IMPORT.get(room, ()):
                forbidden.append(f'{name} imports {module}')
    assert forbidden == []
