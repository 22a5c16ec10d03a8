"""Every layout that a user may bring loads exactly, and everything else raises."""

import functools
import hashlib
import http.server
import importlib.util
import io
import json
import logging
import re
import threading
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from safetensors.torch import save_file

from mambaout_mm import MambaOut, checkpoints
from mambaout_mm.backbones import efficientvmamba, localvim, localvmamba, plainmamba, vim
from mambaout_mm.checkpoints import CheckpointError, read_checkpoint, source
from mambaout_mm.checkpoints.catalogue import CATALOGUE, MIRRORS, UNPUBLISHED

SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


def small(**kwargs):
    return MambaOut(SMALL, **kwargs)


def official_state(seed=1):
    """A classification file's state dict: random, with the classifier's keys."""
    torch.manual_seed(seed)
    state = {k: torch.randn_like(v) for k, v in small(output_norm=False).state_dict().items()}
    for name in ('norm.weight', 'norm.bias', 'head.fc1.weight', 'head.norm.weight'):
        state[name] = torch.randn(32)
    return state


def timm_state(official, features_only=False):
    """The same weights under timm's names, written independently of the key map."""
    state = {}
    for name, tensor in official.items():
        parts = name.split('.')
        stage = 'stages_' if features_only else 'stages.'
        if name.startswith('downsample_layers.0.'):
            name = '.'.join(['stem', *parts[2:]])
        elif name.startswith('downsample_layers.'):
            name = '.'.join([f'{stage}{parts[1]}', 'downsample', *parts[2:]])
        elif name.startswith('stages.'):
            name = '.'.join([f'{stage}{parts[1]}', 'blocks', *parts[2:]])
        elif name.startswith('norm.'):
            name = f'head.{name}'
        if not (features_only and name.startswith('head.')):
            state[name] = tensor
    return state


def load(checkpoint, **kwargs):
    backbone = small(**kwargs.pop('model', {}))
    backbone.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), **kwargs)
    backbone.init_weights()
    return backbone


def assert_loaded(backbone, official):
    own = backbone.state_dict()
    compared = [k for k in own if not k.startswith('norm')]
    assert len(compared) > 10
    for name in compared:
        assert torch.equal(own[name], official[name]), name


LAYOUTS = {
    'official': lambda s: s,
    'timm': timm_state,
    'timm features_only': lambda s: timm_state(s, features_only=True),
    'state_dict': lambda s: dict(state_dict=s, meta=dict(epoch=3)),
    'model': lambda s: dict(model=s, optimizer=dict(), epoch=3),
    'model_ema': lambda s: dict(model_ema=s),
    'timm in state_dict': lambda s: dict(state_dict=timm_state(s)),
    'ddp': lambda s: {f'module.{k}': v for k, v in s.items()},
    'detector': lambda s: dict(
        state_dict={
            **{f'backbone.{k}': v for k, v in s.items() if not k.startswith(('norm.', 'head.'))},
            'neck.conv.weight': torch.zeros(3),
        }
    ),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout, tmp_path):
    official = official_state()
    torch.save(LAYOUTS[layout](official), tmp_path / 'weights.pth')
    assert_loaded(load(tmp_path / 'weights.pth'), official)


def test_safetensors(tmp_path):
    official = official_state()
    save_file(timm_state(official), tmp_path / 'model.safetensors')
    assert_loaded(load(tmp_path / 'model.safetensors'), official)


def test_explicit_prefix(tmp_path):
    official = official_state()
    torch.save({f'student.net.{k}': v for k, v in official.items()}, tmp_path / 'w.pth')
    assert_loaded(load(tmp_path / 'w.pth', prefix='student.net.'), official)
    with pytest.raises(CheckpointError, match="no key starts with prefix 'teacher.'"):
        load(tmp_path / 'w.pth', prefix='teacher.')


