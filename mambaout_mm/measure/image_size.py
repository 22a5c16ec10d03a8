"""Image sizes on the command lines of the tools."""

import argparse

LONGEST = 10_000_000  # pixels of a side


def image_size(text: str) -> tuple[int, int]:
    """Height and width from '512', '512x512' or '800x1280'.

    Raises:
        argparse.ArgumentTypeError: If it is no size, smaller than the backbones take, or beyond
            what can be counted.
    """
    try:
        sides = [int(side) for side in text.split('x')]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write 512 or 800x1280') from None
    if min(height, width) < 32:
        raise argparse.ArgumentTypeError(f'{text!r} is too small; images start at 32x32')
    if max(height, width) > LONGEST:
        raise argparse.ArgumentTypeError(f'{text[:30]!r} is too large; images end at {LONGEST:,}')
    return height, width
