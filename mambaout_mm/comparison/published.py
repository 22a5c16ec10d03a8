"""What the authors print: 209 rows from the papers and READMEs, each with its source.

``published.csv`` keeps numbers of the same network from different sources apart, and so does
everything made of it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from mambaout_mm.registry import FAMILIES

from .records import Record

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


def published_records(rows: pd.DataFrame, names: Mapping[str, str]) -> Iterator[Record]:
    """A record for each accuracy that a row prints, and for its cost.

    Args:
        rows (pd.DataFrame): Of :func:`published_results`.
        names (Mapping[str, str]): From printed names to this project's, where they differ:
            MambaOut's tables call VMamba's first release "VMamba", others its second.
    """
    for row in rows.to_dict('records'):
        printed = row['backbone']
        name = names.get(printed, printed)
        note = '' if name == printed else f'printed as {printed}'
        for column, quantity, unit in (*ACCURACIES, *COSTS):
            if pd.isna(row[column]):
                continue
            yield Record(
                section='published',
                backbone=name,
                mixer=row['mixer'],
                model=row['method'],
                quantity=quantity,
                setting=row['schedule'],
                size=row['input'],
                value=row[column],
                unit=unit,
                origin='published',
                source=row['source'],
                note='; '.join(filter(None, (note, row['caveat']))),
            )


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """MambaOut minus VMamba on each task: the paper's two hypotheses in one table.

    Both sides are from MambaOut's tables 1 to 3, where "VMambaV9" is the VMamba of today. Its Base
    on COCO is VMamba's run with a batch of 8 (49.2, 43.9); that with 16 has 49.2 and 44.1.
    Hypothesis 1 (no SSM is needed to classify) says that the gap is not negative on ImageNet;
    hypothesis 2 (it is worth exploring for dense prediction) that it may be on COCO and ADE20K.

    Returns:
        pd.DataFrame: Columns ``scale`` ('Tiny', 'Small', 'Base'), ``quantity``, ``mambaout``,
        ``vmamba``, ``gap`` (all in percent) and ``source``.
    """
    rows = rows[
        rows['source'].str.startswith(PAPER) & rows['schedule'].isin(['300e', '1x', '160k'])
    ]
    by_name = {(row['backbone'], row['task']): row for row in rows.to_dict('records')}
    table = []
    for column, quantity, _ in ACCURACIES:
        task = {'top1': 'classification', 'ap_box': 'detection', 'ap_mask': 'detection'}.get(
            column, 'segmentation'
        )
        for scale in ('Tiny', 'Small', 'Base'):
            ours = by_name[f'MambaOut-{scale}', task]
            theirs = by_name[f'VMambaV9-{scale[0]}', task]
            table.append(
                dict(
                    scale=scale,
                    quantity=quantity,
                    mambaout=ours[column],
                    vmamba=theirs[column],
                    gap=round(ours[column] - theirs[column], 1),
                    source=ours['source'],
                )
            )
    return pd.DataFrame(table)
