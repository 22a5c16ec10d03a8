"""Catalogue names of published files.

``mambaout://<variant>``: the ImageNet-1K classification weights that the authors released
(github.com/yuweihao/MambaOut, release ``model``, Apache-2.0). ``vmamba://<variant>``: likewise
(github.com/MzeroMiko/VMamba, releases ``#v2cls`` and ``#v0cls``, MIT). Neither publishes checksums.
"""

from mambaout_mm.errors import near_names

from .errors import CheckpointError

_MAMBAOUT = 'https://github.com/yuweihao/MambaOut/releases/download/model/mambaout_{}.pth'
_VMAMBA = 'https://github.com/MzeroMiko/VMamba/releases/download/%23{}_ckpt_epoch_{}.pth'

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
}

SCHEMES = tuple({name.split('://')[0] + '://' for name in CATALOGUE})


def resolve(name: str) -> str:
    """The URL behind a catalogue name such as ``mambaout://tiny``.

    Raises:
        CheckpointError: If the catalogue does not have the name.
    """
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
