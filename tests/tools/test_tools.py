"""The command lines, as a user types them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import mmdet
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as coco_mask
from support import ROOT, two_iterations

from mambaout_mm import MambaOut
from mambaout_mm.demo import apply_demo
from mambaout_mm.ops import native
from mambaout_mm.ops.torch_versions import FUSED_ON_CPU, OutOfMemoryError
from mambaout_mm.training.prediction_files import read_predictions

FEMTO = ROOT / 'configs' / 'detection' / 'maskrcnn_mambaout_femto.py'
UPERNET = ROOT / 'configs' / 'segmentation' / 'upernet_mambaout_femto.py'
UPERNET_VMAMBA = ROOT / 'configs' / 'segmentation' / 'upernet_vmamba_t.py'
KOBE = ROOT / 'configs' / 'detection' / 'maskrcnn_mambaout_kobe.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory, demo_data):
    """Folders of a detector's and a segmentor's demo run of two iterations."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'work_dirs').mkdir()
    (folder / 'work_dirs' / 'demo_data').symlink_to(demo_data)
    for config in (FEMTO, UPERNET):
        command = [sys.executable, ROOT / 'tools' / 'train.py', config, '--demo']
        command += ['--cfg-options', *two_iterations(config)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return {
        'detection': folder / 'work_dirs' / f'{FEMTO.stem}_demo',
        'segmentation': folder / 'work_dirs' / f'{UPERNET.stem}_demo',
    }


def config_of(run):
    return next(run.glob('*_mambaout_*.py'))


def failed_cleanly(result, *words):
    """Exit code 1, one message with the words, no traceback."""
    code, _, err = result
    message = err[err.rindex('error: ') :]
    assert code == 1
    assert 'Traceback' not in err
    for word in words:
        assert str(word) in message, message


def test_train_without_the_data_set(run_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_tool('train.py', FEMTO)
    failed_cleanly(result, tmp_path / 'data/coco/train2017', 'prepare_data.py coco', '--demo')


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['configs/nowhere.py'], ['there is no config']),
        ([FEMTO, '--demo', '--amp'], ['--amp needs an accelerator']),
        (['a' * 5000], ['there is no config']),
        ([FEMTO, '--demo', '--resume', ''], ['--resume names no checkpoint']),
        ([FEMTO, '--demo', '--cfg-options', 'model.bakbone.arch=tiny'], ['did you mean']),
        (
            [FEMTO, '--demo', '--cfg-options', 'load_from=nowhere.pth'],
            ['there is no checkpoint file', 'nowhere.pth'],
        ),
        (
            [FEMTO, '--demo', '--cfg-options', 'model.backbone.arch=tinny'],
            ["unknown MambaOut arch 'tinny'; known: femto"],
        ),
        (
            [FEMTO, '--demo', '--cfg-options', 'model.roi_head.mask_head.num_classes=80'],
            ['mask_head.num_classes is 80, but the data set has 3'],
        ),
    ],
    ids=lambda value: '' if isinstance(value[0], Path) else value[0][:30],
)
def test_train_with_bad_input(args, words, run_tool, workspace):
    if '--amp' in args and torch.cuda.is_available():
        pytest.skip('this machine can train in mixed precision')
    failed_cleanly(run_tool('train.py', *args), *words)


@pytest.mark.parametrize(
    ('checkpoint', 'words'),
    [
        ('mambaout://tinny', "'mambaout://tinny' is not in the catalogue"),
        ('http://127.0.0.1:9/mambaout_femto.pth', 'could not download the pretrained weights'),
        ('{other}', 'it holds MambaOut kobe'),
    ],
)
def test_train_with_weights_that_cannot_be_had(checkpoint, words, run_tool, workspace, demo_data):
    torch.save(MambaOut('kobe').state_dict(), 'kobe.pth')
    cfg = Config.fromfile(FEMTO)
    apply_demo(cfg, demo_data)
    checkpoint = checkpoint.format(other='kobe.pth')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    cfg.dump('config.py')
    failed_cleanly(run_tool('train.py', 'config.py'), words)


