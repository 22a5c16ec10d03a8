"""Reading data in a run: what goes wrong with a sample is said in one sentence, with its files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dataset import Compose
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mambaout_mm.checkpoints import CheckpointError
from mambaout_mm.data.images import LabelRules, check_shape, image_size, read_label_map
from mambaout_mm.errors import UserError
from mambaout_mm.ops.torch_versions import OutOfMemoryError

# What PyTorch and MMEngine raise of an optimizer's state, schedulers and logs that do not fit.
UNRESUMABLE = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


class NamingPipeline(Compose):
    """A data set's pipeline, whose errors name the files of the sample.

    It runs the same transforms, so samples are the same to the bit. Label maps are looked at as
    soon as they are loaded: in the loss a label without a class ends a training without a name, on
    a GPU without a word that says so, and in the metric it is passed over.

    Args:
        pipeline (Compose): The pipeline as MMEngine has built it.
        rules (LabelRules, optional): Which labels the data set may have. Defaults to None: its
            label maps are not looked at.
    """

    def __init__(self, pipeline: Compose, rules: LabelRules | None = None) -> None:
        self.transforms = pipeline.transforms
        self.rules = rules

    def __call__(self, data: dict) -> dict | None:
        """Transform a sample.

        Raises:
            UserError: If a transform cannot, or the sample's label map does not fit.
        """
        image, labels = data.get('img_path'), data.get('seg_map_path')
        unseen = self.rules is not None and labels is not None
        for transform in self.transforms:
            try:
                data = transform(data)
            except (UserError, MemoryError):
                raise
            except Exception as error:
                if isinstance(error, RuntimeError) and 'memory' in str(error):
                    # explained where the whole run is
                    raise
                raise UserError(_sentence(error, transform, image, labels)) from error
            if data is None:
                return None
            if unseen and 'gt_seg_map' in data:
                unseen = False
                height, width = data.get('ori_shape') or (None, None)
                check_shape(data['gt_seg_map'], (width, height) if width else None, labels)
                self.rules.check_loaded(data['gt_seg_map'], labels)
        return data


def _sentence(error: Exception, transform: Any, image: Any, labels: Any) -> str:
    """What to say of an error in a transform: what is wrong with the files, else its own words."""
    try:
        if isinstance(image, str):
            size = image_size(Path(image))
            if isinstance(labels, str):
                check_shape(read_label_map(Path(labels)), size, labels)
    except UserError as reason:
        return str(reason)
    files = f'image {image}' + (f' with the label map {labels}' if labels else '')
    words = ' '.join(f'{type(error).__name__}: {error}'.split())
    return (
        f'{type(transform).__name__} of the pipeline cannot take the {files}: {words}. '
        '`python tools/prepare_data.py --check CONFIG` lists what is wrong with annotations; else '
        'look at the pipeline in the config'
    )


class NamingRunner(Runner):
    """MMEngine's Runner, which names the files of a sample and the checkpoint that it stops at.

    Each data set that it builds has a :class:`NamingPipeline`.
    """

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As MMEngine's.

        Raises:
            CheckpointError: If what the checkpoint holds beside the weights does not fit.
        """
        try:
            super().resume(filename, *args, **kwargs)
            wrong = _misfits(self.optim_wrapper)
        except OutOfMemoryError:
            raise
        except UNRESUMABLE as error:
            wrong = ' '.join(f'{type(error).__name__}: {error}'.split())
            raise _unresumable(filename, wrong) from error
        if wrong:
            raise _unresumable(filename, wrong)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """As MMEngine's, before its workers start."""
        built = Runner.build_dataloader(dataloader, *args, **kwargs)
        for dataset in _datasets(built.dataset):
            if type(getattr(dataset, 'pipeline', None)) is Compose:
                dataset.pipeline = NamingPipeline(dataset.pipeline, LabelRules.of(dataset))
        return built


def _misfits(wrapper: Any) -> str:
    """The first optimizer state whose shape is not its parameter's; it would be read past its end.

    A wrapper of several optimizers is not looked into.
    """
    optimizer = getattr(wrapper, 'optimizer', None)
    for parameter, state in getattr(optimizer, 'state', {}).items():
        for name, tensor in state.items():
            # Adafactor's, for one, has factors of other shapes
            averaged = name in ('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer')
            if averaged and tensor is not None and tensor.shape != parameter.shape:
                return (
                    f'the optimizer has {name} of shape {tuple(tensor.shape)} for a parameter of '
                    f'shape {tuple(parameter.shape)}'
                )
    return ''


def _unresumable(filename: str, wrong: str) -> CheckpointError:
    return CheckpointError(
        f'the training cannot go on from checkpoint {filename!r}: {wrong}. Give the config that it '
        f'was trained with; or start a training from its weights with --cfg-options '
        f'load_from={filename}, without --resume'
    )


def _datasets(dataset: Any) -> Iterator[Any]:
    """A data set and those that it wraps."""
    yield dataset
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for one in inner:
        if one is not None:
            yield from _datasets(one)


def without_traceback(error: UserError) -> UserError:
    """The sentence of an error that a worker has raised, which PyTorch puts behind its traceback.

    Args:
        error (UserError): As it arrives in the process of the run.

    Returns:
        UserError: The worker's, or ``error`` itself if it comes from no worker.
    """
    text = str(error)
    if not text.startswith('Caught ') or 'Original Traceback' not in text:
        return error
    name = f'{UserError.__module__}.{UserError.__qualname__}: '
    return UserError(text.rpartition(f'\n{name}')[2].strip())
