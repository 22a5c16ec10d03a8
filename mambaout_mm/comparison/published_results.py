"""What the authors print: 209 rows from the papers and READMEs, each with its source.

``published.csv`` keeps numbers of the same network from different sources apart, and so does
everything made of it.
"""

from pathlib import Path

import pandas as pd

CSV = Path(__file__).with_name('published.csv')
PAPER = 'arXiv 2405.07992'
# What sets the authors' recipes apart, by the beginning of a row's name: precision, GPUs x images,
# learning rate, neck, from their papers, configs and repositories.
RECIPES = {
    'MambaOut': dict(
        detection='mixed precision, 4 x 4 images',
        segmentation='mixed precision, 4 x 4 images, lr 1e-4',
    ),
    'VMamba': dict(
        detection='FP32, 8 x 2 images; some rows are of the best epoch',
        segmentation='FP32, 8 x 2 images, lr 6e-5; some rows are of the best epoch',
        classification='averaged weights',
    ),
    'LocalVMamba': dict(
        detection='mixed precision, 8 x 2 images',
        segmentation='8 x 2 images, lr 6e-5; mixed precision for Small only',
    ),
    'EfficientVMamba': dict(
        detection="mixed precision, 8 x 2 images (comments in B's config: 4 x 4)"
    ),
    'LocalVim': dict(segmentation='FP32, 8 x 2 images, lr 6e-5, UperNet on four maps at stride 16'),
    'PlainMamba': dict(
        detection='FP32, 8 x 2 images, behind a ViT-Adapter, SyncBN in FPN and box head',
        segmentation='FP32, 8 x 2 images, lr 6e-5, UperNet on four maps at stride 16',
    ),
    'Vim': dict(
        detection='as ViTDet: Cascade, 100 epochs, 1024x1024, batch 64',
        segmentation='FP32, batch 32, lr 1e-4 or 2e-4, sliding-window test',
    ),
    'ConvNeXt': dict(
        segmentation='mixed precision, 8 x 2 images, weight decay .05, learning rate decayed by '
        'stage, sliding-window test',
        classification='averaged weights',
    ),
}
# VMamba's assets/performance.md: all were trained with an average but Vanilla-VMamba-T, which
# MambaOut's table 1 prints as VMamba-T.
NOT_AVERAGED = ('VMamba-T', 'VMamba-T v0')
SCAN = "its MACs add the scan's floating-point operations"
# Column of the csv, quantity of a record, unit.
ACCURACIES = (
    ('ap_box', 'box AP', '%'),
    ('ap_mask', 'mask AP', '%'),
    ('miou_ss', 'mIoU', '%'),
    ('miou_ms', 'mIoU multi-scale', '%'),
    ('top1', 'top-1', '%'),
)
COSTS = (('params_m', 'params', 'M'), ('macs_g', 'MACs', 'G'))


def published_results() -> pd.DataFrame:
    """The rows of ``published.csv``.

    Returns:
        pd.DataFrame: Columns ``task`` ('detection', 'segmentation', 'classification'), ``method``,
        ``schedule``, ``backbone``, ``mixer``, ``params_m`` (1e6), ``macs_g`` (1e9), ``input``
        ('800x1280'), the accuracies in percent (``ap_box``, ``ap_box50``, ``ap_box75``,
        ``ap_mask``, ``ap_mask50``, ``ap_mask75``, ``miou_ss``, ``miou_ms``, ``top1``; NaN where a
        row has none), ``source``, ``note`` ('' or what is wrong with the row itself) and ``caveat``
        (that, and what sets its recipe apart).
    """
    rows = pd.read_csv(CSV, keep_default_na=True)
    rows = rows.fillna({'input': '', 'note': ''})
    recipe = map(recipe_of, rows['backbone'], rows['task'])
    scans = rows['mixer'].str.contains('SSM') & rows['macs_g'].notna()
    scan = scans.map({True: SCAN, False: ''})
    rows['caveat'] = [
        '; '.join(filter(None, parts)) for parts in zip(rows['note'], recipe, scan, strict=True)
    ]
    return rows


def recipe_of(backbone: str, task: str) -> str:
    """What sets the recipe of a published row apart; '' where nothing is on record."""
    if task == 'classification' and backbone in NOT_AVERAGED:
        return ''
    family = next((RECIPES[name] for name in RECIPES if backbone.startswith(name)), {})
    return family.get(task, '')
