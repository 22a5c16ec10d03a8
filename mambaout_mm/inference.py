"""Predictions on pictures: overlays for the eye and json for programs."""

import glob
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from rich.progress import track
from torch import nn

from mambaout_mm.checkpoints import CheckpointError, read_checkpoint
from mambaout_mm.errors import UserError
from mambaout_mm.training.checks import check_fits, load_config
from mambaout_mm.training.options import registered

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def infer(
    inputs: list[str],
    checkpoint: str,
    config: str | None = None,
    out_dir: str = 'outputs',
    device: str | None = None,
    score_thr: float = 0.3,
) -> list[Path]:
    """Run a trained detector or segmentor on pictures.

    For each picture ``out_dir/overlays/<name>.png`` and ``out_dir/predictions/<name>.json`` are
    written; the name is the picture's, or its path where two are alike. The json of a detector has
    one entry for each object with a score from ``score_thr``: ``name``, ``label``, ``score``,
    ``box`` (x1, y1, x2, y2 in pixels of the picture) and, if it predicts masks, ``mask`` (COCO
    run-length encoding). That of a segmentor names each class with its share of the picture and the
    file with the label map, ``predictions/<name>_labels.png``.

    Args:
        inputs (list[str]): Pictures, folders and glob patterns. What lies in ``out_dir`` is left
            out: it is the result of an earlier run.
        checkpoint (str): Path or URL of a checkpoint that MMEngine's Runner saved.
        config (str, optional): The config. Defaults to the one inside the checkpoint, which is
            Python and is executed: name a config for checkpoints that you do not trust.
        out_dir (str): Defaults to 'outputs'.
        device (str, optional): As for ``torch.device``. Defaults to the accelerator, if any.
        score_thr (float): Objects of lower score are left out. Defaults to 0.3.

    Returns:
        list[Path]: The overlays.

    Raises:
        UserError: If no picture is found, the checkpoint does not fit, or a picture has no
            prediction (after all others are done); the message names each with the reason.
    """
    results = Path(out_dir).absolute()
    pictures = [p for p in find_pictures(inputs) if results not in p.absolute().parents]
    if not pictures:
        raise UserError(f'all pictures lie in {out_dir!r} itself; choose another --out-dir')
    model, cfg = load_model(checkpoint, config, device or get_device())
    pipeline = Compose(
        [t for t in cfg.test_dataloader.dataset.pipeline if t['type'] != 'LoadAnnotations']
    )
    visualizer = VISUALIZERS.build({**cfg.visualizer, 'vis_backends': None, 'name': 'infer'})
    visualizer.dataset_meta = model.dataset_meta
    names = _names(pictures)
    overlays, failures = [], []
    for picture in track(pictures, description='Predicting'):
        try:
            image = _read_image(picture)
            with torch.no_grad():
                sample = model.test_step(
                    pseudo_collate([pipeline(dict(img_path=str(picture), img_id=0))])
                )[0].cpu()
        except Exception as error:  # of any kind: one picture must not end the others
            failures.append(f'{_printable(picture)} ({(str(error).splitlines() or [""])[0]})')
            continue
        overlay = Path(out_dir) / 'overlays' / f'{names[picture]}.png'
        prediction = Path(out_dir) / 'predictions' / f'{names[picture]}.json'
        partial = _partial(overlay)
        options: dict[str, Any] = dict(draw_gt=False, out_file=str(partial))
        if 'pred_instances' in sample:
            options['pred_score_thr'] = score_thr
            content = _objects(sample, model.dataset_meta['classes'], score_thr)
        else:
            content = _segments(sample, model.dataset_meta['classes'], prediction)
        visualizer.add_datasample('', cv2.cvtColor(image, cv2.COLOR_BGR2RGB), sample, **options)
        partial.replace(overlay)
        _write_text(prediction, json.dumps(dict(image=str(picture), **content), indent=1))
        overlays.append(overlay)
    if failures:
        raise UserError(
            f'{len(failures)} of {len(pictures)} pictures have no prediction, the others are in '
            f'{out_dir}:\n' + '\n'.join(failures)
        )
    return overlays


