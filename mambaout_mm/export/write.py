"""From a config and a checkpoint to an ONNX file."""

import json
import warnings
from pathlib import Path

import onnx
import torch
from mmdet.models import BaseDetector
from mmengine.config import Config
from torch import nn

from mambaout_mm.errors import UserError
from mambaout_mm.files import whole_file
from mambaout_mm.measure.complexity import build_model
from mambaout_mm.ops.torch_versions import EXPORTS_PLAIN_OPERATORS
from mambaout_mm.training.checks import check_fits

from .detector import ExportedDetector
from .segmentor import ExportedSegmentor, add_argmax

SMALLEST = 64  # sides: the last map keeps two pixels, of which ONNX makes no constant
EXAMPLE = (96, 160)


def write_onnx(cfg: Config, checkpoint: str, out: Path) -> None:
    """Write a detector or segmentor as a graph that takes an image of any size.

    Args:
        cfg (Config): Of the model.
        checkpoint (str): Path, URL or catalogue name of its weights.
        out (Path): The file.

    Raises:
        UserError: If the model has parts that the graph cannot have, or PyTorch is too old.
        CheckpointError: If the weights do not fit.
    """
    if not EXPORTS_PLAIN_OPERATORS:
        raise UserError(f'an ONNX file takes PyTorch 2.7 or newer; this is {torch.__version__}')
    model = build_model(cfg)
    model.load_state_dict(check_fits(model, checkpoint))
    exported = exportable(model)
    program = to_onnx(exported)
    if isinstance(exported, ExportedSegmentor):
        add_argmax(program.graph, exported.align_corners)
        notes = dict(task='segmentation', mask_threshold=None)
    else:
        threshold = model.test_cfg.get('rcnn', {}).get('mask_thr_binary')
        notes = dict(task='detection', mask_threshold=threshold)
    program.metadata_props.add(key='mambaout_mm', value=json.dumps(notes))
    onnx.checker.check_model(program, full_check=True)
    with whole_file(out) as path:
        onnx.save(program, str(path))


def exportable(model: nn.Module) -> ExportedDetector | ExportedSegmentor:
    """The model as one function of an image's pixels, in eval mode.

    Raises:
        UserError: If it has parts that the graph cannot have.
    """
    cls = ExportedDetector if isinstance(model, BaseDetector) else ExportedSegmentor
    return cls(model).eval()


def to_onnx(exported: nn.Module) -> onnx.ModelProto:
    """Its graph, with height and width of the image dynamic.

    Raises:
        UserError: If PyTorch's exporter cannot.
    """
    image = torch.randint(256, (1, 3, *EXAMPLE), dtype=torch.uint8)
    sides = {
        2: torch.export.Dim('height', min=SMALLEST, max=1 << 14),
        3: torch.export.Dim('width', min=SMALLEST, max=1 << 14),
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # of operators that ONNX writes in another way
        try:
            program = torch.onnx.export(
                exported,
                (image,),
                dynamo=True,
                dynamic_shapes=(sides,),
                input_names=['image'],
                output_names=list(exported.outputs),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(f"PyTorch's ONNX exporter cannot take this model: {error}") from error
    return program.model_proto
