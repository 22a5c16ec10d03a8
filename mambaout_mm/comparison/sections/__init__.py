"""The sections of a comparison, a file each; a new one is a line of ``SECTIONS``."""

from collections.abc import Iterable

from ..options import check_names
from ..section import Section
from .cost import CostSection
from .growth import GrowthSection
from .published import PublishedSection
from .receptive_field import ReceptiveFieldSection
from .runs import RunsSection
from .sequence import SequenceSection

# In the order in which they are shown.
SECTIONS: tuple[Section, ...] = (
    CostSection(),
    SequenceSection(),
    ReceptiveFieldSection(),
    GrowthSection(),
    PublishedSection(),
    RunsSection(),
)
FLAGS = tuple(section.flag for section in SECTIONS)


def chosen_sections(flags: Iterable[str] | None) -> list[Section]:
    """The sections of some flags, in the order in which they are shown; None means all.

    Raises:
        UserError: If a flag is that of no section.
    """
    flags = FLAGS if flags is None else list(flags)
    check_names('section', flags, FLAGS)
    return [section for section in SECTIONS if section.flag in flags]
