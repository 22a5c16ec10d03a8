"""tools/try_config.py, as a user types it."""

import pytest
from mmengine.config import Config

from mambaout_mm.training.parts import check_parts
from mambaout_mm.training.unused_maps import check_distributed
from mambaout_mm.training.values import check_values

FCN = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'


def test_the_config_that_is_written_can_be_trained(run_tool, tmp_path):
    out = tmp_path / 'mine.py'
    code, printed, err = run_tool(
        'try_config.py', FCN, '--backbone', 'MambaOut-Femto', '--out', out
    )
    assert code == 0, err
    assert out.read_text() in printed
    assert 'a prediction of 2 pictures' in printed and 'every parameter got a gradient' in printed
    cfg = Config.fromfile(out)
    check_values(cfg, 'training')
    check_parts(cfg)
    check_distributed(cfg)


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['nowhere.py'], "there is no config 'nowhere.py'"),
        (['mmpose::a.py'], "'mmpose::a.py': configs are mmdet::NAME"),
        ([FCN, '--backbone', 'MambaOut-X'], "'MambaOut-X' is no backbone"),
        ([FCN, '--backbone', 'mmdet.ResNet:depth=18'], 'no backbone of this project'),
        (
            ['mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py'],
            'model.backbone is a TridentResNet: the three branches of its ResNet are the method',
        ),
    ],
)
def test_bad_input(args, words, run_tool):
    code, _, err = run_tool('try_config.py', *args)
    assert code == 1 and 'Traceback' not in err
    assert words in err[err.rindex('error: ') :]


@pytest.mark.parametrize('args', [[], [FCN, '--all', 'mmdet']], ids=['neither', 'both'])
def test_one_config_or_all(args, run_tool):
    assert run_tool('try_config.py', *args)[0] == 2