def test_out_of_memory_says_what_to_lower(run_tool, workspace, monkeypatch):
    def fail(*args, **kwargs):
        raise OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    monkeypatch.setattr('mmengine.runner.Runner.train', fail)
    result = run_tool('train.py', FEMTO, '--demo')
    failed_cleanly(result, 'out of memory', 'batch_size (now 4)', 'with_cp=True', '--amp')


def test_other_errors_say_where_their_traceback_is(run_tool, workspace, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('a bug')

    monkeypatch.setattr('mmengine.runner.Runner.train', fail)
    result = run_tool('train.py', FEMTO, '--demo')
    failed_cleanly(result, 'unexpected', 'RuntimeError: a bug', 'The traceback is in')
    with pytest.raises(RuntimeError, match='a bug'):
        run_tool('train.py', FEMTO, '--demo', '--debug')


def test_a_value_that_a_library_stops_at(run_tool, workspace):
    options = [*two_iterations(FEMTO), 'model.train_cfg.rpn.assigner.pos_iou_thr=much']
    args = [FEMTO, '--demo', '--cfg-options', *options]
    words = ['mmdet stops in ', 'TypeError', 'Look at what --cfg-options changed', 'pos_iou_thr']
    failed_cleanly(run_tool('train.py', *args), *words)
    _, _, err = run_tool('train.py', *args, '--debug')
    assert 'Traceback (most recent call last)' in err


@pytest.mark.parametrize(
    'text', ["default_scope = 'mmdet'", 'model = 5', 'model = dict(backbone=1)']
)
def test_the_demo_of_a_config_without_the_parts(text, run_tool, workspace):
    Path('config.py').write_text(text)
    result = run_tool('train.py', 'config.py', '--demo')
    failed_cleanly(result, '--demo cannot put its data and schedule into config.py', '_base_')


def test_no_image_left(run_tool, workspace, demo_data):
    cfg = Config.fromfile(FEMTO)
    apply_demo(cfg, demo_data)
    source = Path(cfg.val_evaluator.ann_file).with_name('instances_train.json')
    content = json.loads(source.read_text())
    Path('empty.json').write_text(json.dumps(dict(content, annotations=[])))
    dataset = cfg.train_dataloader.dataset
    dataset.update(ann_file=str(Path('empty.json').absolute()))
    dataset.filter_cfg = dict(filter_empty_gt=True)
    cfg.dump('config.py')
    failed_cleanly(run_tool('train.py', 'config.py'), 'has no image left', 'filter_cfg')


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_evaluates_a_checkpoint(task, trained, run_tool, workspace):
    run = trained[task]
    args = [config_of(run), run / 'iter_2.pth', '--work-dir', workspace / 'test']
    args += ['--out', workspace / 'predictions.npz', '--show-dir', 'pictures']
    args += ['--cfg-options', 'test_dataloader.dataset.indices=2']
    code, out, err = run_tool('test.py', *args)
    assert code == 0, err
    assert ('coco/bbox_mAP' if task == 'detection' else 'mIoU') in out + err
    assert read_predictions(workspace / 'predictions.npz')
    assert len(list(Path('pictures').rglob('*.png'))) == 2


@pytest.mark.slow
def test_multi_scale_test_of_a_segmentor(run_tool, trained, workspace):
    run = trained['segmentation']
    args = [config_of(run), run / 'iter_2.pth', '--work-dir', workspace / 'test', '--tta']
    code, out, err = run_tool(
        'test.py', *args, '--cfg-options', 'test_dataloader.dataset.indices=1'
    )
    assert code == 0, err
    assert 'mIoU' in out + err


def test_test_refuses_what_does_not_fit(run_tool, trained, workspace):
    run = trained['detection']
    checkpoint = run / 'iter_2.pth'
    result = run_tool('test.py', config_of(run), run / 'iter_9.pth')
    failed_cleanly(result, 'there is no checkpoint file')
    result = run_tool('test.py', config_of(run), checkpoint, '--tta')
    failed_cleanly(result, '--tta needs tta_model')
    result = run_tool('test.py', config_of(run), checkpoint, '--out', 'predictions.json')
    failed_cleanly(result, 'must end in .npz or .pkl')
    result = run_tool('test.py', config_of(run), checkpoint, '--out', '')
    failed_cleanly(result, 'must end in .npz or .pkl')
    result = run_tool('test.py', config_of(run), checkpoint, '--out', f'{"a" * 300}.npz')
    failed_cleanly(result, 'the name of --out is longer than 255 bytes')
    Path('file').touch()
    result = run_tool('test.py', config_of(run), checkpoint, '--out', 'file/predictions.npz')
    failed_cleanly(result, "the folder of --out 'file' cannot be used")
    options = ['model.backbone.arch=kobe']
    result = run_tool('test.py', config_of(run), checkpoint, '--cfg-options', *options)
    failed_cleanly(result, 'belongs to another model than this config')


def test_resume_and_fine_tuning_refuse_another_variant(run_tool, trained, workspace):
    checkpoint = trained['detection'] / 'iter_2.pth'
    result = run_tool('train.py', KOBE, '--demo', '--resume', checkpoint)
    failed_cleanly(result, 'belongs to another model than this config')
    result = run_tool('train.py', KOBE, '--demo', '--cfg-options', f'load_from={checkpoint}')
    failed_cleanly(result, 'another backbone than this config', 'it holds MambaOut femto')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('part', 'words'),
    [
        (dict(optimizer=dict(state={}, param_groups=[])), 'different number of parameter groups'),
        (dict(param_schedulers=None), 'TypeError'),
        (dict(message_hub={}), 'must contain key'),
        ('shapes', 'the optimizer has exp_avg of shape'),
    ],
    ids=['groups', 'schedulers', 'hub', 'shapes'],
)
def test_resume_refuses_other_parts(part, words, run_tool, trained, workspace):
    content = torch.load(trained['detection'] / 'iter_2.pth', weights_only=False)
    if part == 'shapes':
        for state in content['optimizer']['state'].values():
            state.update(exp_avg=torch.zeros(7))
    else:
        content.update(part)
    torch.save(content, 'odd.pth')
    options = [*two_iterations(FEMTO), 'train_cfg.max_iters=3']
    args = [FEMTO, '--demo', '--resume', 'odd.pth', '--cfg-options', *options]
    failed_cleanly(run_tool('train.py', *args), 'cannot go on from checkpoint', words)


