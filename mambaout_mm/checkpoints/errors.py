"""What loading raises."""

from mambaout_mm.errors import UserError


class CheckpointError(UserError):
    """A checkpoint cannot be read, or does not fit the model that asked for it."""
