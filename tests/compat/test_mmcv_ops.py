"""The way the stand-in for mmcv._ext is found and imported."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import mmcv
import mmcv.ops as ops
import pytest
import torch
from mmcv import _ext
from mmcv.utils import ext_loader
from mmengine.utils import digit_version
from support import ROOT
from support_mmcv import needs_stand_in

from mambaout_mm.compat import mmcv_ops

pytestmark = needs_stand_in


def test_spec_and_loader():
    spec = importlib.util.find_spec('mmcv._ext')
    assert spec is _ext.__spec__ and spec.name == 'mmcv._ext'
    assert Path(spec.origin).parent.name == 'mmcv_kernels'
    assert _ext.__name__ == 'mmcv._ext' and mmcv._ext is _ext
    assert sys.modules['mmcv._ext'] is _ext
    assert ext_loader.load_ext('_ext', ['nms', 'nms_rotated']) is _ext
    assert ext_loader.check_ops_exist()


def test_installing_again_changes_nothing():
    before = list(sys.meta_path)
    mmcv_ops.install()
    assert sys.meta_path == before
    assert sum(isinstance(f, mmcv_ops.MMCVOpsFinder) for f in before) == 1


def test_finder_answers_only_for_the_extension_of_an_installed_mmcv(tmp_path):
    finder = mmcv_ops.MMCVOpsFinder()
    assert finder.find_spec('mmcv._ext', mmcv.__path__) is not None
    assert finder.find_spec('mmcv._ext', None) is None
    assert finder.find_spec('mmcv._ext', [str(tmp_path)]) is None  # mmcv-lite: no mmcv.ops
    assert finder.find_spec('mmcv._extra', mmcv.__path__) is None
    assert finder.find_spec('_ext', None) is None


def test_operators_without_a_replacement():
    for name in ('nms_rotated', 'ball_query_forward', 'ca_map_forward'):
        with pytest.raises(NotImplementedError, match=f'{name}.*mim install onedl-mmcv'):
            getattr(_ext, name)(torch.zeros(1), anything=3)
    with pytest.raises(NotImplementedError, match='roi_pool_forward'):
        ops.RoIPool(2)(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5))
    for name in ('__wrapped__', '__path__', '_private', '__file__'):
        assert not hasattr(_ext, name)


def python(code, *args, **env):
    process = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code), *map(str, args)],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore', **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


# Loads mmcv_ops.py by itself: the package may need mmcv, which these tests take away.
ALONE = """
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location('mmcv_ops', sys.argv[1])
    mmcv_ops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mmcv_ops)
    mmcv_ops.install()
"""


def test_compiled_extension_wins(tmp_path):
    package = tmp_path / 'mmcv'
    (package / 'ops').mkdir(parents=True)
    for name in ('__init__.py', 'ops/__init__.py'):
        (package / name).touch()
    (package / '_ext.py').write_text('compiled = True')
    code = f"""{ALONE}
    sys.path.insert(0, sys.argv[2])
    from mmcv import _ext
    assert _ext.compiled and not isinstance(_ext.__spec__.loader, mmcv_ops._StandInLoader)
    assert 'torch' not in sys.modules  # installing costs nothing
    """
    python(code, mmcv_ops.__file__, tmp_path)


def test_without_mmcv_nothing_is_found():
    code = f"""{ALONE}
    sys.modules['mmcv'] = None
    try:
        spec = importlib.util.find_spec('mmcv._ext')
    except ModuleNotFoundError as error:
        assert "mmcv" in str(error)
    else:
        raise AssertionError(spec)
    """
    python(code, mmcv_ops.__file__)


def test_environment_variable_switches_off():
    code = """
    import importlib.util
    from mambaout_mm.compat.mmcv_ops import install
    install()
    assert importlib.util.find_spec('mmcv._ext') is None
    try:
        import mmcv.ops
    except ModuleNotFoundError as error:
        assert "No module named 'mmcv._ext'" in str(error)
    else:
        raise AssertionError
    """
    output = python(code, MAMBAOUT_MM_MMCV_OPS='off')
    assert 'mambaout_mm provides' not in output


def test_environment_variable_is_checked(monkeypatch):
    monkeypatch.setenv('MAMBAOUT_MM_MMCV_OPS', 'no')
    with pytest.raises(ValueError, match='MAMBAOUT_MM_MMCV_OPS must be "on" or "off", got \'no\''):
        mmcv_ops.install()


@pytest.mark.parametrize(
    'package, uses',
    [
        ('mmdet', ['models.layers.bbox_nms:batched_nms', 'structures.mask.structures:roi_align']),
        ('mmseg', ['models.decode_heads.point_head:point_sample']),
    ],
)
def test_import_order_of_the_training_scripts(package, uses, tmp_path):
    pytest.importorskip(package)
    (tmp_path / 'tiny_plugin.py').write_text(
        'from mambaout_mm.compat.mmcv_ops import install\ninstall()\n'
    )
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['tiny_plugin'])\n")
    code = """
    import importlib, runpy, sys
    from pathlib import Path
    package, config, *uses = sys.argv[1:]
    script = Path(importlib.util.find_spec(package).origin).parent / '.mim/tools/train.py'
    script = runpy.run_path(str(script), run_name='imports_only')
    assert 'mmcv.ops' not in sys.modules and 'mmcv._ext' not in sys.modules
    script['Config'].fromfile(config)
    importlib.import_module(package + '.models')
    from mmcv.utils import collect_env
    assert 'torchvision' in collect_env()['MMCV Compiler']
    for use in uses:
        module, name = use.split(':')
        function = getattr(importlib.import_module(f'{package}.{module}'), name)
        assert function is getattr(importlib.import_module('mmcv.ops'), name), use
    """
    output = python(code, package, config, *uses, PYTHONPATH=f'{ROOT}{os.pathsep}{tmp_path}')
    lines = [line for line in output.splitlines() if 'mambaout_mm provides nms' in line]
    assert len(lines) == 1 and 'INFO' in lines[0]
    assert 'Import mambaout_mm first' not in output


@pytest.mark.skipif(
    digit_version(mmcv.__version__) < digit_version('2.2'),
    reason='upstream mmcv-lite lets nobody import mmdet without this package',
)
def test_coming_too_late_is_told():
    pytest.importorskip('mmdet')
    code = """
    import mmdet.structures.mask
    from mambaout_mm.compat.mmcv_ops import install
    install()
    install()
    """
    output = python(code)
    assert output.count('Import mambaout_mm first') == 1 and 'WARNING' in output
