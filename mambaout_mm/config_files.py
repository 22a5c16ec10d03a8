"""Where this project's configs are: beside the package in a checkout, inside of it in a wheel."""

from pathlib import Path

from .errors import UserError

PACKAGE = Path(__file__).parent
# In a wheel where `mim` expects them.
CONFIGS = next(
    (
        path
        for path in (PACKAGE.parent / 'configs', PACKAGE / '.mim' / 'configs')
        if (path / 'detection' / '_base_').is_dir()
    ),
    None,
)


def find_config(name: str) -> Path:
    """A config of this project.

    Args:
        name (str): As in 'detection/maskrcnn_mambaout_t.py'.

    Raises:
        UserError: If the configs are not installed, or there is none of that name.
    """
    if CONFIGS is None:
        raise UserError('the configs are not installed beside mambaout_mm; install the package')
    path = CONFIGS / name
    if not path.is_file():
        raise UserError(f'there is no config {name!r} in {str(CONFIGS)!r}')
    return path
