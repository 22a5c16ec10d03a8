"""What is read from the work dirs of MMEngine."""

import copy
from functools import partial

import pytest
from support_runs import DETECTION, SEGMENTATION, write_run

from mambaout_mm.errors import UserError
from mambaout_mm.runs.reading import read_run
from mambaout_mm.trust import trusting


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path)


def test_scores_seed_and_processes(make_run):
    run = read_run(make_run('a'))
    assert (run.name, run.unit, run.done, run.planned) == ('a', 'epoch', 3, 3)
    assert (run.seed, run.processes, run.best) == (1, 4, 2)
    assert run.validations[2] == {'box AP': 30, 'mask AP': 15}


def test_segmentation_counts_iterations_and_logs_percent(make_run):
    run = read_run(make_run('a', [40.0, 42.5], base=SEGMENTATION))
    assert (run.unit, run.done, run.planned, run.best) == ('iteration', 200, 200, 200)
    assert run.validations[200] == {'mIoU': 42.5, 'mAcc': 50.0, 'aAcc': 80.0}


def test_a_resumed_run_is_joined(make_run):
    """Epoch 2 is there twice, epoch 3 of the first start is of weights that were left behind."""
    folder = make_run('a', [0.1, 0.2, 0.9])
    options = dict(resume=True, load_from='epoch_1.pth', train_cfg=dict(max_epochs=4))
    later = dict(time='20261122_090000', first=2, options=options, seed=7)
    run = read_run(make_run('a', [0.25], **later))
    assert {at: s['box AP'] for at, s in run.validations.items()} == {1: 10, 2: 25}
    assert (run.done, run.planned, run.seed, run.load_from) == (2, 4, 1, None)
    assert folder == run.folder


def test_validations_logged_by_epoch_in_a_training_by_iteration(make_run):
    """The logger's default, and then MMEngine writes the number of passes over the data."""
    base = copy.deepcopy(SEGMENTATION)
    del base['default_hooks']['logger']['log_metric_by_epoch']
    folder = make_run('a', [40.0, 42.5], base=base)
    log = folder / '20261121_150000' / 'vis_data' / 'scalars.json'
    log.write_text(log.read_text().replace('0.2, "step": 100', '0.2, "step": 0'))
    log.write_text(log.read_text().replace('0.2, "step": 200', '0.2, "step": 0'))
    assert list(read_run(folder).validations) == [100, 200]


def test_what_a_resumed_run_left_behind_is_not_its_score(make_run):
    """Also before it has validated again."""
    make_run('a', [0.1, 0.2, 0.9])
    later = dict(time='20261122_090000', first=2, options=dict(resume=True))
    assert list(read_run(make_run('a', [None], **later)).validations) == [1]


@pytest.mark.parametrize(('scores', 'left'), [([0.3], {1: 30}), ([], {})])
def test_a_second_start_without_resume_is_another_run(scores, left, make_run):
    make_run('a', [0.1, 0.2, 0.9])
    run = read_run(make_run('a', scores, time='20261122_090000', seed=7))
    assert {at: s['box AP'] for at, s in run.validations.items()} == left
    assert run.seed == 7
    assert run.note == 'without 20261121_150000: training began anew after it'


def test_a_run_whose_start_is_elsewhere_says_so(make_run):
    run = read_run(make_run('a', options=dict(resume=True, load_from='other/epoch_1.pth')))
    assert run.note == 'its start is not here: it resumed other/epoch_1.pth'
    assert run.load_from is None


def test_folders_of_tools_test_are_no_trainings(make_run):
    folder = make_run('a')
    (folder / '20261123_100000' / 'vis_data').mkdir(parents=True)
    (folder / '20261123_100000' / '20261123_100000.json').write_text('{"coco/bbox_mAP": 0.9}')
    assert read_run(folder).final('box AP') == 20


def test_the_last_line_may_be_cut_short_and_no_other(make_run):
    folder = make_run('a')
    log = folder / '20261121_150000' / 'vis_data' / 'scalars.json'
    whole = log.read_text()
    log.write_text(whole[:-20])
    run = read_run(folder)
    assert (list(run.validations), run.done) == ([1, 2], 2)
    for broken, line in ((whole.replace('"iter": 50, ', '"iter', 1), 1), (whole + '[1]\n', 10)):
        log.write_text(broken)
        with pytest.raises(UserError, match=rf'scalars.json, line {line}, is no log entry'):
            read_run(folder)


