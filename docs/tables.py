"""Write the tables of README.md and the guides, and the model index, from the facts.

    python docs/tables.py            writes them
    python docs/tables.py --check    names the files that it would change; fails if there are any

The facts are the families' files (mambaout_mm/backbones/), the configs, the recorded costs
(mambaout_mm/comparison/costs.csv), the published figures (published.csv beside it) and what
tools/try_config.py --all found (docs/other_configs/). A table is what stands between
`<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import argparse
import re
import sys
import warnings
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
import yaml
from mmengine.config import Config

from mambaout_mm.backbones import MambaOut
from mambaout_mm.backbones.base import Network, Paper
from mambaout_mm.backbones.mambaout import ARCHITECTURES
from mambaout_mm.comparison.catalogue import ENTRIES
from mambaout_mm.comparison.counting import recorded_costs
from mambaout_mm.comparison.published_results import published_results
from mambaout_mm.measure.complexity import build_model, count_macs
from mambaout_mm.registry import FAMILIES
from mambaout_mm.transplant.sweep import RUNS
from mambaout_mm.transplant.text import PACKAGES

ROOT = Path(__file__).parents[1]
# Top-1 of timm's variants at 224x224, from the results/ of timm 1.0.31.
TIMM_TOP1 = {
    'small_rw': '84.0',
    'base_short_rw': '84.4',
    'base_tall_rw': '84.4',
    'base_wide_rw': '84.5',
    'base_plus_rw': '86.6 (ImageNet-12k)',
}
# MACs in 1e9 of whole models that the comparison does not have, by model_complexity at the size of
# their table. Cascade's masks run on every proposal in mmdet's forward pass, which says nothing
# about its cost in use: it has none.
OTHER_MODELS = {'retinanet_mambaout_t': 243.4, 'deeplabv3plus_mambaout_t': 149.4}
TASKS = {
    'detection': ('Mask R-CNN', 'COCO', 'FPN', ('ap_box', 'ap_mask')),
    'segmentation': ('UperNet', 'ADE20K', 'UPerNet', ('miou_ss', 'miou_ms')),
}
SCHEDULES = {'Mask R-CNN': '1x', 'UperNet': '160k'}
METAFILE_NOTE = """\
# Written by docs/tables.py.
# None of these were trained here at full length: there are no results to list. Published figures,
# and whose recipe they are of, are in README.md and docs/comparators.md.
"""


def variants() -> str:
    """MambaOut's variants: README.

    Every layer costs the same for each pixel, so a tile of 32x32 pixels tells the cost of an image.
    """
    top1 = _published('ImageNet-1K').set_index('backbone')['top1']
    lines = [
        '| arch | depths | dims | params | MACs 224x224 | MACs 800x1280 | top-1 |',
        '|---|---|---|---|---|---|---|',
    ]
    for arch, numbers in ARCHITECTURES.items():
        with torch.device('meta'):
            model = MambaOut(arch)
        model = model.to_empty(device='cpu').eval()  # no weights are needed to count
        params = sum(p.numel() for p in model.parameters()) / 1e6
        tile = count_macs(model, torch.zeros(1, 3, 32, 32)) / 1e9
        macs = (tile * height * width / 32**2 for height, width in ((224, 224), (800, 1280)))
        cells = (
            arch,
            *(', '.join(map(str, numbers[key])) for key in ('depths', 'dims')),
            f'{params:.2f}',
            *(f'{value:.2f}' for value in macs),
            TIMM_TOP1.get(arch) or f'{top1[f"MambaOut-{arch.capitalize()}"]:.1f}',
        )
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def configs_of(task: str) -> str:
    """A row for each config that is no twin of another (3x, other recipe, no weights): README."""
    model, _, _, accuracies = TASKS[task]
    kind = 'box AP / mask AP' if task == 'detection' else 'mIoU single / multi-scale'
    lines = [
        f'| configs/{task}/ | params | MACs | published: {kind} |',
        '|---|---|---|---|',
    ]
    for path in _sorted_configs(task):
        if path.stem.endswith(('_3x', '_published', '_scratch')):
            continue
        network = _network_of(path)
        with torch.device('meta'):
            counted = sum(p.numel() for p in build_model(Config.fromfile(path)).parameters())
        if path.stem.startswith(('maskrcnn', 'upernet')):
            params, macs = _cost_cells(network, model, counted)
            accuracy = _accuracy_cell(network, model, accuracies)
        else:
            params = f'{counted / 1e6:.2f}'
            macs = str(OTHER_MODELS.get(path.stem, '-'))
            accuracy = '-'
        lines.append(f'| `{path.stem}` | {params} | {macs} | {accuracy} |')
    return '\n'.join(lines)


def costs() -> str:
    """Parameters and MACs of every network in the comparison: comparators.md."""
    lines = [
        '| | Mask R-CNN, 800x1280: params (M) | MACs (1e9) | UperNet, 512x2048: params | MACs |',
        '|---|---|---|---|---|',
    ]
    for network in ENTRIES:
        if '(timm)' not in network.name:
            cells = (cell for model in SCHEDULES for cell in _cost_cells(network, model))
            mark = " (nobody's published model)" if 'mixers' in network.presets[:1] else ''
            lines.append(f'| {network.name}{mark} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def dense_weights() -> str:
    """Released detectors and segmentors: comparators.md."""
    lines = [
        '| name | config under configs/ | published | file |',
        '|---|---|---|---|',
    ]
    rows = published_results()
    for family in FAMILIES:
        for name, weights in family.dense_weights.items():
            of = rows['backbone'].eq(weights.published) & rows['schedule'].eq(weights.schedule)
            row = rows[of].iloc[0]
            columns = TASKS[weights.config.split('/')[0]][3]
            scores = [f'{row[column]:.1f}' for column in columns if pd.notna(row[column])]
            unlabelled = 'unlabelled' in str(row['note'])
            cells = (
                f'`{name}`',
                f'`{weights.config}`',
                ' / '.join(scores) + (' (not said which)' if unlabelled else ''),
                f'[{weights.url.rsplit("/")[-1]}]({weights.url})',
            )
            lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def algorithms(package: str) -> str:
    """Which algorithms of mmdet or mmseg run with MambaOut, and why the rest does not."""
    rows = pd.read_csv(ROOT / 'docs' / 'other_configs' / f'{package}.csv', keep_default_na=False)
    stock, ours = rows['resnet50'] == RUNS, rows['ours'] == RUNS
    named = ', '.join(f'`{name}`' for name in rows.loc[ours, 'algorithm'])
    lines = [
        f'Of {len(rows)} algorithms of {package}, {stock.sum()} run with their ResNet-50, and '
        f'{(stock & ours).sum()} of these with MambaOut.',
        f'MambaOut runs in {named}.',
        '| the rest | ResNet-50 | MambaOut |\n|---|---|---|',
    ]
    for row in rows[~ours].itertuples():
        same = row.resnet50 == row.ours
        cells = (f'`{row.config}`', row.resnet50, 'the same' if same else row.ours)
        lines[-1] += f'\n| {" | ".join(cell.replace("|", "/") for cell in cells)} |'
    return '\n\n'.join(lines if (~ours).any() else lines[:2])


def metafile(task: str) -> str:
    """The model index of a task, for OpenMIM."""
    _, data, head, _ = TASKS[task]
    paths = _sorted_configs(task)
    papers = {path: _paper(_network_of(path)) for path in paths}
    collections = [
        {
            'Name': f'{name} {task}',
            'License': paper.licence,
            'Metadata': {'Architecture': [paper.block, head]},
            'Paper': {'URL': paper.url, 'Title': paper.title},
            'README': 'README.md',
        }
        for name, paper in dict.fromkeys(papers.values())
    ]
    models = [
        {
            'Name': path.stem,
            'In Collection': f'{papers[path][0]} {task}',
            'Config': str(path.relative_to(ROOT)),
            'Metadata': {'Training Data': data},
        }
        for path in paths
    ]

    def dump(content: dict) -> str:
        return yaml.safe_dump(content, sort_keys=False, width=200)

    return f'{METAFILE_NOTE}{dump({"Collections": collections})}\n{dump({"Models": models})}'


def _sorted_configs(task: str) -> list[Path]:
    """By family, then heads, then network, then twin."""
    order = {network.name: i for i, network in enumerate(ENTRIES)}
    papers = [_paper(network) for network in ENTRIES]

    def key(path: Path) -> tuple:
        network = _network_of(path)
        standard = path.stem.startswith(('maskrcnn', 'upernet'))
        return papers.index(_paper(network)), not standard, order[network.name], path.stem

    return sorted((ROOT / 'configs' / task).glob('*.py'), key=key)


@cache
def _network_of(path: Path) -> Network:
    """The network of the comparison that a config has as its backbone."""
    backbone = Config.fromfile(path).model.backbone
    matching = [
        network
        for network in ENTRIES
        if all(backbone.get(name) == value for name, value in network.backbone.items())
    ]
    if not matching:
        raise ValueError(f'no family names the backbone {dict(backbone)} in its networks')
    return max(matching, key=lambda network: len(network.backbone))  # which says most about it


def _paper(network: Network) -> tuple[str, Paper]:
    papers = next(family.papers for family in FAMILIES if network in family.networks)
    found = (name for name in papers if network.name.startswith(name.split()[0]))
    return next((name, papers[name]) for name in found)


def _published(model: str, network: Network | None = None) -> pd.DataFrame:
    """Published rows of a model: all, or those of one network.

    The network's are of the usual schedule where there are such, else of any but 3x.
    """
    rows = published_results()
    rows = rows[rows['method'] == model]
    if network is None:
        return rows
    rows = rows[rows['backbone'].isin((network.published, f'{network.published} (Adapter)'))]
    usual = rows['schedule'] == SCHEDULES[model]
    return rows[usual] if usual.any() else rows[rows['schedule'] != '3x']


def _mark(network: Network, model: str, rows: pd.DataFrame) -> str:
    """'*' where the published rows are of other heads, another pyramid or another schedule."""
    other = (model == 'UperNet' and network.other_heads) or not rows['schedule'].eq(
        SCHEDULES[model]
    ).all()
    return '*' if other or rows['backbone'].str.endswith('(Adapter)').any() else ''


def _cost_cells(network: Network, model: str, params: int | None = None) -> tuple[str, str]:
    """Parameters and MACs as counted, with the published ones in brackets.

    Args:
        network (Network): The backbone.
        model (str): 'Mask R-CNN' or 'UperNet'.
        params (int, optional): Parameters of the config's model, whose pyramid may be another than
            that of the comparison. Defaults to None: those of the comparison's.
    """
    cost = next(cost for cost in recorded_costs()[network.name] if cost.model == model)
    counted = f'{(params or cost.count.params) / 1e6:.2f}', f'{cost.count.macs / 1e9:.1f}'
    rows = _published(model, network)
    cells = []
    for text, column in zip(counted, ('params_m', 'macs_g'), strict=True):
        printed = rows[column].dropna()
        mark = _mark(network, model, rows)
        cells.append(f'{text} ({printed.iloc[0]:g}{mark})' if len(printed) else text)
    return cells[0], cells[1]


def _accuracy_cell(network: Network, model: str, columns: tuple[str, str]) -> str:
    rows = _published(model, network)
    mark = _mark(network, model, rows)
    values = [rows[column].dropna() for column in columns]
    if not any(map(len, values)):
        return '-'
    if rows['note'].str.contains('unlabelled').any():
        return f'{pd.concat(values).iloc[0]:.1f}{mark} (not said which)'
    return ' / '.join(f'{value.iloc[0]:.1f}{mark}' if len(value) else '-' for value in values)


def written() -> dict[Path, str]:
    """What each file is to hold."""
    files = {
        ROOT / 'README.md': {
            'variants': variants,
            'detection': lambda: configs_of('detection'),
            'segmentation': lambda: configs_of('segmentation'),
        },
        ROOT / 'docs' / 'comparators.md': {'costs': costs, 'dense weights': dense_weights},
        ROOT / 'docs' / 'other_configs.md': {
            package: partial(algorithms, package) for package in PACKAGES
        },
    }
    texts = {ROOT / 'configs' / task / 'metafile.yml': metafile(task) for task in TASKS}
    for path, tables in files.items():
        text = path.read_text()
        for name, table in tables.items():
            marks = rf'(<!-- table: {name} -->\n).*?(\n<!-- end of table -->)'
            text, found = re.subn(
                marks, lambda m, table=table: f'{m[1]}\n{table()}\n{m[2]}', text, flags=re.S
            )
            if found != 1:
                sys.exit(f'{path} has {found} places for the table {name!r}, not one')
        texts[path] = text
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing; fail on a difference')
    check = parser.parse_args().check
    warnings.filterwarnings('ignore', 'Default ``avg_non_ignore``')  # of a loss
    changed = {path: text for path, text in written().items() if path.read_text() != text}
    for path, text in changed.items():
        print(f'{path.relative_to(ROOT)} {"differs from the facts" if check else "is written"}')
        if not check:
            path.write_text(text)
    sys.exit(bool(check and changed))


if __name__ == '__main__':
    main()
