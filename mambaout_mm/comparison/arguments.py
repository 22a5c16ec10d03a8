"""What the tools' command lines have in common."""

import argparse


def image_size(text: str) -> tuple[int, int]:
    """Height and width from '512', '512x512' or '800x1280'.

    Raises:
        argparse.ArgumentTypeError: If it is no size, or smaller than the backbones take.
    """
    try:
        sides = [int(side) for side in text.split('x')]
        height, width = sides * 2 if len(sides) == 1 else sides
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write 512 or 800x1280') from None
    if min(height, width) < 32:
        raise argparse.ArgumentTypeError(f'{text!r} is too small; images start at 32x32')
    return height, width