@pytest.mark.parametrize(
    'line',
    [
        '"text"',
        '[1, 2]',
        '{"coco/bbox_mAP": 0.1}',
        '{"coco/bbox_mAP": "0.1", "step": 1}',
        '{"coco/bbox_mAP": [0.1], "step": 1}',
        '{"coco/bbox_mAP": null, "step": 1}',
        '{"coco/bbox_mAP": true, "step": 1}',
        '{"coco/bbox_mAP": 1e300, "step": 1}',
        '{"coco/bbox_mAP": Infinity, "step": 1}',
        '{"coco/segm_mAP": 17.5, "step": 1}',
        '{"coco/bbox_mAP": 0.1, "step": "1"}',
        '{"coco/bbox_mAP": 0.1, "step": NaN}',
        '{"coco/bbox_mAP": 0.1, "step": 1.5}',
        '{"coco/bbox_mAP": 0.1, "step": -1}',
        '{"coco/bbox_mAP": 0.1, "step": ' + '9' * 30 + '}',
        '{"coco/bbox_mAP": 0.1, "step": ' + '9' * 5000 + '}',
        '{"loss": 1.0, "iter": [1], "step": 1}',
        '{"loss": 1.0, "iter": 1, "epoch": "two", "step": 1}',
        '[' * 100_000,
    ],
    ids=lambda line: line[:40],
)
def test_a_log_with_odd_values_is_refused_with_the_line(line, make_run):
    folder = make_run('a')
    log = folder / '20261121_150000' / 'vis_data' / 'scalars.json'
    lines = log.read_text().splitlines()
    log.write_text('\n'.join([*lines[:2], line, *lines[2:], '']))
    with pytest.raises(UserError, match=r'scalars.json, line 3, is no log entry of MMEngine \('):
        read_run(folder)


@pytest.mark.parametrize('content', [b'\xff\xfe\0', b'\x80\x02}'])
def test_a_binary_log_is_refused(content, make_run):
    folder = make_run('a')
    (folder / '20261121_150000' / 'vis_data' / 'scalars.json').write_bytes(content)
    with pytest.raises(UserError, match=r'scalars.json is no log of MMEngine'):
        read_run(folder)


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('train_cfg', 'text'), ('train_cfg.max_epochs', 'text'), ('train_cfg.max_epochs', 1.5),
        ('train_cfg.max_epochs', True), ('model', 'text'), ('model.backbone', [1]),
        ('optim_wrapper', 3), ('optim_wrapper.optimizer', 'AdamW'), ('train_dataloader', 'text'),
        ('train_dataloader.batch_size', '4'), ('param_scheduler', 'text'), ('load_from', [1]),
        ('default_hooks', 'text'), ('default_hooks.logger', [1]), ('auto_scale_lr', 'text'),
    ],
)  # fmt: skip
def test_a_config_that_is_none_of_a_training_is_refused_with_the_place(place, value, make_run):
    base = copy.deepcopy(DETECTION)
    *path, last = place.split('.')
    node = base
    for key in path:
        node = node[key]
    node[last] = value
    with pytest.raises(UserError, match=rf'config.py: {place} is .*, not a'):
        read_run(make_run('a', options=base))


def test_a_config_of_a_run_is_data(make_run, tmp_path):
    folder = make_run('a')
    config = folder / '20261121_150000' / 'vis_data' / 'config.py'
    trace = tmp_path / 'trace'
    code = f'__import__("pathlib").Path({str(trace)!r}).touch()'
    config.write_text(f'{config.read_text()}\n{code}')
    with pytest.raises(UserError, match=r'config.py, line .*more than data.* say --trust'):
        read_run(folder)
    assert not trace.exists()
    with trusting(True):
        assert read_run(folder)
    assert trace.exists()


def test_folders_that_are_no_runs(make_run, tmp_path):
    folder = make_run('maskrcnn')
    with pytest.raises(UserError, match=r"no run '.*maskrcn'; did you mean .*maskrcnn"):
        read_run(tmp_path / 'maskrcn')
    with pytest.raises(UserError, match=r"no run '.*xxx'"):
        read_run(tmp_path / ('x' * 300))
    with pytest.raises(UserError, match=r'has no log of a training .*<time>/vis_data'):
        read_run(tmp_path)
    (folder / '20261121_150000' / 'vis_data' / 'config.py').write_text('model = (')
    with pytest.raises(UserError, match=r"config.py, line 1, is no config: '\(' was never"):
        read_run(folder)
