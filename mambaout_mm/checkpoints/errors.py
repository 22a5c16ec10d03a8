"""What loading raises."""

from mambaout_mm.errors import UserError


class CheckpointError(UserError):
    """A checkpoint cannot be read, or does not fit the model that asked for it."""


class UnknownLayoutError(CheckpointError):
    """A state dict shows no sign of the family that it was taken for."""
