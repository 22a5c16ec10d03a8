"""What a demo run says first, and how it ends: the scores, a picture, and the next command."""

from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from mambaout_mm.files import write_bytes

PICTURES = 4
SCORE_THRESHOLD = 0.5


def announce(runner: Runner, log: Path, console: Console) -> None:
    """Print what is trained on what, and where everything else is written."""
    cfg = runner.cfg
    images = len(runner.train_dataloader.dataset)
    console.print(
        f'{cfg.model.type} over {cfg.model.backbone.type}: {runner.max_iters} iterations of '
        f'{cfg.train_dataloader.batch_size} images, out of {images} that were drawn for it, from '
        f'random weights.\nAll that the libraries print is in {log}',
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def report(runner: Runner, config: str, console: Console) -> None:
    """Print the table of scores on the held-out images, the picture's path and the next command.

    Args:
        runner (Runner): After training and its last evaluation.
        config (str): The config's path as it was typed, for the next command.
        console (Console): Where to.
    """
    console.print(score_table(runner))
    picture = draw_picture(runner, Path(runner.work_dir) / 'predictions.png')
    dataset = 'coco' if runner.cfg.default_scope == 'mmdet' else 'ade20k'
    console.print(f'Truth (left) beside prediction (right): {picture}', soft_wrap=True)
    console.print(
        f'Next, with {dataset.upper()}:\n'
        f'  python tools/prepare_data.py {dataset}\n'
        f'  python tools/train.py {config} --amp',
        soft_wrap=True,
    )


def score_table(runner: Runner) -> Table:
    """The last evaluation's scores: COCO AP of boxes and masks, or mIoU."""
    scalars = runner.message_hub.log_scalars
    if runner.cfg.default_scope == 'mmseg':
        table = Table('', 'mIoU', 'mean accuracy', 'pixel accuracy', title='Held-out images, %')
        table.add_row(
            'segmentation',
            *(f'{scalars[f"val/{k}"].current():.1f}' for k in ('mIoU', 'mAcc', 'aAcc')),
        )
        return table
    columns = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75'}
    columns |= {f'AP {size}': f'mAP_{size[0]}' for size in ('small', 'medium', 'large')}
    table = Table('COCO AP', *columns, title='Held-out images')
    for name, metric in (('box', 'bbox'), ('mask', 'segm')):
        values = [scalars.get(f'val/coco/{metric}_{key}') for key in columns.values()]
        if values[0] is not None:
            # COCO's -1 means that no object has this size.
            numbers = [value.current() for value in values]
            table.add_row(name, *('-' if n < 0 else f'{n:.3f}' for n in numbers))
    return table


def draw_picture(runner: Runner, path: Path) -> Path:
    """Draw truth beside prediction for the first held-out images, two such pairs to a row."""
    runner.model.eval()
    dataset = runner.val_dataloader.dataset
    pairs = []
    with TemporaryDirectory() as folder:
        drawn = Path(folder) / 'pair.png'
        for i in range(min(PICTURES, len(dataset))):
            batch = runner.val_dataloader.collate_fn([dataset[i]])
            with torch.no_grad():
                sample = runner.model.val_step(batch)[0]
            image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
            options = dict(draw_gt=True, draw_pred=True, out_file=str(drawn))
            if runner.cfg.default_scope == 'mmdet':
                options['pred_score_thr'] = SCORE_THRESHOLD
            runner.visualizer.add_datasample('demo', image, sample.cpu(), **options)
            pairs.append(cv2.imread(str(drawn)))
    columns = min(2, len(pairs))
    rows = [pairs[k : k + columns] for k in range(0, len(pairs) - columns + 1, columns)]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    write_bytes(path, cv2.imencode('.png', picture)[1].tobytes())
    return path
