"""Checkpoints as data without ``weights_only``, as PyTorch before 2.6 needs it."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mambaout_mm.checkpoints import CheckpointError, old_torch
from mambaout_mm.checkpoints.source import RUNNER_GLOBALS


class Reduced:
    """Pickled as the call of a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def saved(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize('zipped', [True, False])
def test_what_a_runner_writes_is_read(zipped, tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = dict(
        state_dict=layer.state_dict(),
        parameter=layer.weight,
        half=torch.ones(2).bfloat16(),
        optimizer=optimizer.state_dict(),
        history=HistoryBuffer([1.0, 2.0], [1, 1]),
        number=np.float64(0.5),
        array=np.arange(3),
        meta=dict(shape=torch.Size([2]), device=torch.device('cpu'), seed=7, name=None),
    )
    read = old_torch.load_data(saved(content, tmp_path / 'a.pth', zipped), RUNNER_GLOBALS)
    assert read['history'].mean() == 1.5
    for key in ('array', 'number', 'meta'):
        np.testing.assert_equal(read[key], content[key])
    for key in ('state_dict', 'parameter', 'half', 'optimizer'):
        torch.testing.assert_close(read[key], content[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    'planted',
    [
        Reduced(print, ('ran',)),
        Reduced(getattr, (HistoryBuffer, '__init__')),
        Reduced(torch.jit.load, ('a.pt',)),
        Reduced(torch.load, ('a.pt',)),
    ],
    ids=['print', 'getattr', 'jit', 'load'],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_planted_code_does_not_run(planted, zipped, tmp_path, capsys):
    path = saved(dict(state_dict={}, planted=planted), tmp_path / 'a.pth', zipped)
    with pytest.raises((pickle.UnpicklingError, CheckpointError), match=r'GLOBAL|it asks for'):
        old_torch.load_data(path, RUNNER_GLOBALS)
    assert 'ran' not in capsys.readouterr().out


BUFFER = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'


@pytest.mark.parametrize(
    'stream',
    [
        BUFFER + b'N}S"mean"\nNs\x86b',  # a change of the class
        b'c__builtin__\ngetattr\n(' + BUFFER + b'S"mean"\ntR' + b')R',  # a call of a method of it
        b'(i' + BUFFER[1:],  # an instance by an old opcode
    ],
    ids=['class', 'method', 'opcode'],
)
def test_other_ways_to_change_or_to_call_are_refused(stream):
    mean = HistoryBuffer.mean
    unpickler = old_torch.restricted(RUNNER_GLOBALS)(io.BytesIO(b'\x80\x02' + stream + b'.'))
    with pytest.raises((pickle.UnpicklingError, KeyError)):
        unpickler.load()
    assert HistoryBuffer.mean is mean


def test_archives_that_hold_code_are_refused(tmp_path):
    torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)).save(str(tmp_path / 'a.pt'))
    with pytest.raises(pickle.UnpicklingError, match='TorchScript archive'):
        old_torch.load_data(tmp_path / 'a.pt', RUNNER_GLOBALS)
    with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
        archive.add(tmp_path / 'a.pt', 'storages')
    with pytest.raises(pickle.UnpicklingError, match='tar archive'):
        old_torch.load_data(tmp_path / 'a.tar', RUNNER_GLOBALS)
