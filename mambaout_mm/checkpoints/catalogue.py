"""Catalogue names of published files.

Each ``<family>://<variant>`` is an ImageNet-1K classifier as its authors released it:

* ``mambaout``: github.com/yuweihao/MambaOut, release ``model``, Apache-2.0
* ``vmamba``: github.com/MzeroMiko/VMamba, releases ``#v2cls`` and ``#v0cls``, MIT
* ``vim``: huggingface.co/hustvl, Apache-2.0; those trained at stride 16
* ``localvim``, ``localvmamba``: github.com/hunto/LocalMamba, release ``v1.0.0``, Apache-2.0
* ``efficientvmamba``: huggingface.co/TerryPei, for which its README of 2024-04-16 names Apache-2.0
* ``plainmamba``: huggingface.co/ChenhongyiYang, Apache-2.0
* ``convnext``: github.com/facebookresearch/ConvNeXt, MIT; the last weights, which its authors'
  detectors and segmentors start from. timm's ``fb_in1k`` are their moving average.

None publishes checksums.
"""

from mambaout_mm.errors import near_names

from .errors import CheckpointError

_MAMBAOUT = 'https://github.com/yuweihao/MambaOut/releases/download/model/mambaout_{}.pth'
_VMAMBA = 'https://github.com/MzeroMiko/VMamba/releases/download/%23{}_ckpt_epoch_{}.pth'
_VIM = 'https://huggingface.co/hustvl/Vim-{}-midclstok/resolve/main/vim_{}_midclstok_{}acc.pth'
_LOCAL = 'https://github.com/hunto/LocalMamba/releases/download/v1.0.0/{}.ckpt'
_EFFICIENT = (
    'https://huggingface.co/TerryPei/EfficientVMamba-{}/resolve/main/efficient_vmamba_{}.ckpt'
)
_CONVNEXT = 'https://dl.fbaipublicfiles.com/convnext/convnext_{}_1k_224.pth'
_PLAIN = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/{}.pth'

CATALOGUE: dict[str, str] = {
    **{
        f'mambaout://{variant}': _MAMBAOUT.format(variant)
        for variant in ('femto', 'kobe', 'tiny', 'small', 'base')
    },
    'vmamba://tiny_s1l8': _VMAMBA.format('v2cls/vssm1_tiny_0230s', 264),
    'vmamba://tiny_s2l5': _VMAMBA.format('v2cls/vssm_tiny_0230', 262),
    'vmamba://small_s2l15': _VMAMBA.format('v2cls/vssm_small_0229', 222),
    'vmamba://small_s1l20': _VMAMBA.format('v2cls/vssm1_small_0229s', 240),
    'vmamba://base_s2l15': _VMAMBA.format('v2cls/vssm_base_0229', 237),
    'vmamba://base_s1l20': _VMAMBA.format('v2cls/vssm1_base_0229s', 225),
    'vmamba://tiny_v0': _VMAMBA.format('v0cls/vssmtiny_dp01', 292),
    'vmamba://small_v0': _VMAMBA.format('v0cls/vssmsmall_dp03', 238),
    'vmamba://base_v0': _VMAMBA.format('v0cls/vssmbase_dp06', 241),
    'vim://tiny': _VIM.format('tiny', 't', '76p1'),
    'vim://small': _VIM.format('small', 's', '80p5'),
    'vim://base': _VIM.format('base', 'b', '81p9'),
    'localvim://tiny': _LOCAL.format('local_vim_tiny'),
    'localvim://tiny_middle_cls_token': _LOCAL.format('local_vim_tiny_middle_cls_token'),
    'localvmamba://small': _LOCAL.format('local_vssm_small'),
    **{
        f'efficientvmamba://{variant}': _EFFICIENT.format(variant.capitalize(), variant)
        for variant in ('tiny', 'small', 'base')
    },
    **{f'plainmamba://{variant}': _PLAIN.format(variant) for variant in ('l1', 'l2', 'l3')},
    **{f'convnext://{size}': _CONVNEXT.format(size) for size in ('tiny', 'small', 'base')},
}
# Variants with published results whose weights nobody can have, and why.
UNPUBLISHED = {
    'localvmamba://tiny': 'its authors never released them ("retraining" in their README)',
    'localvim://small': "its authors' link leads to LocalVMamba-S",
}

SCHEMES = tuple({name.split('://')[0] + '://' for name in CATALOGUE})


def resolve(name: str) -> str:
    """The URL behind a catalogue name such as ``mambaout://tiny``.

    Raises:
        CheckpointError: If the catalogue does not have the name.
    """
    if name in UNPUBLISHED:
        raise CheckpointError(
            f'there are no weights {name}: {UNPUBLISHED[name]}. Give the path of your own as '
            'checkpoint, or, to train from random weights on purpose, set init_cfg=None'
        )
    if name not in CATALOGUE:
        raise CheckpointError(
            f'{name!r} is not in the catalogue of checkpoints; {near_names(name, list(CATALOGUE))}'
            + (
                ' (weights of the *_rw variants: timm://mambaout_base_plus_rw and so on)'
                if name.startswith('mambaout://')
                else ''
            )
        )
    return CATALOGUE[name]
