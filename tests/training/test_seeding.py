"""A resumed training is, bit for bit, the training that was not interrupted."""

import copy
import pickle

import pytest
import torch
from mmengine.config import Config
from support import CONFIGS, ROOT, two_iterations

from mambaout_mm.training.seeding import SeededIndex, seed_by_place, seed_of

UPERNET = ROOT / 'configs' / 'segmentation' / 'upernet_mambaout_femto.py'
MASKRCNN = ROOT / 'configs' / 'detection' / 'maskrcnn_mambaout_femto.py'


def test_an_index_keeps_its_seed_on_the_way_to_a_worker():
    index = pickle.loads(pickle.dumps(SeededIndex(5, 17)))
    assert index == 5 and index.seed == 17
    assert list('abcdef')[index] == 'f'
    assert len({seed_of(0, epoch, place) for epoch in range(10) for place in range(100)}) == 1000


@pytest.mark.parametrize('path', CONFIGS[:2], ids=lambda path: path.stem)
def test_the_pipeline_begins_with_the_seed(path):
    cfg = Config.fromfile(path)
    before = copy.deepcopy(cfg.train_dataloader)
    seed_by_place(cfg)
    assert cfg.train_dataloader.sampler.sampler == before.sampler
    dataset = cfg.train_dataloader.dataset
    assert dataset.pipeline[0] == dict(type='SeedAugmentation')
    assert dataset.pipeline[1:] == before.dataset.pipeline
    again = copy.deepcopy(cfg)
    seed_by_place(again)
    assert again.train_dataloader == cfg.train_dataloader


def weights_after(run_tool, config, folder, *options, resume=False):
    args = ['--demo', '--work-dir', folder, *(['--resume'] if resume else [])]
    code, _, err = run_tool('train.py', config, *args, '--cfg-options', *options)
    assert code == 0, err
    newest = max(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    return torch.load(newest, weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'workers'), [(UPERNET, 0), (MASKRCNN, 2)], ids=['segmentation', 'detection']
)
def test_resumed_and_uninterrupted_end_alike(config, workers, run_tool, workspace):
    options = [
        *two_iterations(config),
        'model.backbone.drop_path_rate=0.5',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=9',
        f'train_dataloader.num_workers={workers}',
        'randomness.seed=None',
    ]
    whole = weights_after(run_tool, config, workspace / 'whole', *options)
    seed = whole['meta']['seed']
    (workspace / 'resumed').mkdir()
    (workspace / 'whole' / 'iter_1.pth').rename(workspace / 'resumed' / 'iter_1.pth')
    resumed = weights_after(run_tool, config, workspace / 'resumed', *options, resume=True)
    assert resumed['meta']['seed'] == seed
    for part in ('state_dict', 'optimizer'):
        assert_same(whole[part], resumed[part])
    if workers:
        return
    # The test can fail: another seed ends elsewhere
    options[-1] = f'randomness.seed={seed ^ 1}'
    other = weights_after(run_tool, config, workspace / 'other', *options)
    name = next(name for name, value in whole['state_dict'].items() if value.dim() > 1)
    assert not torch.equal(other['state_dict'][name], whole['state_dict'][name])


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b