def test_model_is_taken_before_model_ema_and_the_log_says_so(tmp_path, caplog):
    official, other = official_state(1), official_state(2)
    torch.save(dict(model_ema=other, model=official), tmp_path / 'w.pth')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger=logger.name):
        backbone = load(tmp_path / 'w.pth')
    logger.removeHandler(caplog.handler)
    assert_loaded(backbone, official)
    assert "(its 'model'); fresh: norm0, norm1, norm2, norm3" in caplog.text


def test_a_trained_detector_brings_its_output_norms(tmp_path):
    trained = small()
    for param in trained.parameters():
        param.data.normal_()
    state = {f'backbone.{k}': v for k, v in trained.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'w.pth')
    backbone = load(tmp_path / 'w.pth', model=dict(out_indices=(1, 2)))
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name


def test_stages_that_are_not_built_are_left_in_the_file(tmp_path):
    official = official_state()
    torch.save(official, tmp_path / 'w.pth')
    assert_loaded(load(tmp_path / 'w.pth', model=dict(out_indices=(0, 1))), official)


def test_a_checkpoint_of_mmengines_runner_loads_without_executing_it(tmp_path):
    official = official_state()
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(
        meta=dict(epoch=1, iter=5, seed=1, cfg='a = 1', dataset_meta=dict(classes=('a', 'b'))),
        state_dict={f'backbone.{k}': v for k, v in official.items() if 'head' not in k},
        message_hub=dict(log_scalars={'train/loss': buffer}, runtime_info={}, resumed_keys={}),
        optimizer=dict(state={}, param_groups=[]),
    )
    content['state_dict'].pop('backbone.norm.weight')
    content['state_dict'].pop('backbone.norm.bias')
    torch.save(content, tmp_path / 'epoch_1.pth')
    assert_loaded(load(tmp_path / 'epoch_1.pth'), official)


class Exploit:
    def __reduce__(self):
        return print, ('executed!',)


def test_code_in_a_file_is_not_executed(tmp_path, capsys):
    torch.save(dict(state_dict=official_state(), extra=Exploit()), tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match='holds more than weights .*Save the state dict'):
        load(tmp_path / 'w.pth')
    assert 'executed!' not in capsys.readouterr().out


def missing_one(state):
    return {k: v for k, v in state.items() if k != 'stages.2.1.fc1.weight'}


