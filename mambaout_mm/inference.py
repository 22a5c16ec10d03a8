"""Predictions on pictures: overlays for the eye and json for programs."""

import glob
import hashlib
import json
import os
from contextlib import nullcontext
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

from mambaout_mm.checkpoints import CheckpointError, checkpoints_are_data, read_checkpoint
from mambaout_mm.errors import UserError
from mambaout_mm.files import check_folder, whole_file, write_bytes, write_text
from mambaout_mm.literal_config import config_of_text, only_registered
from mambaout_mm.training.checks import check_fits, load_config
from mambaout_mm.training.options import registered
from mambaout_mm.trust import trusting

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
LONGEST_STEM = 255 - len('_labels.png')  # bytes: file systems allow 255


def infer(
    inputs: list[str],
    checkpoint: str,
    config: str | None = None,
    out_dir: str = 'outputs',
    device: str | None = None,
    score_thr: float = 0.3,
    trust: bool = False,
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
        config (str, optional): The config, which is Python and is executed. Defaults to the one
            inside the checkpoint, which is read as data.
        out_dir (str): Defaults to 'outputs'.
        device (str, optional): As for ``torch.device``. Defaults to the accelerator, if any.
        score_thr (float): Objects of lower score are left out, 0 to 1. Defaults to 0.3.
        trust (bool): Let the checkpoint and the config inside it run code. Defaults to False.

    Returns:
        list[Path]: The overlays.

    Raises:
        UserError: If an argument cannot be used, no picture is found, the checkpoint does not fit,
            or a picture has no prediction (after all others are done); the message names each with
            the reason.
    """
    if not 0 <= score_thr <= 1:
        raise UserError(f'--score-thr {score_thr} is no score; give a number from 0 to 1')
    results = Path(out_dir).absolute()
    pictures = [p for p in find_pictures(inputs) if results not in p.absolute().parents]
    if not pictures:
        raise UserError(f'all pictures lie in {out_dir!r} itself; choose another --out-dir')
    check_folder(out_dir, '--out-dir')
    device = device or get_device()
    _check_device(device)
    # A config that is named is the user's own, and may name any class.
    classes = nullcontext() if config else only_registered()
    with trusting(trust), checkpoints_are_data(), classes:
        model, cfg = load_model(checkpoint, config, device)
        pipeline, visualizer = _pipeline_and_visualizer(cfg, config, checkpoint)
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
                overlay = Path(out_dir) / 'overlays' / f'{names[picture]}.png'
                prediction = Path(out_dir) / 'predictions' / f'{names[picture]}.json'
                options: dict[str, Any] = dict(draw_gt=False)
                if 'pred_instances' in sample:
                    options['pred_score_thr'] = score_thr
                    content = _objects(sample, model.dataset_meta['classes'], score_thr)
                else:
                    content = _segments(sample, model.dataset_meta['classes'], prediction)
                rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                with whole_file(overlay) as unfinished:
                    visualizer.add_datasample('', rgb, sample, out_file=str(unfinished), **options)
                write_text(prediction, json.dumps(dict(image=str(picture), **content), indent=1))
            except Exception as error:  # of any kind: one picture must not end the others
                failures.append(f'{_printable(picture)} ({(str(error).splitlines() or [""])[0]})')
                continue
            overlays.append(overlay)
    if failures:
        raise UserError(
            f'{len(failures)} of {len(pictures)} pictures have no prediction, the others are in '
            f'{out_dir}:\n' + '\n'.join(failures)
        )
    return overlays


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).tolist()  # which 'meta' cannot
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f'--device {device!r} cannot be used here: {str(error).splitlines()[0]}; PyTorch finds '
            f'{get_device()}'
        ) from error


def _pipeline_and_visualizer(
    cfg: Config, config: str | None, checkpoint: str
) -> tuple[Compose, Any]:
    try:
        transforms = cfg.test_dataloader.dataset.pipeline
        pipeline = Compose([t for t in transforms if t['type'] != 'LoadAnnotations'])
        visualizer = dict(cfg.visualizer, vis_backends=None, name='infer')
        return pipeline, VISUALIZERS.build(visualizer)
    except Exception as error:  # of any kind: a checkpoint's config may hold anything
        raise _unfit(config, checkpoint, error) from error


def _unfit(config: str | None, checkpoint: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if config:
        return UserError(f'{config} cannot be used for predictions: {reason}')
    return UserError(
        f'the config inside {checkpoint!r} cannot be used for predictions: {reason}. It may only '
        'name classes of OpenMMLab and this package, and its custom_imports are not imported; name '
        'your own config with --config, or say --trust if you trust who made the checkpoint'
    )


def find_pictures(inputs: list[str]) -> list[Path]:
    """The pictures behind paths, folders and glob patterns, each once, sorted within each input.

    Raises:
        UserError: If an input leads to none.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(os.path.expanduser(text))
        if os.path.isfile(path):  # Path.is_file refuses a name that is too long
            matches = [path]
        else:
            pattern = f'{glob.escape(str(path))}/**' if os.path.isdir(path) else str(path)
            matches = [
                p
                for p in map(Path, sorted(glob.glob(pattern, recursive=True)))
                if p.suffix.lower() in IMAGE_SUFFIXES
            ]
        if not (text and matches):  # an empty name, as of a variable, would be this folder
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
    elif isinstance(meta.get('cfg'), str):
        cfg = config_of_text(meta['cfg'], f'the config inside {checkpoint!r}')
    else:
        raise CheckpointError(f'{checkpoint!r} has no config inside; name it with --config')
    try:
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        cfg.model.backbone.init_cfg = None  # the checkpoint brings the weights
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.dataset_meta = meta.get('dataset_meta') or _config_meta(cfg)
        list(model.dataset_meta['classes'])
    except UserError:
        raise
    except Exception as error:  # of any kind: a checkpoint's config may hold anything
        raise _unfit(config, checkpoint, error) from error
    model.load_state_dict(check_fits(model, checkpoint))
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
    write_bytes(label_map, cv2.imencode('.png', labels)[1].tobytes())
    values, counts = np.unique(labels, return_counts=True)
    segments = [
        dict(name=classes[value], label=int(value), share=round(count / labels.size, 4))
        for value, count in zip(values, counts, strict=True)
    ]
    return dict(label_map=label_map.name, segments=segments)


def _read_image(path: Path) -> np.ndarray:
    """A picture as (H, W, 3), BGR; by its bytes, since OpenCV dies of names that are no UTF-8."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError('it is no file')
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
        return {p: _short_enough(stem, p) for p, stem in zip(pictures, stems, strict=True)}
    root = os.path.commonpath([p.absolute().parent for p in pictures])
    # In folders as the pictures': joined into one name, x_y/z and x/y_z would be the same.
    paths = {p: p.absolute().relative_to(root) for p in pictures}
    return {p: str(path.with_name(_short_enough(path.name, p))) for p, path in paths.items()}


def _short_enough(name: str, picture: Path) -> str:
    """The name; its beginning and a digest of the path if nothing could be added to it."""
    if len(os.fsencode(name)) <= LONGEST_STEM:
        return name
    digest = hashlib.sha256(os.fsencode(picture.absolute())).hexdigest()[:8]
    beginning = os.fsencode(name)[: LONGEST_STEM - 1 - len(digest)].decode(errors='ignore')
    return f'{beginning}-{digest}'