def find_pictures(inputs: list[str]) -> list[Path]:
    """The pictures behind paths, folders and glob patterns, each once, sorted within each input.

    Raises:
        UserError: If an input leads to none.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_file():
            matches = [path]
        else:
            pattern = f'{glob.escape(str(path))}/**' if path.is_dir() else str(path)
            matches = [
                p
                for p in map(Path, sorted(glob.glob(pattern, recursive=True)))
                if p.suffix.lower() in IMAGE_SUFFIXES
            ]
        if not matches:
            raise UserError(
                f'no picture at {text!r}; a file, a folder or a quoted pattern such as '
                f'"images/*.jpg" with one of {", ".join(IMAGE_SUFFIXES)} is expected'
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def load_model(checkpoint: str, config: str | None, device: str) -> tuple[nn.Module, Config]:
    """The model of a Runner's checkpoint, in eval mode with its ``dataset_meta``, and its config.

    Raises:
        UserError: If the checkpoint has no config inside and none is given, or does not fit.
    """
    meta = read_checkpoint(checkpoint).get('meta')
    meta = meta if isinstance(meta, dict) else {}
    if config is not None:
        cfg = load_config(config)
    elif 'cfg' in meta:
        cfg = Config.fromstring(meta['cfg'], '.py')
    else:
        raise CheckpointError(f'{checkpoint!r} has no config inside; name it with --config')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    cfg.model.backbone.init_cfg = None  # the checkpoint brings the weights
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.load_state_dict(check_fits(model, checkpoint))
    model.dataset_meta = meta.get('dataset_meta') or _config_meta(cfg)
    return model.to(device).eval(), cfg


def _config_meta(cfg: Config) -> dict[str, Any]:
    """Classes and palette of the config's test data, for a checkpoint that does not name them."""
    dataset = cfg.test_dataloader.dataset
    cls = registered(DATASETS, dataset.type)
    return {**cls.METAINFO, **(dataset.get('metainfo') or {})}


def _objects(sample: Any, classes: list[str], score_thr: float) -> dict[str, Any]:
    found = sample.pred_instances
    found = found[found.scores >= score_thr]
    objects = [
        dict(
            name=classes[label],
            label=label,
            score=round(score, 4),
            box=[round(v, 1) for v in box],
        )
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True
        )
    ]
    if 'masks' in found:
        from pycocotools import mask as coco_mask

        for entry, mask in zip(objects, found.masks.numpy(), strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            entry['mask'] = dict(size=rle['size'], counts=rle['counts'].decode())
    return dict(objects=objects)


def _segments(sample: Any, classes: list[str], prediction: Path) -> dict[str, Any]:
    labels = sample.pred_sem_seg.data[0].numpy().astype(np.uint8)  # (H, W)
    label_map = prediction.with_name(f'{prediction.stem}_labels.png')
    _write_image(label_map, labels)
    values, counts = np.unique(labels, return_counts=True)
    segments = [
        dict(name=classes[value], label=int(value), share=round(count / labels.size, 4))
        for value, count in zip(values, counts, strict=True)
    ]
    return dict(label_map=label_map.name, segments=segments)


def _read_image(path: Path) -> np.ndarray:
    """A picture as (H, W, 3), BGR; by its bytes, since OpenCV dies of names that are no UTF-8."""
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError('it cannot be read as a picture')
    return image


def _printable(path: Path) -> str:
    return str(path).encode(errors='backslashreplace').decode()


def _names(pictures: list[Path]) -> dict[Path, str]:
    """A name for each picture's results: its stem, or its path where stems repeat."""
    stems = [p.stem for p in pictures]
    if len(set(stems)) == len(stems):
        return dict(zip(pictures, stems, strict=True))
    root = os.path.commonpath([p.absolute().parent for p in pictures])
    # In folders as the pictures': joined into one name, x_y/z and x/y_z would be the same.
    return {p: str(p.absolute().relative_to(root)) for p in pictures}


def _partial(path: Path) -> Path:
    """A name beside ``path``, of the same type, to write to before renaming."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f'.partial-{path.name}')


def _write_image(path: Path, image: np.ndarray) -> None:
    partial = _partial(path)
    partial.write_bytes(cv2.imencode(path.suffix, image)[1])
    partial.replace(path)


def _write_text(path: Path, text: str) -> None:
    partial = _partial(path)
    partial.write_text(text)
    partial.replace(path)
