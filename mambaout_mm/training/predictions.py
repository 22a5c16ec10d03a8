"""Metrics that write a test's predictions to one file (`prediction_files.py` has its format)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.fileio import dump
from mmengine.logging import print_log
from mmengine.registry import METRICS

from mambaout_mm.errors import UserError

from .prediction_files import write_detections, write_label_maps


@METRICS.register_module()
class DumpDetections(BaseMetric):
    """Write boxes, scores, labels and masks, as run lengths, of each image to one ``.npz`` file.

    ``DumpDetResults`` of mmdet writes the same as a pickle, which can run code as it is read.

    Args:
        out_file_path (str): The file; must end in '.npz'.
        collect_device (str): As for every metric of MMEngine. Defaults to 'cpu'.
        collect_dir (str, optional): As there. Defaults to None.
    """

    def __init__(
        self, out_file_path: str, collect_device: str = 'cpu', collect_dir: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, collect_dir=collect_dir)
        if not out_file_path.endswith('.npz'):
            raise ValueError(f'{out_file_path!r} must end in .npz')
        self.out_file_path = out_file_path

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the detections of a batch, on the CPU."""
        from pycocotools import mask as coco_mask  # comes with mmdet; mmseg alone does without

        for sample in data_samples:
            if 'pred_instances' not in sample:
                raise UserError('the model predicts no instances; write to a .pkl file instead')
            found = sample['pred_instances']
            names = ('bboxes', 'scores', 'labels', 'mask_scores')
            kept = {name: found[name].cpu().numpy() for name in names if name in found}
            if 'masks' in found:
                masks = found['masks'].cpu().numpy().astype(np.uint8)  # (D, H, W)
                kept['masks'] = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
            self.results.append(dict(img_id=sample.get('img_id'), pred_instances=kept))

    def compute_metrics(self, results: list[dict]) -> dict:
        """Write the file."""
        write_detections(Path(self.out_file_path), results)
        print_log(f'The detections are in {self.out_file_path}', logger='current')
        return {}


@METRICS.register_module()
class DumpSegResults(BaseMetric):
    """Write the predicted and the true label map of each image to one file.

    MMEngine's ``DumpResults`` keeps the logits: for ADE20K's 150 classes and 2000 images, hundreds
    of gigabytes. This file takes some kilobytes an image and still gives every score that can be
    computed from label maps. Both are PNG files with one channel, whose pixels are labels: 8 bits
    deep, 16 where a label is above 255. The truth is what the metric saw, after
    ``reduce_zero_label``; pixels of its ``ignore_index`` (mmseg's default is 255) do not count.

    Read a label map with :func:`decode_labels`, or with any library for pictures::

        file = np.load('predictions.npz')
        start, end = file['prediction_offsets'][:2]
        png = file['predictions'][start:end].tobytes()
        labels = np.asarray(PIL.Image.open(io.BytesIO(png)))

    A pickle holds a dict instead: ``classes`` (tuple[str]), and ``images`` (list[dict]) with
    ``img_path`` (str), ``prediction`` (bytes) and ``truth`` (bytes, None if there is none).

    Args:
        out_file_path (str): The file; must end in '.npz', '.pkl' or '.pickle'.
        collect_device (str): As for every metric of MMEngine. Defaults to 'cpu'.
        collect_dir (str, optional): As there. Defaults to None.
    """

    def __init__(
        self, out_file_path: str, collect_device: str = 'cpu', collect_dir: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, collect_dir=collect_dir)
        if not out_file_path.endswith(('.npz', '.pkl', '.pickle')):
            raise ValueError(f'{out_file_path!r} must end in .npz, .pkl or .pickle')
        self.out_file_path = out_file_path

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
        classes = tuple(self.dataset_meta['classes'])
        if self.out_file_path.endswith('.npz'):
            write_label_maps(Path(self.out_file_path), classes, results)
        else:
            dump(dict(classes=classes, images=results), self.out_file_path)
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
    """The label map, (H, W), of a ``prediction`` or ``truth`` of :class:`DumpSegResults`.

    Raises:
        UserError: If it is no picture with one channel.
    """
    try:
        labels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # of no byte, or of a picture that is too large
        labels = None
    if labels is None or labels.ndim != 2:
        raise UserError('a label map among the predictions is no PNG file with one channel')
    return labels
