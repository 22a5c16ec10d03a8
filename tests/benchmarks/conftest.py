"""The scripts of the folder ``benchmarks``, called in this process."""

import csv
import importlib.util
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from support import ROOT


@pytest.fixture
def script(request, tmp_path, monkeypatch):
    """A script as a module, and a function that runs its command line and gives the table's rows.

    The test names the script: ``@pytest.mark.parametrize('script', ['gpu_train'], indirect=True)``.
    """
    name = request.param
    spec = importlib.util.spec_from_file_location(name, ROOT / 'benchmarks' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What a script changes for its whole process
    monkeypatch.setattr(MMLogger, '_instance_dict', type(MMLogger._instance_dict)())
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', torch.backends.cudnn.benchmark)

    def run(*arguments):
        module.main([*map(str, arguments), '--out', str(tmp_path)])
        with open(tmp_path / f'{name}.csv') as file:
            return list(csv.DictReader(file))

    return SimpleNamespace(module=module, run=run)
