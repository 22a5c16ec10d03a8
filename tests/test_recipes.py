"""Every block of docs/recipes.md trains, with a small network on a few small images."""

import re

import pytest
import torch
from support import ROOT
from support_models import SMALL_HEADS

BLOCKS = dict(
    re.findall(
        r'^\*\*(.+?)\*\*.*?```python\n(.*?)```',
        (ROOT / 'docs' / 'recipes.md').read_text(),
        flags=re.S | re.M,
    )
)
SMALL_BACKBONE = """
model['backbone'] = dict(
    arch=dict(_delete_=True, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)), init_cfg=None
)
"""
SMALL_WIDTHS = {
    'maskrcnn': "model['neck']['in_channels'] = [8, 16, 24, 32]\n",
    'upernet': "model['decode_head']['in_channels'] = [8, 16, 24, 32]\n"
    "model['auxiliary_head']['in_channels'] = 24\n",
}
SMALLER = {
    '(1024, 1024)': '(96, 96)',
    "backend='inductor'": "backend='eager'",  # inductor's C++ takes minutes
    'accumulative_counts=8': 'accumulative_counts=2',
}


OPTIONS = [
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'val_dataloader.dataset.indices=1',
]
LENGTH = {
    'maskrcnn': ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=1'],
    'upernet': [
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2',
    ],
}
SMALL_IMAGES = {
    'maskrcnn': 'train_dataloader.dataset.pipeline.2.scale=(128,128)',
    'upernet': 'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
}


@pytest.mark.parametrize('name', BLOCKS)
def test_it_trains(name, published_data, tmp_path, run_tool, monkeypatch):
    text = BLOCKS[name]
    if 'Tensorboard' in text:
        pytest.importorskip('tensorboard')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(published_data / 'data')
    ((base, heads),) = re.findall(r"'\./((maskrcnn|upernet)_\w+\.py)'", text)
    task = 'detection' if heads == 'maskrcnn' else 'segmentation'
    text = text.replace(f'./{base}', str(ROOT / 'configs' / task / base))
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    small_heads = SMALL_HEADS[heads].replace('_base_ = {base!r}\n', '')
    config = tmp_path / 'recipe.py'
    config.write_text(text + small_heads + SMALL_BACKBONE + SMALL_WIDTHS[heads])
    options = [*OPTIONS, *LENGTH[heads]]
    if 'MultiImageMixDataset' not in text:
        options.append(SMALL_IMAGES[heads])
    code, _, err = run_tool('train.py', config, '--cfg-options', *options)
    assert code == 0, err[-3000:]
    assert list((tmp_path / 'work_dirs').rglob('*.pth'))
    if 'Tensorboard' in text:
        assert list((tmp_path / 'work_dirs').rglob('events.out.tfevents*'))
    if 'EMAHook' in text:
        (checkpoint,) = (tmp_path / 'work_dirs').rglob('epoch_1.pth')
        saved = torch.load(checkpoint, weights_only=False)
        averaged, trained = saved['state_dict'], saved['ema_state_dict']
        assert any(
            not torch.equal(x, trained[f'module.{name}'])
            for name, x in averaged.items()
            if f'module.{name}' in trained
        )
