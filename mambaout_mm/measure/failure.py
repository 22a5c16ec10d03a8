"""Why a measurement failed."""

from mambaout_mm.errors import UserError
from mambaout_mm.ops.torch_versions import OutOfMemoryError


def reason_of(error: BaseException) -> str:
    """Why a measurement is missing, in one line."""
    text = (str(error).splitlines() or [''])[0]
    if isinstance(error, UserError):
        return f'failed: {text}'
    if isinstance(error, OutOfMemoryError | MemoryError) or 'allocate memory' in text:
        return 'out of memory'
    return f'failed: {type(error).__name__}: {text}'
