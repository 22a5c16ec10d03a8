"""The build backend (pyproject.toml): setuptools, with a C compiler where the machine has none.

The ziglang wheel has one. It is 100 MB, so it is asked for only where it is needed.
"""

from typing import Any

from compiling import find_compiler, supported, switched_off  # the folder is on sys.path here
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the other hooks

# Machines with a ziglang wheel; elsewhere the package is to install without the kernels.
COMPILER = (
    'ziglang; platform_machine == "x86_64" or platform_machine == "aarch64" '
    'or platform_machine == "arm64"'
)


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What a build of a wheel needs besides pyproject.toml's requirements (PEP 517)."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiler()]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """The same for an editable installation (PEP 660)."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiler()]


def _compiler() -> list[str]:
    needed = supported() and not switched_off() and find_compiler() is None
    return [COMPILER] if needed else []