def test_the_log_says_which_c_kernels_run(trained):
    if torch.cuda.is_available():
        pytest.skip('C kernels are for CPUs')
    for run in trained.values():
        log = (run / 'output.log').read_text()
        assert log.count(f' - INFO - C kernels: {native.description()}\n') == 1


def test_a_wrong_switch_of_c_kernels_stops_a_training(run_tool, workspace, monkeypatch):
    monkeypatch.setenv('MAMBAOUT_MM_NATIVE', 'no')
    native._choose.cache_clear()
    result = run_tool('train.py', FEMTO, '--demo', '--cfg-options', *two_iterations(FEMTO))
    failed_cleanly(result, 'MAMBAOUT_MM_NATIVE must be "on" or "off", got \'no\'')


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_training(run_tool, workspace):
    options = [*two_iterations(UPERNET), 'optim_wrapper.optimizer.lr=1e9', 'param_scheduler=None']
    result = run_tool('train.py', UPERNET, '--demo', '--cfg-options', *options)
    failed_cleanly(result, 'the loss is ', ' since iteration ', 'lower the learning rate')


def test_resuming_by_an_option_checks_that_the_checkpoint_fits(run_tool, trained, workspace):
    run = shutil.copytree(trained['detection'], workspace / 'run')
    args = ['--work-dir', run, '--cfg-options', 'resume=True']
    failed_cleanly(run_tool('train.py', KOBE, '--demo', *args), 'belongs to another model')


@pytest.mark.slow
def test_resume_goes_on_from_the_latest(run_tool, trained, workspace):
    run = shutil.copytree(trained['detection'], workspace / 'run')
    options = [*two_iterations(FEMTO), 'train_cfg.max_iters=3', 'train_cfg.val_interval=3']
    args = ['--demo', '--work-dir', run, '--resume', '--cfg-options', *options]
    code, _, err = run_tool('train.py', FEMTO, *args)
    assert code == 0, err
    log = (run / 'output.log').read_text()
    assert 'Iter(train) [3/3]' in log
    assert 'Iter(train) [2/3]' not in log


