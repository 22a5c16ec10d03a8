"""What a study trains: the candidates' configs, and a task for each candidate and seed."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mambaout_mm.backbones.base import Network
from mambaout_mm.backbones.gated_blocks import in_stages
from mambaout_mm.backbones.mambaout import resolve_arch
from mambaout_mm.comparison.catalogue import build_backbone, entries_of, maps_of
from mambaout_mm.demo import apply_demo
from mambaout_mm.errors import UserError
from mambaout_mm.files import write_text
from mambaout_mm.measure.twins import matched_twin
from mambaout_mm.training.checks import load_config

FROM_PUBLISHED = ('conv', 'conv+ssm')  # start from published weights of MambaOut
PREDICTIONS = 'predictions.npz'


class Candidate(NamedTuple):
    """A network of a study.

    Attributes:
        name (str): In tables, and as a folder.
        config (Path): What is trained.
        note (str): What it costs beside the others, in words.
    """

    name: str
    config: Path
    note: str


class Task(NamedTuple):
    """A training, its test and its predictions.

    Attributes:
        candidate (Candidate): What is trained.
        seed (int): Of weights and data.
        folder (Path): For all that comes of it.
    """

    candidate: Candidate
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """As ``--only`` takes it."""
        return f'{self.candidate.name}/seed{self.seed}'

    @property
    def predictions(self) -> Path:
        """Of the test; where it is, the task is done."""
        return self.folder / PREDICTIONS


def on_demo_data(config: Path, out: Path) -> Path:
    """The config as ``--demo`` of tools/train.py changes it, as a file in the study's folder."""
    cfg = load_config(str(config))
    apply_demo(cfg, out / 'data')
    path = out / 'demo.py'
    text = cfg.pretty_text
    if not path.exists() or path.read_text() != text:
        write_text(path, text)
    return path


def candidates_of_mixers(
    config: Path,
    mixers: Sequence[str],
    stages: Sequence[int],
    scratch: bool,
    size: tuple[int, int],
    out: Path,
) -> list[Candidate]:
    """The config with each token mixer in its MambaOut.

    From random weights every mixer gets the expansion ratio at which it costs what the convolution
    costs. From published weights, which fix the widths, 'conv+ssm' costs more than 'conv', and the
    note says how much.

    Args:
        config (Path): A config whose backbone is MambaOut.
        mixers (Sequence[str]): Out of ``MIXERS``.
        stages (Sequence[int]): Those with the mixer, from 1; the others have convolutions.
        scratch (bool): Start all from random weights.
        size (tuple[int, int]): Height and width at which costs are made equal.
        out (Path): Of the study; configs are written there.

    Raises:
        UserError: If the backbone is another one, or a mixer cannot start as the config does.
    """
    cfg = load_config(str(config))
    backbone = cfg.model.get('backbone') or {}
    if str(backbone.get('type')).split('.')[-1] != 'MambaOut':
        raise UserError(
            f'{config} has the backbone {backbone.get("type")!r}; --mixers exchanges the mixer of '
            'MambaOut: take a config with MambaOut, or name networks by --backbones'
        )
    pretrained = bool(backbone.get('init_cfg'))
    fresh = [mixer for mixer in mixers if mixer not in FROM_PUBLISHED]
    if pretrained and fresh and not scratch:
        raise UserError(
            f'{config} starts from {backbone.init_cfg.get("checkpoint")!r}, and nobody has weights '
            f'for {", ".join(fresh)}: say --scratch to start all of them from random weights, or '
            f'compare {" and ".join(FROM_PUBLISHED)} alone'
        )
    arch = backbone.get('arch', 'tiny')
    numbers = resolve_arch(arch if isinstance(arch, str) else dict(arch))
    candidates = []
    for name in mixers:
        mixer = in_stages(name, stages)
        twin = matched_twin(numbers, mixer, size)
        changes: dict[str, Any] = dict(mixer=mixer)
        if scratch or not pretrained:
            changes['init_cfg'] = None
            if name != 'conv':
                changes['arch'] = dict(numbers, expansion_ratio=twin.expansion_ratio, _delete_=True)
            macs, params = twin.macs, twin.params
        else:
            macs, params = twin.unmatched_macs, twin.unmatched_params
        note = (
            f'{_percent(macs, twin.plain_macs)} MACs, {_percent(params, twin.plain_params)} '
            'parameters of the backbone against conv'
        )
        candidates.append(_write(name, config, changes, note, out))
    return candidates


def candidates_of_backbones(config: Path, names: Sequence[str], out: Path) -> list[Candidate]:
    """The config with each of some backbones, from random weights.

    Args:
        config (Path): A config with an FPN as its neck, or a segmentor's heads on the backbone.
        names (Sequence[str]): As `tools/compare.py` takes them.
        out (Path): Of the study; configs are written there.

    Raises:
        UserError: If a name is unknown, or the config's model is of another kind.
    """
    cfg = load_config(str(config))
    candidates = []
    for entry in entries_of(list(names)):
        channels, _ = maps_of(build_backbone(entry))
        changes = dict(copy.deepcopy(entry.backbone), _delete_=True)
        changes['type'] = f'{entry.scope}.{str(entry.backbone["type"]).split(".")[-1]}'
        model = _widths(cfg, entry, channels) | dict(backbone=changes)
        name = entry.name.replace('/', '-').replace(' ', '_')
        path = _write_config(out / name / 'config.py', config, model)
        candidates.append(Candidate(name, path, 'its own cost; from random weights'))
    return candidates


def _widths(cfg: Config, entry: Network, channels: tuple[int, ...]) -> dict[str, Any]:
    """What behind a backbone depends on its widths."""
    if len(channels) != 4:
        raise UserError(f'{entry.name} gives {len(channels)} maps; a study needs the usual four')
    if cfg.model.get('neck'):
        return dict(neck=dict(in_channels=list(channels)))
    heads = {}
    for name in ('decode_head', 'auxiliary_head'):
        head = cfg.model.get(name)
        if not head:
            continue
        if not isinstance(head, dict) or 'in_index' not in head:
            raise UserError(
                f'model.{name} of the config has no in_index; --backbones cannot fit it'
            )
        index = head['in_index']
        widths = channels[index] if isinstance(index, int) else [channels[i] for i in index]
        heads[name] = dict(in_channels=widths)
    return heads


def _percent(value: int, of: int) -> str:
    return f'{100 * (value / of - 1):+.1f} %'


def _write(name: str, config: Path, changes: dict[str, Any], note: str, out: Path) -> Candidate:
    path = _write_config(out / name / 'config.py', config, dict(backbone=changes))
    return Candidate(name, path, note)


def _write_config(path: Path, base: Path, model: dict[str, Any]) -> Path:
    """A config of MMEngine, unless it is there as it should be."""
    text = (
        f'# Written by tools/study.py.\n_base_ = [{str(base.resolve())!r}]\n\nmodel = {model!r}\n'
    )
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return path


def tasks_of(candidates: Sequence[Candidate], seeds: int, out: Path) -> list[Task]:
    """A task for each candidate and seed; seeds outermost, so that each seed is a whole study."""
    return [
        Task(candidate, seed, out / candidate.name / f'seed{seed}')
        for seed in range(seeds)
        for candidate in candidates
    ]
