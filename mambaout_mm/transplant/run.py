"""Try a backbone in one config: `tools/try_config.py CONFIG`."""

import tempfile
from pathlib import Path

from mmengine.config import Config

from mambaout_mm.backbones.base import Network
from mambaout_mm.comparison.catalogue import entries_of
from mambaout_mm.errors import UserError
from mambaout_mm.files import write_text
from mambaout_mm.training.checks import load_config

from .replace import check_inputs, transplant
from .text import base_of, config_path, config_text
from .trial import Trial, try_model


def try_config(config: str, backbone: str = 'MambaOut-T', out: Path | None = None) -> Trial:
    """Put a backbone into a config, print the config to write down, and run a step of it.

    Args:
        config (str): Path of any config of mmdet or mmseg, or its name as in
            'mmdet::detr/detr_r50_8xb2-150e_coco.py'.
        backbone (str): As ``tools/compare.py`` takes it. Defaults to 'MambaOut-T'.
        out (Path, optional): Where to write the config to. Defaults to None: it is printed alone.

    Returns:
        Trial: What the step showed.

    Raises:
        UserError: If the config cannot have the backbone or does not run with it; then the message
            says whether it does with its own.
    """
    network = only_one(backbone)
    path = config_path(config)
    stock = load_config(path)
    text, new = adopt(stock, path, network)
    print(text)
    if out:
        write_text(out, text)
        print(f'written to {out}\n')
    try:
        trial = try_model(new)
    except UserError as error:
        raise UserError(f'{error}. {_with_its_own(stock)}') from error
    print(describe(trial, new))
    return trial


def only_one(backbone: str) -> Network:
    """The network that a name stands for.

    Raises:
        UserError: If it is none, or a preset of several.
    """
    networks = entries_of([backbone])
    if len(networks) > 1:
        raise UserError(f'{backbone!r} is a preset of {len(networks)} backbones; name one')
    return networks[0]


def adopt(stock: Config, path: str, network: Network) -> tuple[str, Config]:
    """A config with another backbone: its text, and what MMEngine reads from that.

    Args:
        stock (Config): What it builds on.
        path (str): Of the stock config.
        network (Network): The backbone.

    Returns:
        tuple[str, Config]: The text to write down, and the config that is read from it.

    Raises:
        UserError: As :func:`.replace.transplant`.
    """
    new, notes = transplant(stock, network)
    text = config_text(stock, new, base_of(path), notes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        file.write_text(text, encoding='utf-8')
        return text, load_config(str(file))


def try_stock(stock: Config) -> Trial:
    """:func:`.trial.try_model` of a config as it is, if its inputs can be made up."""
    check_inputs(stock)
    return try_model(stock)


def _with_its_own(stock: Config) -> str:
    try:
        try_stock(stock)
    except UserError as error:
        return f'So does the config with its own backbone: {error}'
    return 'The config with its own backbone runs: please report this to the maintainers'


def describe(trial: Trial, cfg: Config) -> str:
    """A trial in words.

    Args:
        trial (Trial): What it showed.
        cfg (Config): Whose trial it was.
    """
    lines = [
        f'a loss step with gradients: the loss is {trial.loss:.4g}, on made-up pictures with '
        'random weights',
        f'a prediction of {trial.predictions} pictures',
    ]
    missing = trial.without_gradient
    if missing and not cfg.get('find_unused_parameters'):
        shown = ', '.join(missing[:4]) + (f' and {len(missing) - 4} more' if missing[4:] else '')
        lines.append(
            f'{len(missing)} parameters got no gradient: {shown}. On several GPUs '
            'DistributedDataParallel stops at them: write find_unused_parameters = True, or leave '
            'out what is not used (model.backbone.out_indices)'
        )
    elif not missing:
        lines.append('every parameter got a gradient')
    return '\n'.join(lines)