def test_infers_with_a_detector(run_tool, trained, workspace, demo_data):
    pictures = sorted(demo_data.glob('*/images/val/*.png'))[:2]
    (workspace / 'folder').mkdir()
    wide = cv2.resize(cv2.imread(str(pictures[1])), (300, 200))
    cv2.imwrite(str(workspace / 'folder' / 'wide.jpg'), wide)
    checkpoint = trained['detection'] / 'iter_2.pth'
    code, out, err = run_tool(
        'infer.py', pictures[0], 'folder', '--checkpoint', checkpoint, '--score-thr', '0'
    )
    assert code == 0, err
    assert '2 pictures with predictions in outputs/overlays' in out
    assert cv2.imread('outputs/overlays/wide.png').shape == (200, 300, 3)
    content = json.loads(Path('outputs/predictions/wide.json').read_text())
    assert content['image'] == 'folder/wide.jpg'
    assert content['objects']
    for entry in content['objects']:
        assert entry['name'] in ('circle', 'square', 'triangle')
        assert coco_mask.decode(entry['mask']).shape == (200, 300)
        x1, y1, x2, y2 = entry['box']
        assert 0 <= x1 <= x2 <= 300 and 0 <= y1 <= y2 <= 200


def test_infers_with_a_segmentor(run_tool, trained, workspace, demo_data):
    checkpoint = trained['segmentation'] / 'iter_2.pth'
    pattern = f'{demo_data}/*/images/val/000[01].png'
    code, _, err = run_tool('infer.py', pattern, '--checkpoint', checkpoint, '--out-dir', 'out')
    assert code == 0, err
    for name in ('0000', '0001'):
        content = json.loads(Path(f'out/predictions/{name}.json').read_text())
        assert sum(s['share'] for s in content['segments']) == pytest.approx(1, abs=1e-3)
        labels = cv2.imread(f'out/predictions/{content["label_map"]}', cv2.IMREAD_GRAYSCALE)
        assert {s['label'] for s in content['segments']} == set(np.unique(labels).tolist())
        assert cv2.imread(f'out/overlays/{name}.png').shape == (*labels.shape, 3)


def test_infer_with_bad_input(run_tool, trained, workspace):
    checkpoint = trained['detection'] / 'iter_2.pth'
    failed_cleanly(run_tool('infer.py', 'nothing/', '--checkpoint', checkpoint), 'no picture at')
    result = run_tool('infer.py', 'x.png', '--checkpoint', checkpoint)
    failed_cleanly(result, "no picture at 'x.png'")
    failed_cleanly(run_tool('infer.py', '', '--checkpoint', checkpoint), "no picture at ''")
    Path('outputs').mkdir()
    Path('outputs/earlier.png').write_text('')
    result = run_tool('infer.py', 'outputs', '--checkpoint', checkpoint)
    failed_cleanly(result, "all pictures lie in 'outputs' itself; choose another --out-dir")
    Path('broken.png').write_text('no picture')
    result = run_tool('infer.py', 'broken.png', '--checkpoint', checkpoint)
    failed_cleanly(
        result, '1 of 1 pictures have no prediction', 'broken.png (it cannot be read as a picture)'
    )
    torch.save(torch.load(checkpoint, weights_only=False)['state_dict'], 'bare.pth')
    result = run_tool('infer.py', 'broken.png', '--checkpoint', 'bare.pth')
    failed_cleanly(result, 'has no config inside; name it with --config')


def test_infers_what_it_can_and_loses_no_result(run_tool, trained, workspace, demo_data):
    picture = next(demo_data.glob('*/images/val/0000.png')).read_bytes()
    broken = ['cut.png', 'empty.png', 'thin.png']
    # Names whose parts meet in one, and a name in Latin-1, of which OpenCV dies
    good = ['x_y/z.png', 'x/y_z.png', 'b/z.png', 'caf\udce9.png']
    for name in (*broken, *good):
        Path('in', name).parent.mkdir(parents=True, exist_ok=True)
        Path('in', name).write_bytes(picture)
    Path('in/cut.png').write_bytes(picture[:50])
    Path('in/empty.png').write_bytes(b'')
    cv2.imwrite('in/thin.png', np.zeros((1, 60000, 3), np.uint8))
    checkpoint = trained['segmentation'] / 'iter_2.pth'
    code, out, err = run_tool('infer.py', 'in', '--checkpoint', checkpoint, '--out-dir', 'out')
    assert code == 1
    assert 'Traceback' not in out + err
    assert f'of {len(good) + len(broken)} pictures have no prediction' in err
    for name in ('in/cut.png (', 'in/empty.png ('):
        assert name in err
    for name in good:
        assert Path('out/overlays', f'{name}.png').stat().st_size > 0
        content = json.loads(Path('out/predictions', f'{name}.json').read_text())
        assert content['image'] == f'in/{name}'
        assert Path('out/predictions', name).with_name(content['label_map']).exists()


