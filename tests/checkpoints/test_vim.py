"""Published layouts of Vim and LocalVim load exactly, and everything else raises."""

import pytest
import torch
from support_golden import official_keys

from mambaout_mm import LocalVim, MambaOut, Vim
from mambaout_mm.backbones import vim
from mambaout_mm.checkpoints import CheckpointError

SMALL = dict(depths=(1, 1, 2, 1), dim=16, img_size=64)
FAMILIES = {'Vim': Vim, 'LocalVim': LocalVim}


def official_state(family, arch=SMALL):
    """A classification file's state dict: random, with the classifier's names."""
    torch.manual_seed(1)
    backbone = FAMILIES[family](arch, pyramid=None, output_norm=False)
    state = {
        k: torch.randn_like(v) if v.is_floating_point() else v
        for k, v in backbone.state_dict().items()
    }
    return {
        **state,
        'norm_f.weight': torch.randn(16),
        'head.weight': torch.randn(10, 16),
        'head.bias': torch.randn(10),
    }


def load(family, content, path, **kwargs):
    torch.save(content, path / 'w.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(path / 'w.pth'))
    backbone = FAMILIES[family](**{'arch': SMALL, **kwargs}, init_cfg=init_cfg)
    backbone.init_weights()
    return backbone


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('wrapper', [None, 'model', 'state_dict'])
def test_a_classifier_loads_and_its_pyramid_stays_fresh(family, wrapper, tmp_path):
    official = official_state(family)
    backbone = load(family, {wrapper: official} if wrapper else official, tmp_path)
    _, fresh = backbone.match_checkpoint(official)
    norms = ['norm0', 'norm1', 'norm2'] + ([] if family == 'Vim' else ['norm3'])
    assert fresh == ['fpn1', 'fpn2', *norms]
    for name, tensor in backbone.state_dict().items():
        if name in official:
            assert torch.equal(tensor, official[name]), name
        else:
            assert name.startswith(('norm', 'fpn')), name


@pytest.mark.parametrize('features', ['residual', 'mixer'])
def test_an_own_checkpoint_brings_its_output_norms_and_pyramid(features, tmp_path):
    torch.manual_seed(2)
    trained = Vim(SMALL, features=features)
    for name, param in trained.named_parameters():
        if name.startswith(('norm', 'fpn')):
            torch.nn.init.normal_(param)
    state = {f'backbone.{k}': v for k, v in trained.state_dict().items()}
    backbone = load('Vim', dict(state_dict=state), tmp_path, features=features)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name


@pytest.mark.parametrize(('given', 'wanted'), [('taps', 'last'), ('last', 'taps')])
def test_one_pyramid_s_file_does_not_fit_the_other(given, wanted, tmp_path):
    """BatchNorm's weights would go into a LayerNorm."""
    with pytest.raises(CheckpointError, match=r'keys (missing|unexpected) \(fpn1.1.running_mean'):
        load('Vim', Vim(SMALL, pyramid=given).state_dict(), tmp_path, pyramid=wanted)


def test_layers_that_no_model_has_are_not_left_in_the_file(tmp_path):
    """Numbers of layers are not those of stages."""
    state = {**official_state('Vim'), 'layers.1.dw.0.weight': torch.ones(16, 1, 3, 3)}
    for out_indices in ((0, 1, 2, 3), (0,)):
        if out_indices == (0,):
            state['layers.0.dw.0.weight'] = state.pop('layers.1.dw.0.weight')
        with pytest.raises(CheckpointError, match='1 keys unexpected .layers.[01].dw.0.weight'):
            load('Vim', state, tmp_path, out_indices=out_indices)


@pytest.mark.parametrize(('features', 'taken'), [('residual', True), ('mixer', False)])
def test_the_final_norm_is_the_last_tap_s_where_it_belongs(features, taken, tmp_path):
    official = official_state('Vim')
    backbone = load('Vim', official, tmp_path, features=features)
    assert torch.equal(backbone.norm3.weight, official['norm_f.weight']) == taken
    assert taken or torch.equal(backbone.norm3.weight, torch.ones(16))


def test_without_the_class_token_its_row_in_the_middle_goes(tmp_path):
    """Row 8 of 4 x 4 positions and a class token; the authors' code takes row 0 for it."""
    official = official_state('Vim')
    backbone = load('Vim', official, tmp_path, class_token=False)
    rows = [i for i in range(17) if i != 8]
    assert torch.equal(backbone.pos_embed, official['pos_embed'][:, rows])


def local_vims_dense_file(count):
    """A detector's or segmentor's state dict with that many output norms, and those norms."""
    norms = {f'outnorm_{j}.{k}': torch.randn(16) for j in range(count) for k in ('weight', 'bias')}
    official = official_state('LocalVim')
    kept = {k: v for k, v in official.items() if not k.startswith(('head.', 'norm_f.'))}
    return {f'backbone.{k}': v for k, v in {**kept, **norms}.items()}, norms


# The model's options, and which of its taps each of the file's norms belongs to.
OUTPUT_NORMS = [
    (4, {}, {0: 0, 1: 1, 2: 2, 3: 3}),
    (4, dict(out_indices=(0, 2)), {0: 0, 2: 2}),
    (4, dict(pyramid='last'), {3: 3}),
    (2, dict(out_indices=(1, 3), pyramid=None), {0: 1, 1: 3}),
    (2, dict(out_indices=(1, 3)), {0: 1, 1: 3}),
    (1, dict(pyramid='last'), {0: 3}),
    (1, dict(pyramid='last', out_indices=(0, 1)), {0: 3}),
    (1, dict(out_indices=(3,), pyramid=None), {0: 3}),
]


@pytest.mark.parametrize(('count', 'options', 'taps'), OUTPUT_NORMS)
@pytest.mark.parametrize('loader', ['init_weights', 'load_state_dict'])
def test_local_vims_output_norms_count_positions(count, options, taps, loader, tmp_path):
    """The authors' ``outnorm_{j}`` is of block out_indices[j]: j is a position, no tap."""
    state, norms = local_vims_dense_file(count)
    if loader == 'init_weights':
        backbone = load('LocalVim', dict(state_dict=state), tmp_path, **options)
    else:
        model = torch.nn.Module()
        model.backbone = backbone = LocalVim(SMALL, **options)
        model.load_state_dict(state, strict=False)
    loaded = {n for n, _ in backbone.named_children() if n.startswith('norm')}
    assert loaded == {f'norm{tap}' for tap in taps.values()}
    for j, tap in taps.items():
        for kind in ('weight', 'bias'):
            own = getattr(getattr(backbone, f'norm{tap}'), kind)
            assert torch.equal(own, norms[f'outnorm_{j}.{kind}'])


@pytest.mark.parametrize('loader', ['init_weights', 'load_state_dict'])
@pytest.mark.parametrize(
    ('count', 'options', 'words'),
    [
        (1, {}, r'norms \(outnorm_0\) are those of 1 taps and this model has 4 \(0, 1, 2, 3\), so'),
        (2, dict(pyramid='last'), r'2 taps and this model has 1 \(3\), so which belongs to which'),
        (3, dict(out_indices=(1, 3)), r'3 taps and this model has 2 \(1, 3\)'),
    ],
)
def test_output_norms_that_cannot_be_told_apart_raise(count, options, words, loader, tmp_path):
    state, _ = local_vims_dense_file(count)
    with pytest.raises(CheckpointError, match=words):
        if loader == 'init_weights':
            load('LocalVim', dict(state_dict=state), tmp_path, **options)
        else:
            model = torch.nn.Module()
            model.backbone = LocalVim(SMALL, **options)
            model.load_state_dict(state, strict=False)


def test_output_norms_are_left_in_the_file_where_the_model_has_none(tmp_path):
    state, _ = local_vims_dense_file(1)
    backbone = load('LocalVim', dict(state_dict=state), tmp_path, output_norm=False, pyramid=None)
    assert not [n for n, _ in backbone.named_children() if n.startswith('norm')]


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize(('pyramid', 'built'), [('taps', 2), ('last', 5)])
def test_layers_that_are_not_built_are_left_in_the_file(family, pyramid, built, tmp_path):
    official = official_state(family)
    backbone = load(family, official, tmp_path, out_indices=(0, 1), pyramid=pyramid)
    assert len(backbone.layers) == built
    for name, param in backbone.layers.named_parameters():
        assert torch.equal(param, official[f'layers.{name}'])


@pytest.mark.parametrize('family', FAMILIES)
def test_an_own_checkpoint_comes_back_whole(family):
    backbone, other = FAMILIES[family](SMALL), FAMILIES[family](SMALL)
    other.load_state_dict(backbone.state_dict(), strict=True)
    for a, b in zip(backbone.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (
            lambda s: Vim(dict(SMALL, depths=(1, 1, 1, 1))).state_dict(),
            'it holds a Vim of 4 layers of 16 channels, 17 positions, which does not fit',
        ),
        (lambda s: {**s, 'pos_embed': torch.ones(1, 50, 16)}, r'pos_embed \(1, 50, 16\) in the'),
        (
            lambda s: {k: v for k, v in s.items() if k != 'layers.1.mixer.D_b'},
            r'1 keys missing \(layers.1.mixer.D_b\)',
        ),
        (lambda s: {**s, 'rope.freqs_cos': torch.ones(16, 16)}, 'unexpected .rope.freqs_cos.'),
        (lambda s: {**s, 'pos_embed': torch.ones(17, 16)}, r'pos_embed \(17, 16\) in the file'),
        (lambda s: official_state('LocalVim'), 'no Vim backbone in it'),
        (lambda s: MambaOut('femto').state_dict(), 'no Vim backbone in it'),
    ],
    ids=['depth', 'positions', 'a key missing', 'a key too many', 'flat', 'LocalVim', 'MambaOut'],
)
def test_what_does_not_fit_raises(content, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        load('Vim', content(official_state('Vim')), tmp_path)


def test_patches_that_overlap_do_not_fit(tmp_path):
    """The authors' "+" weights, with 27 x 27 positions and a class token."""
    keys, _ = official_keys('vim_tiny_stride8')
    state = {name: torch.zeros(()).expand(shape) for name, shape in keys['keys'].items()}
    with torch.device('meta'):
        backbone = Vim('tiny')
    with pytest.raises(CheckpointError, match=r'730 positions\b.*pos_embed \(1, 730, 192\) in the'):
        backbone.match_checkpoint(state)


def test_the_class_token_is_part_of_a_variant_s_name(tmp_path):
    keys, _ = official_keys('localvim_tiny_middle_cls_token')
    state = {name: torch.zeros(()).expand(shape) for name, shape in keys['keys'].items()}
    with torch.device('meta'):
        backbone = LocalVim('tiny')
    with pytest.raises(CheckpointError, match='it holds LocalVim tiny_middle_cls_token .20 layers'):
        backbone.match_checkpoint(state)


def test_a_file_of_local_vim_does_not_take_vims(tmp_path):
    with pytest.raises(CheckpointError, match='no LocalVim backbone in it'):
        load('LocalVim', official_state('Vim'), tmp_path)


@pytest.mark.parametrize(
    ('family', 'variant'),
    [
        *(('Vim', variant) for variant in vim.ARCHITECTURES),
        ('LocalVim', 'tiny'),
        ('LocalVim', 'tiny_middle_cls_token'),
    ],
)
def test_a_whole_published_key_list_fits(family, variant):
    keys, _ = official_keys(f'{family.lower()}_{variant}')
    state = {name: torch.zeros(()).expand(shape) for name, shape in keys['keys'].items()}
    with torch.device('meta'):
        backbone = FAMILIES[family](variant, pyramid=None)
    converted = backbone.convert_checkpoint(state)
    missing, unexpected = backbone.load_state_dict(converted, strict=False, assign=True)
    assert unexpected == []
    assert {name.split('.')[0] for name in missing} <= {f'norm{i}' for i in range(4)}
    if family == 'Vim':
        assert backbone.describe_checkpoint(converted).startswith(f'Vim {variant} (24 layers')
