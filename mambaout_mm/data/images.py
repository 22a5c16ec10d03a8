"""Whether images and label maps read whole, and whether the labels fit the classes."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mambaout_mm.errors import UserError

AGAIN = 'copy or download it again'
# Of EXIF: the values from 5 on turn the image by a quarter.
QUARTER_TURN = 5


def image_size(path: Path) -> tuple[int, int]:
    """Read an image to its end; some versions of OpenCV fill up truncated ones with grey.

    Args:
        path (Path): An image file.

    Returns:
        tuple[int, int]: Width and height, turned as EXIF says.

    Raises:
        UserError: If there is no such file, or it is empty, truncated or no image.
    """
    content = _read(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= QUARTER_TURN
            image.draft(None, (width // 8, height // 8))  # JPEG: as far as the end, but fast
            image.load()
        return (height, width) if turned else (width, height)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        # Kinds and sizes that Pillow does not read and OpenCV may
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(f'{path} is not an image, or is broken; {AGAIN}') from None
        return image.shape[1], image.shape[0]
    except (OSError, SyntaxError, ValueError) as error:  # all of them are Pillow's
        raise UserError(f'{path} cannot be read whole: {error}; {AGAIN}') from error


def read_label_map(path: Path, backend: str = 'pillow') -> np.ndarray:
    """The labels of a file as mmseg reads them, before it changes any.

    Args:
        path (Path): A label map.
        backend (str): ``imdecode_backend`` of mmseg's ``LoadAnnotations``. Defaults to 'pillow'.

    Returns:
        np.ndarray: (H, W) if it is a label map.

    Raises:
        UserError: If there is no such file, or it is empty or cannot be read.
    """
    content = _read(path)
    try:
        labels = mmcv.imfrombytes(content, flag='unchanged', backend=backend)
    except (OSError, SyntaxError, ValueError, cv2.error) as error:
        raise UserError(f'{path} cannot be read as a label map: {error}; {AGAIN}') from error
    if labels is None:
        raise UserError(f'{path} cannot be read as a label map; {AGAIN}')
    return labels.squeeze()


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    if not content:
        raise UserError(f'{path} is empty (0 bytes); {AGAIN}')
    return content


@dataclass(frozen=True)
class LabelRules:
    """Which labels the maps of a segmentation data set may hold.

    Args:
        num_classes (int): Classes of the data set.
        ignore_index (int): A label that is left out of the loss and the metric. Defaults to 255.
        reduce_zero_label (bool): Whether 0 means no label in the files, and 1 the first class.
            Defaults to False.
        label_map (dict[int, int]): The class of a label, where the config has chosen some of the
            data set's classes. Defaults to none.
    """

    num_classes: int
    ignore_index: int = 255
    reduce_zero_label: bool = False
    label_map: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Any) -> 'LabelRules | None':
        """The rules of one of mmseg's data sets; None of others, and of those without classes."""
        classes = dataset.metainfo.get('classes') if hasattr(dataset, 'metainfo') else None
        if not classes or not hasattr(dataset, 'reduce_zero_label'):
            return None
        return cls(
            len(classes),
            getattr(dataset, 'ignore_index', 255),
            dataset.reduce_zero_label,
            getattr(dataset, 'label_map', None) or {},
        )

    def check_file(self, labels: np.ndarray, path: Path) -> bool:
        """Check the labels of a file.

        Args:
            labels (np.ndarray): As :func:`read_label_map` returns them.
            path (Path): Their file, for the message.

        Returns:
            bool: Whether any pixel has a class; False if all are ignored.

        Raises:
            UserError: If a label has no class.
        """
        if labels.dtype == bool:  # a PNG of one bit
            labels = labels.astype(np.uint8)
        if labels.dtype.kind not in 'ui':
            raise UserError(f'{path} has labels of type {labels.dtype}; save it as an 8-bit PNG')
        found = (
            np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
            if labels.dtype == np.uint8
            else np.unique(labels)
        )
        large = found[(found < 0) | (found > 255)]
        if large.size:  # mmseg would take them modulo 256
            raise UserError(
                f'{path} has the {_values(large)}, and label maps are 8-bit; {self._advice(large)}'
            )
        classes = np.arange(256)
        if self.reduce_zero_label:
            classes = np.where((classes == 0) | (classes == 255), 255, classes - 1)
        before = classes.copy()
        for old, new in self.label_map.items():
            classes[before == old] = new
        self._refuse(found[self._wrong(classes[found])], path)
        return bool(np.any(~self._ignored(classes[found])))

    def check_loaded(self, labels: np.ndarray, path: Path | str) -> None:
        """Check the labels that mmseg has loaded, ``reduce_zero_label`` and all applied.

        Raises:
            UserError: If a label has no class.
        """
        wrong = self._wrong(labels)
        if wrong.any():
            self._refuse(np.unique(labels[wrong]).astype(int) + self.reduce_zero_label, path)

    def _ignored(self, classes: np.ndarray) -> np.ndarray:
        return (classes == 255) | (classes == self.ignore_index)

    def _wrong(self, classes: np.ndarray) -> np.ndarray:
        return (classes >= self.num_classes) & ~self._ignored(classes)

    def _refuse(self, wrong: np.ndarray, path: Path | str) -> None:
        if not wrong.size:
            return
        first = int(self.reduce_zero_label)
        last = first + (len(self.label_map) or self.num_classes) - 1
        ignored = '0 and 255 are' if self.reduce_zero_label else f'{self.ignore_index} is'
        raise UserError(
            f'{path} has the {_values(wrong)}, but the labels of the {last - first + 1} classes '
            f'are {first} to {last} ({ignored} ignored); {self._advice(wrong)}'
        )

    def _advice(self, wrong: np.ndarray) -> str:
        advice = 'correct the label map, or add the class to metainfo.classes and num_classes'
        if not self.reduce_zero_label and list(wrong) == [self.num_classes]:
            advice += ', or set reduce_zero_label=True in the data set if 0 means no label'
        return advice


def check_shape(labels: np.ndarray, size: tuple[int, int] | None, path: Path | str) -> None:
    """Check that a label map is of one channel and of its image's size.

    Args:
        labels (np.ndarray): The label map.
        size (tuple[int, int] | None): Width and height of the image; None: not known.
        path (Path | str): The label map's file, for the message.

    Raises:
        UserError: If it is not.
    """
    if labels.ndim != 2:
        raise UserError(
            f'{path} has {labels.shape[-1]} channels (a picture in colours?), a label map has one: '
            "the number of the class at each pixel; convert it, one number for each of the map's "
            'colours'
        )
    height, width = labels.shape
    if size is not None and (width, height) != tuple(size):
        raise UserError(
            f'{path} is {width}x{height} pixels, its image {size[0]}x{size[1]}; a label map has '
            "the size of its image (resize it with 'nearest', or see whether it is another's)"
        )


def _values(values: np.ndarray) -> str:
    shown = ', '.join(str(value) for value in values[:5])
    more = f' and {len(values) - 5} more' if len(values) > 5 else ''
    return f'label{"s" if len(values) > 1 else ""} {shown}{more}'
