"""What importing the operators brings with it."""

import json
import os
import subprocess
import sys

import pytest
from support import ROOT

LIMITS = 'ONEDNN_PRIMITIVE_CACHE_CAPACITY', 'LRU_CACHE_CAPACITY'
# A package of another name around the folder, so that mambaout_mm itself is not imported.
CODE = f"""
import importlib, json, os, pkgutil, sys, types
package = types.ModuleType('operators')
package.__path__ = [{str(ROOT / 'mambaout_mm' / 'ops')!r}]
sys.modules['operators'] = package
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module('operators.' + module.name)
print(json.dumps([sorted(sys.modules), [os.environ[name] for name in {LIMITS}]]))
"""


@pytest.fixture(scope='module')
def imported():
    """Modules that come with the operators, and the limits of oneDNN's caches, one set before."""
    environment = {name: value for name, value in os.environ.items() if name not in LIMITS}
    environment[LIMITS[0]] = '7'
    command = [sys.executable, '-c', CODE]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(said.stdout.splitlines()[-1])


def test_operators_need_neither_the_package_nor_openmmlab(imported):
    modules, _ = imported
    foreign = ('mambaout_mm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'timm')
    assert not [name for name in modules if name.split('.')[0] in foreign]


def test_shapes_that_onednn_keeps_are_limited_unless_the_user_says_otherwise(imported):
    """Else memory grows by gigabytes with images of many sizes (benchmarks/NOTES.md)."""
    _, limits = imported
    assert limits == ['7', '256']