WRONG = {
    'another variant': (
        lambda s: MambaOut('femto', output_norm=False).state_dict(),
        r'it holds MambaOut femto \(depths \(3, 3, 9, 3\), dims \(48, 96, 192, 288\)\), which does '
        r'not fit this model of depths \(1, 1, 2, 1\)',
    ),
    'a key missing': (missing_one, r'1 keys missing \(stages.2.1.fc1.weight\)'),
    'a key too many': (
        lambda s: {**s, 'stages.2.1.gamma': torch.ones(24)},
        r'1 keys unexpected \(stages.2.1.gamma\)',
    ),
    'another shape': (
        lambda s: {**s, 'stages.0.0.conv.weight': torch.ones(8, 1, 5, 5)},
        r'stages.0.0.conv.weight \(8, 1, 5, 5\) in the file, \(8, 1, 7, 7\) here',
    ),
    'another family': (
        lambda s: timm.create_model('resnet10t').state_dict(),
        'no MambaOut backbone in it',
    ),
    'only a head': (lambda s: {'head.fc1.weight': torch.ones(2)}, 'no MambaOut backbone in it'),
    'no state dict': (lambda s: dict(epoch=3, args='x'), 'no state dict in it; its keys are epoch'),
    'a tensor': (lambda s: torch.ones(3), 'holds a Tensor, not a state dict'),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_does_not_fit_raises_and_changes_nothing(case, tmp_path):
    content, words = WRONG[case]
    torch.save(content(official_state()), tmp_path / 'w.pth')
    backbone = small(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth')))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        backbone.init_weights()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_truncated_file_raises(suffix, tmp_path):
    path = tmp_path / f'w{suffix}'
    if suffix == '.pth':
        torch.save(official_state(), path)
    else:
        save_file(official_state(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match='cannot be read as a checkpoint .* truncated'):
        load(path)


def test_a_file_that_is_something_else_raises(tmp_path):
    with zipfile.ZipFile(tmp_path / 'w.pth', 'w') as archive:
        archive.writestr('hello.txt', 'no weights')
    with pytest.raises(CheckpointError, match='cannot be read as a checkpoint'):
        read_checkpoint(str(tmp_path / 'w.pth'))


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('nowhere/weights.pth', 'there is no checkpoint file /.*nowhere/weights.pth'),
        ('mambaout://tinny', r"'mambaout://tinny' is not in the catalogue .*mambaout://tiny"),
        (
            'timm://mambaout_tinny',
            "timm has no weights 'mambaout_tinny'; did you mean",
        ),
        ('timm://mambaout_tiny.tag', "timm has no weights 'mambaout_tiny.tag'; did you mean"),
        (f'{"a" * 300}.pth', 'there is no checkpoint file'),
        ('a\0.pth', 'there is no checkpoint file'),
        ('~nosuchuser/w.pth', 'there is no checkpoint file'),
        ('http://[', r"'http://\[' is no URL: Invalid IPv6 URL"),
        ('http://127.0.0.1:x/w.pth', 'could not download .*nonnumeric port'),
        (f'http://127.0.0.1:9/{"a" * 300}.pth', 'could not download'),
        ('s3://bucket/w.pth', "cannot load a checkpoint from 's3://bucket/w.pth'"),
    ],
)
def test_names_that_lead_nowhere(name, words):
    with pytest.raises(CheckpointError, match=words):
        load(name)


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    url = 'http://127.0.0.1:9/mambaout_tiny.pth'  # the discard port: nobody listens
    with pytest.raises(CheckpointError, match=r'could not download the pretrained weights http'):
        load(url)
    assert not list(tmp_path.rglob('*.pth'))


@pytest.fixture
def web(tmp_path):
    """A folder, and its address on a web server of this machine."""
    folder = tmp_path / 'web'
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_a_checksum_in_the_name_is_checked(web, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder, address = web
    torch.save(official_state(), folder / 'w.pth')
    content = (folder / 'w.pth').read_bytes()
    checksum = hashlib.sha256(content).hexdigest()[:8]
    for name in (f'w-{checksum}', 'w-0a0b0c0d', 'w-20261127', 'w-tiny'):
        (folder / f'{name}.pth').write_bytes(content)
    for name in (f'w-{checksum}', 'w-20261127', 'w-tiny'):
        assert read_checkpoint(f'{address}/{name}.pth').keys() == official_state().keys()
    with pytest.raises(CheckpointError, match=r'could not download .* invalid hash value'):
        read_checkpoint(f'{address}/w-0a0b0c0d.pth')


def test_the_sentence_names_a_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setitem(CATALOGUE, 'mambaout://tiny', 'http://127.0.0.1:9/mambaout_tiny.pth')
    with pytest.raises(CheckpointError, match='timm://mambaout_tiny.in1k has the same weights'):
        read_checkpoint('mambaout://tiny')


def test_mirrors_are_there():
    assert {name.removeprefix('timm://') for name in MIRRORS.values()} <= set(
        timm.list_models(pretrained=True)
    )


def test_no_network_for_timm(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise OSError('the hub does not answer')

    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', fail)
    with pytest.raises(CheckpointError, match='timm could not fetch .* the hub does not answer'):
        load('timm://mambaout_femto.in1k')


def test_timm_name_goes_through_timms_own_loader(monkeypatch):
    """The hub's answer replaced by random weights; timm's loader and our key map are real."""
    torch.manual_seed(0)
    published = timm.create_model('mambaout_femto').state_dict()
    published = {k: torch.randn_like(v) for k, v in published.items()}
    monkeypatch.setattr(
        'timm.models._builder.load_state_dict_from_hf', lambda *a, **k: dict(published)
    )
    backbone = MambaOut(
        'femto', init_cfg=dict(type='Pretrained', checkpoint='timm://mambaout_femto.in1k')
    )
    backbone.init_weights()
    key = 'stages.2.8.fc2.weight'
    assert torch.equal(backbone.state_dict()[key], published['stages.2.blocks.8.fc2.weight'])


def test_url_is_downloaded_once_into_the_hub_cache(tmp_path, monkeypatch):
    official = official_state()
    buffer = io.BytesIO()
    torch.save(official, buffer)
    calls = []

    def download(url, path, checksum):
        calls.append(url)
        with open(path, 'wb') as file:
            file.write(buffer.getvalue())

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    monkeypatch.setitem(CATALOGUE, 'mambaout://small8', 'https://example.org/small8.pth')
    for _ in range(2):
        assert_loaded(load('mambaout://small8'), official)
    assert calls == ['https://example.org/small8.pth']
    assert (tmp_path / 'hub' / 'checkpoints' / 'small8.pth').is_file()


def test_urls_that_end_alike_are_kept_apart(tmp_path, monkeypatch):
    contents = {'https://a.org/model.safetensors': 1, 'https://b.org/model.safetensors': 2}
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(
        torch.hub,
        'download_url_to_file',
        lambda url, path, checksum: save_file(timm_state(official_state(contents[url])), path),
    )
    for url, seed in contents.items():
        assert_loaded(load(url), official_state(seed))


@pytest.mark.parametrize('old', [b'numpy.core', b'numpy._core'])
def test_runner_checkpoints_of_either_numpy(old, tmp_path):
    official = official_state()
    state = {k: v for k, v in official.items() if not k.startswith(('norm.', 'head.'))}
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(state_dict=state, message_hub=dict(log_scalars=dict(loss=buffer)))
    torch.save(content, tmp_path / 'w.pth')
    with (
        zipfile.ZipFile(tmp_path / 'w.pth') as archive,
        zipfile.ZipFile(tmp_path / 'o.pth', 'w') as other,
    ):
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith('data.pkl'):
                data = re.sub(rb'numpy\._?core', old, data)
                assert old in data
            other.writestr(name, data)
    assert_loaded(load(tmp_path / 'o.pth'), official)


@pytest.mark.parametrize('core', [types.ModuleType('numpy._core'), None])
def test_numpys_private_modules_are_not_needed(core, monkeypatch):
    """1.26 has a ``numpy._core`` that lacks ``multiarray``, or none until somebody imports it."""
    monkeypatch.setattr(np, '_core', core)
    if core is None:
        monkeypatch.delattr(np, '_core')
    spec = importlib.util.spec_from_file_location('mambaout_mm.checkpoints.copy', source.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    names = {entry[1] for entry in copy.RUNNER_GLOBALS if isinstance(entry, tuple)}
    assert names == {'builtins.getattr'} | {
        f'numpy.{module}.multiarray.{function}'
        for module in ('core', '_core')
        for function in ('_reconstruct', 'scalar')
    }


def test_catalogue_has_the_published_files():
    mambaout = 'https://github.com/yuweihao/MambaOut/releases/download/model'
    vmamba = 'https://github.com/MzeroMiko/VMamba/releases/download'
    expected = {
        f'mambaout://{variant}': f'{mambaout}/mambaout_{variant}.pth'
        for variant in ('femto', 'kobe', 'tiny', 'small', 'base')
    }
    for path in (Path(__file__).parents[1] / 'data' / 'keys').glob('vmamba_*.json'):
        variant = path.stem.removeprefix('vmamba_')
        release = '%23v2cls'
        if variant.startswith('v0_'):
            variant, release = f'{variant[3:]}_v0', '%23v0cls'
        file = json.loads(path.read_text())['official']['released_checkpoint']
        expected[f'vmamba://{variant}'] = f'{vmamba}/{release}/{file}'
    families = ('mambaout://', 'vmamba://')
    assert expected == {n: url for n, url in CATALOGUE.items() if n.startswith(families)}


@pytest.mark.parametrize(
    ('family', 'architectures'),
    [
        ('vim', vim.ARCHITECTURES),
        ('localvim', localvim.ARCHITECTURES),
        ('localvmamba', localvmamba.ARCHITECTURES),
        ('efficientvmamba', efficientvmamba.ARCHITECTURES),
        ('plainmamba', plainmamba.ARCHITECTURES),
    ],
)
def test_every_variant_has_an_address_or_a_reason(family, architectures):
    names = {n for n in {**CATALOGUE, **UNPUBLISHED} if n.startswith(f'{family}://')}
    assert names == {f'{family}://{variant}' for variant in architectures}
    assert not CATALOGUE.keys() & UNPUBLISHED.keys()


def test_weights_that_nobody_can_have_are_named():
    words = r'no weights localvmamba://tiny: its authors never released them .* set init_cfg=None'
    with pytest.raises(CheckpointError, match=words):
        load('localvmamba://tiny')


def test_key_chooses_between_model_and_model_ema(tmp_path):
    model, ema = official_state(1), official_state(2)
    torch.save(dict(model=model, model_ema=ema), tmp_path / 'w.pth')
    assert_loaded(load(tmp_path / 'w.pth', key='model_ema'), ema)
    assert_loaded(load(tmp_path / 'w.pth', key='model'), model)
    with pytest.raises(CheckpointError, match="no state dict under key 'ema'; its keys are model"):
        load(tmp_path / 'w.pth', key='ema')


def test_the_averaged_weights_of_mmengines_hook(tmp_path):
    official = official_state()
    averaged = {f'module.backbone.{k}': v for k, v in official.items() if 'head' not in k}
    content = dict(state_dict={}, ema_state_dict={'steps': torch.tensor(7), **averaged})
    for key in ('module.backbone.norm.weight', 'module.backbone.norm.bias'):
        content['ema_state_dict'].pop(key)
    torch.save(content, tmp_path / 'epoch_1.pth')
    assert_loaded(load(tmp_path / 'epoch_1.pth', key='ema_state_dict'), official)


def holding_itself(state):
    content = {}
    content['state_dict'] = content
    return content


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (holding_itself, "its 'state_dict' holds itself"),
        (lambda s: dict(enumerate(s.values())), 'no state dict in it'),
        (lambda s: {k: x.to('meta') for k, x in s.items()}, 'no plain ones'),
        (lambda s: {k: x.to_sparse() for k, x in s.items()}, 'no plain ones'),
        (lambda s: {k: x.to(torch.complex64) for k, x in s.items()}, 'no plain ones'),
        (
            lambda s: {k: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8) for k, x in s.items()},
            'no plain ones',
        ),
        (lambda s: {k: x.int() for k, x in s.items()}, 'integers in the file'),
        (lambda s: {k: x * float('nan') for k, x in s.items()}, 'no finite numbers'),
        (lambda s: {k: x.flatten()[:0] for k, x in s.items()}, 'tensors of too few dimensions'),
    ],
    ids=['itself', 'numbers', 'meta', 'sparse', 'complex', 'quantised', 'integers', 'nan', 'empty'],
)
def test_tensors_that_are_no_weights(change, words, tmp_path):
    torch.save(change(official_state()), tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / 'w.pth')


def test_half_precision_loads(tmp_path):
    official = {k: x.half() for k, x in official_state().items()}
    torch.save(official, tmp_path / 'w.pth')
    assert_loaded(load(tmp_path / 'w.pth'), {k: x.float() for k, x in official.items()})


@pytest.mark.parametrize('name', ['load_backbone_weights', 'check_backbone'])
def test_functions_that_became_methods_are_named(name):
    with pytest.raises(AttributeError, match=r'has become a method: backbone\.'):
        getattr(checkpoints, name)
