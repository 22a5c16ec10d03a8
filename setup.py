"""Packaging: a normal wheel, with configs and tools inside as OpenMMLab packages carry them."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
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
    },
    install_requires=[
        'numpy',
        'rich',
        'safetensors',
        'timm>=1.0.13',  # its activation checkpointing is non-reentrant from there on
        'torch>=2.7',  # torch.compiler.is_exporting
        'torchvision>=0.21',
    ],
    extras_require={
        # The maintained forks. An extra, so that an environment with upstream mmdet keeps it.
        'mm': [
            'onedl-mmengine>=0.10.12',
            'onedl-mmcv>=2.3.6',
            'onedl-mmdetection>=3.5.1',
            'onedl-mmsegmentation>=1.4.2',
        ],
        # tools/compare.py and tools/benchmark.py
        'compare': ['jinja2', 'matplotlib', 'pandas', 'plotly'],
        'test': [
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
    cmdclass={'build_py': BuildWithMim},
)
