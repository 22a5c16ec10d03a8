"""Packaging: a normal wheel, with configs and tools inside as OpenMMLab packages carry them.

The C kernels are compiled where there is a compiler; the installation does not fail without.
"""

import re
import shutil
import sys
from pathlib import Path

from setuptools import Command, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
NATIVE = Path('mambaout_mm', 'ops', 'native')
sys.path.insert(0, str(ROOT / NATIVE))

import compiling  # noqa: E402  the package itself needs PyTorch

VERSION = re.search(r"'(.+)'", (ROOT / 'mambaout_mm' / 'version.py').read_text()).group(1)


class BuildWithMim(build_py):
    """Copy configs, tools and model-index.yml to mambaout_mm/.mim of the wheel, for `mim`."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib) / 'mambaout_mm'
        shutil.rmtree(package, ignore_errors=True)  # modules of an earlier build
        super().run()
        mim = package / '.mim'
        mim.mkdir()
        for folder in ('configs', 'tools'):
            shutil.copytree(
                ROOT / folder, mim / folder, ignore=shutil.ignore_patterns('__pycache__')
            )
        shutil.copy(ROOT / 'model-index.yml', mim)


class BuildKernels(Command):
    """Compile the C kernels into the package; a sub-command of ``build``."""

    description = 'compile the C kernels'
    user_options = []
    editable_mode = False  # set by setuptools: the package is used where its sources are

    def initialize_options(self) -> None:
        self.build_lib = None

    def finalize_options(self) -> None:
        self.set_undefined_options('build_py', ('build_lib', 'build_lib'))

    def run(self) -> None:
        if compiling.switched_off() or not compiling.supported():
            return
        try:
            compiling.compile_kernels(ROOT / NATIVE if self.editable_mode else self._built())
        except Exception as error:  # PyTorch's operations do the same
            self.warn(f'the C kernels are not compiled, the package runs without them: {error}')

    def get_source_files(self) -> list[str]:
        return [str(file.relative_to(ROOT)) for file in compiling.source_files()]

    def get_outputs(self) -> list[str]:
        folder = ROOT / NATIVE if self.editable_mode else self._built()
        names = map(compiling.file_name, compiling.instruction_sets())
        return [str(self._built() / name) for name in names if (folder / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        if not self.editable_mode:
            return {}
        return {output: str(NATIVE / Path(output).name) for output in self.get_outputs()}

    def _built(self) -> Path:
        return Path(self.build_lib) / NATIVE


class BuildAll(build):
    sub_commands = [*build.sub_commands, ('build_kernels', None)]


class WheelOfAnyPython(bdist_wheel):
    """The kernels know nothing of Python, so a wheel with them depends on the platform alone."""

    def run(self) -> None:
        self.run_command('build')
        if self.get_finalized_command('build_kernels').get_outputs():
            self.root_is_pure = False
            self.distribution.has_ext_modules = lambda: True  # install as packages with libraries
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        *_, platform = super().get_tag()
        return 'py3', 'none', platform


setup(
    name='mambaout-mm',
    version=VERSION,
    description='MambaOut, VMamba and baselines as backbones for mmdet and mmseg, from wheels',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mambaout_mm', 'mambaout_mm.*']),
    package_data={
        'mambaout_mm.comparison': ['*.csv', '*.html', 'page.css', 'page.js'],
        'mambaout_mm.study': ['*.html'],
    },
    install_requires=[
        'numpy',
        'rich',
        'safetensors',
        'timm>=1.0.13',  # its activation checkpointing is non-reentrant from there on
        'torch>=2.1',  # mambaout_mm/ops/torch_versions.py has what is newer
        'torchvision>=0.16',
    ],
    extras_require={
        # The maintained forks. An extra, so that an environment with upstream mmdet keeps it. There
        # is none for upstream: it would put mmcv-lite over a compiled mmcv.
        'mm': [
            'onedl-mmengine>=0.10.12',
            'onedl-mmcv>=2.3.6',
            'onedl-mmdetection>=3.5.1',
            'onedl-mmsegmentation>=1.4.2',
        ],
        # tools/compare.py and tools/benchmark.py
        'compare': ['jinja2', 'matplotlib', 'pandas', 'plotly', 'scipy'],
        'test': [
            'faster-coco-eval',
            'onnx',
            'onnxruntime',
            'onnxscript',
            'playwright',
            'pytest',
            'pytest-xdist>=3.7',  # --no-loadscope-reorder
            'ruff',
            'setuptools',
            'wheel',
        ],
    },
    cmdclass={
        'bdist_wheel': WheelOfAnyPython,
        'build': BuildAll,
        'build_kernels': BuildKernels,
        'build_py': BuildWithMim,
    },
)
