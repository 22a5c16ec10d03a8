"""What the authors print: rows from papers and READMEs, each with its source.

``published.csv`` keeps numbers of the same network from different sources apart, and so does
everything made of it.
"""

from pathlib import Path

import pandas as pd

from mambaout_mm.registry import FAMILIES

CSV = Path(__file__).with_name('published.csv')
PAPER = 'arXiv 2405.07992'
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
    recipes = {name: recipe for family in FAMILIES for name, recipe in family.recipes.items()}
    begun = (recipe for name, recipe in recipes.items() if backbone.startswith(name))
    return recipes.get(backbone, next(begun, {})).get(task, '')
