"""An ONNX file in place of a model, for tools/test.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from mambaout_mm.errors import UserError


@MODELS.register_module()
class OnnxModel(BaseModel):
    """A file that tools/export.py wrote, run by onnxruntime on the CPU.

    Args:
        file (str): The ONNX file.
        task (str): 'detection' or 'segmentation': what the config is for.

    Raises:
        UserError: If there is no such file, it is of another kind, or onnxruntime is missing.
    """

    def __init__(self, file: str, task: str) -> None:
        super().__init__()
        try:
            import onnxruntime  # it is not needed to train or to test a checkpoint
        except ModuleNotFoundError as error:
            raise UserError(f'{file} needs {error.name}: pip install onnxruntime') from error
        if not Path(file).is_file():
            raise UserError(f'there is no file {file}')
        try:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self.session = onnxruntime.InferenceSession(
                file, options, providers=['CPUExecutionProvider']
            )
            notes = json.loads(self.session.get_modelmeta().custom_metadata_map['mambaout_mm'])
        except Exception as error:  # onnxruntime's own, a KeyError without our notes
            raise UserError(
                f'{file} is no ONNX file of tools/export.py: {str(error).splitlines()[0]}'
            ) from error
        if notes['task'] != task:
            raise UserError(f'{file} is for {notes["task"]}, the config for {task}')
        self.task = task
        self.mask_threshold = notes['mask_threshold']

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Only for :meth:`test_step`.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError('an ONNX file can be tested, and not trained')

    def test_step(self, data: dict[str, Any]) -> list[Any]:
        """Predictions for a batch as mmdet's and mmseg's data loaders give it."""
        predict = self._detect if self.task == 'detection' else self._segment
        return [
            predict(image[None].numpy(), sample)
            for image, sample in zip(data['inputs'], data['data_samples'], strict=True)
        ]

    def _segment(self, image: np.ndarray, sample: Any) -> Any:
        size = np.array(sample.ori_shape[:2], np.int64)
        (labels,) = self.session.run(['labels'], {'image': image, 'size': size})
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels))
        return sample

    def _detect(self, image: np.ndarray, sample: Any) -> Any:
        boxes, scores, labels, *masks = map(
            torch.from_numpy, self.session.run(None, {'image': image})
        )
        boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
        sample.pred_instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        if masks:
            sample.pred_instances.masks = self._paste(masks[0], boxes, sample.ori_shape[:2])
        return sample

    def _paste(self, masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Masks of whole images, (n, height, width) of bool, by mmdet's own function."""
        from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

        pasted = torch.zeros((len(masks), *size), dtype=torch.bool)
        for i in range(len(masks)):
            part, (rows, columns) = _do_paste_mask(
                masks[i : i + 1, None], boxes[i : i + 1], *size, skip_empty=True
            )
            pasted[(i, rows, columns)] = (part >= self.mask_threshold)[0]
        return pasted
