"""A segmentor's predictions in a file that stays small: label maps in place of logits."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.evaluator import DumpResults
from mmengine.fileio import dump
from mmengine.logging import print_log
from mmengine.registry import METRICS

from mambaout_mm.errors import UserError


@METRICS.register_module()
class DumpSegResults(DumpResults):
    """Write the predicted and the true label map of each image to one pickle file.

    MMEngine's ``DumpResults`` keeps the logits: for ADE20K's 150 classes and 2000 images, hundreds
    of gigabytes. This file takes some kilobytes an image and still gives every score that can be
    computed from label maps. It holds a dict:

    * ``classes`` (tuple[str]): the names; label ``i`` is ``classes[i]``.
    * ``images`` (list[dict]): for each image ``img_path`` (str), ``prediction`` (bytes) and
      ``truth`` (bytes, None if the data set has no labels). Both are PNG files with one channel,
      whose pixels are labels: 8 bits deep, 16 where a label is above 255. The truth is what the
      metric saw, after ``reduce_zero_label``; pixels of its ``ignore_index`` (mmseg's default is
      255) do not count.

    Read a label map with :func:`decode_labels`, or with any library for pictures::

        images = pickle.load(open('predictions.pkl', 'rb'))['images']
        labels = np.asarray(PIL.Image.open(io.BytesIO(images[0]['prediction'])))

    Args:
        out_file_path (str): The file; must end in '.pkl' or '.pickle'.
        collect_device (str): As for every metric of MMEngine. Defaults to 'cpu'.
        collect_dir (str, optional): As there. Defaults to None.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the label maps of a batch."""
        for sample in data_samples:
            truth = sample.get('gt_sem_seg')
            self.results.append(
                dict(
                    img_path=sample['img_path'],
                    prediction=_encode(sample['pred_sem_seg']),
                    truth=_encode(truth) if truth else None,
                )
            )

    def compute_metrics(self, results: list[dict]) -> dict:
        """Write the file."""
        dump(dict(classes=tuple(self.dataset_meta['classes']), images=results), self.out_file_path)
        print_log(f'The label maps are in {self.out_file_path}', logger='current')
        return {}


def _encode(pixels: dict) -> bytes:
    """PNG of a ``PixelData`` of labels, (1, H, W) or (H, W)."""
    labels = pixels['data'].cpu().numpy()
    labels = labels.reshape(labels.shape[-2:])
    if labels.min() < 0:
        raise ValueError(f'label {labels.min()} of a segmentation map is negative')
    smallest = np.uint8 if labels.max() < 256 else np.uint16
    return cv2.imencode('.png', labels.astype(smallest))[1].tobytes()


def decode_labels(png: bytes) -> np.ndarray:
    """The label map, (H, W), of a ``prediction`` or ``truth`` of :class:`DumpSegResults`."""
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def read_predictions(path: Path) -> Any:
    """What ``tools/test.py --out`` wrote.

    Unpickling runs whatever code a file holds: give only files that you made yourself.

    Raises:
        UserError: If the file is no pickle file or ends too early.
    """
    try:
        with path.open('rb') as file:
            return pickle.load(file)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError) as error:
        raise UserError(
            f'{path} cannot be read as predictions ({error}); make it anew with tools/test.py --out'
        ) from error