def test_infers_with_a_bare_state_dict_and_a_config(run_tool, trained, workspace, demo_data):
    run = trained['detection']
    torch.save(torch.load(run / 'iter_2.pth', weights_only=False)['state_dict'], 'bare.pth')
    picture = next(demo_data.glob('*/images/val/0000.png'))
    args = [picture, '--checkpoint', 'bare.pth', '--config', config_of(run), '--score-thr', '0']
    code, _, err = run_tool('infer.py', *args)
    assert code == 0, err
    objects = json.loads(Path('outputs/predictions/0000.json').read_text())['objects']
    assert {entry['name'] for entry in objects} <= {'circle', 'square', 'triangle'}


def run_two_processes(config, *args, **env):
    """dist_train.sh on CPUs: torchrun and gloo."""
    command = [ROOT / 'tools' / 'dist_train.sh', config, '2', *args, '--cfg-options']
    command += [*two_iterations(config), 'val_dataloader.dataset.indices=3']
    with socket.socket() as free:  # tests run side by side
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        'MASTER_PORT': str(port),
        'OMP_NUM_THREADS': '1',
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'CUDA_VISIBLE_DEVICES': '-1',
        **env,
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return output


@pytest.mark.slow
@pytest.mark.parametrize('config', [FEMTO, UPERNET_VMAMBA], ids=['detection', 'segmentation'])
def test_two_processes(config, tmp_path, monkeypatch):
    """From nothing, so that both draw the data set at once."""
    monkeypatch.chdir(tmp_path)
    output = run_two_processes(config, '--demo')
    assert output.count('Held-out images') == 1  # the report of one process
    assert output.count('iteration 2 of 2') == 1
    assert Path(f'work_dirs/{config.stem}_demo/iter_2.pth').exists()
    (root,) = Path('work_dirs/demo_data').iterdir()
    assert len(list(root.glob('images/train/*.png'))) == 400


@pytest.mark.slow
def test_two_processes_download_pretrained_weights_once(workspace, demo_data):
    torch.save(MambaOut('femto', output_norm=False).state_dict(), 'femto.pth')
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cfg = Config.fromfile(FEMTO)
    apply_demo(cfg, demo_data)
    url = f'http://127.0.0.1:{server.server_port}/femto.pth'
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=url)
    cfg.dump('config.py')
    output = run_two_processes('config.py', TORCH_HOME=str(workspace / 'torch'))
    server.shutdown()
    assert 'Iter(train) [2/2]' in output
    assert requests == ['/femto.pth']
    assert 'fresh: norm0, norm1, norm2, norm3' in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'package'), [(FEMTO, mmdet), (UPERNET, mmseg)], ids=['mmdet', 'mmseg']
)
def test_mmdets_and_mmsegs_own_train_py_take_our_configs(config, package, workspace, demo_data):
    cfg = Config.fromfile(config)
    apply_demo(cfg, demo_data)
    cfg.merge_from_dict(
        {k: int(v) for k, v in (option.split('=') for option in two_iterations(config))}
    )
    # `tools/train.py` does it itself; elsewhere it is an option to set: docs/environments.md
    cfg.optim_wrapper.optimizer.fused = FUSED_ON_CPU
    cfg.dump('config.py')
    tool = Path(package.__file__).parent / '.mim' / 'tools' / 'train.py'
    done = subprocess.run(
        [sys.executable, tool, 'config.py', '--work-dir', 'run'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'Iter(train) [2/2]' in done.stdout + done.stderr
