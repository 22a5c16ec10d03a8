"""Published weights into a backbone, or an error: never a model that is silently random."""

import re
from collections.abc import Collection
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor

from mambaout_mm.checkpoints import (
    CheckpointError,
    UnknownLayoutError,
    differences,
    read_checkpoint,
    select,
    unwrap,
)
from mambaout_mm.ops.torch_versions import before_loading


class PublishedWeights(BaseModule):
    """What makes a module take weights in every layout in which they are published.

    Whatever loads a state dict into it, MMEngine's ``load_from`` and resuming included, may bring a
    published layout. A family provides :meth:`convert_checkpoint` and :meth:`describe_checkpoint`.

    Args:
        init_cfg (dict | list[dict], optional): MMEngine's initialisation config. For
            ``type='Pretrained'`` see :meth:`init_weights`. Defaults to None.
    """

    # Published weights, by catalogue name ('vmamba://tiny_s1l8'): their addresses, and of weights
    # that nobody can have the reason; and timm's names of the same weights.
    weights: dict[str, str] = {}
    unpublished_weights: dict[str, str] = {}
    mirrored_weights: dict[str, str] = {}
    # Modules that classification files lack; they keep their initial values.
    fresh_parts = re.compile(r'norm[0-3]')

    depths: tuple[int, ...]
    dims: tuple[int, ...]

    def __init__(self, init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        before_loading(self, _rename_published)

    def convert_checkpoint(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict under this family's names, without the classifier.

        Raises:
            UnknownLayoutError: If ``state_dict`` is not of this family.
            CheckpointError: If it is, and cannot be converted for this model.
        """
        raise NotImplementedError

    def may_be_published(self, names: Collection[str]) -> bool:
        """Whether a state dict with these names can be of a published layout.

        A family whose :meth:`convert_checkpoint` takes long may say no to most state dicts here.
        """
        return True

    def is_unbuilt(self, name: str) -> bool:
        """Whether a parameter belongs to a part of the network that this model does not build."""
        return False

    def rename_published(self, state_dict: dict[str, Tensor], prefix: str = '') -> None:
        """Give a published layout's parameters their names here, in place.

        MMEngine's ``load_from``, resuming and testing thus take the same files as
        :meth:`init_weights`, such as a published detector. Names of an unknown layout stay as they
        are; the loader then complains of them.

        Args:
            state_dict (dict[str, Tensor]): Of the backbone, or of a model that holds it.
            prefix (str): What precedes the backbone's names in it. Defaults to ''.

        Raises:
            CheckpointError: If it is of this family and cannot be converted for this model.
        """
        given = {n.removeprefix(prefix): x for n, x in state_dict.items() if n.startswith(prefix)}
        own = {name for name, _ in self.named_parameters()}
        if not given or own <= given.keys() or not self.may_be_published(given.keys()):
            return
        try:
            renamed = self.convert_checkpoint(given)
        except UnknownLayoutError:
            return
        for name in given:
            del state_dict[f'{prefix}{name}']
        state_dict.update({f'{prefix}{name}': x for name, x in renamed.items()})

    def describe_checkpoint(self, state_dict: dict[str, Tensor]) -> str:
        """What variant a converted state dict belongs to, in words for an error message."""
        raise NotImplementedError

    def load_published(
        self, checkpoint: str, prefix: str | None = None, key: str | None = None
    ) -> None:
        """Load published or own weights: see :meth:`init_weights`.

        Understood are bare state dicts and those under ``state_dict``, ``model`` or ``model_ema``,
        the family's published layouts, and checkpoints of whole detectors or segmentors
        (``backbone.``). Every parameter must be in the file with its shape. Only output norms
        ``norm{i}`` and the levels ``fpn{i}`` of a simple pyramid may be absent, since
        classification files have none; a log line names what stays at its initial value. The
        classifier, output norms that this model does not have, and stages behind the last of
        ``out_indices`` are left out of the file.

        Args:
            checkpoint (str): See :func:`mambaout_mm.checkpoints.read_checkpoint`.
            prefix (str, optional): Take the keys under this prefix. Defaults to None:
                ``backbone.`` where the file has it, else all keys.
            key (str, optional): Take the state dict under this key, such as ``'model_ema'``.
                Defaults to None: the first that the file has of ``state_dict``, ``model`` and
                ``model_ema``.

        Raises:
            CheckpointError: If the file cannot be read, lacks ``key``, holds no backbone of this
                family, or a parameter is missing, unexpected or of another shape. The backbone is
                unchanged then.
        """
        family = type(self).__name__
        try:
            found, wrapper = unwrap(read_checkpoint(checkpoint), key)
            state_dict, fresh = self.match_checkpoint(select(found, prefix))
        except CheckpointError as error:
            raise CheckpointError(f'{family} cannot start from {checkpoint!r}: {error}') from error
        self.load_state_dict(state_dict, strict=False)
        print_log(
            f'{family}: {len(state_dict)} tensors from {checkpoint}'
            + (f" (its '{wrapper}')" if wrapper else '')
            + (f'; fresh: {", ".join(fresh)}' if fresh else ''),
            logger='current',
        )

    def match_checkpoint(
        self, state_dict: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """This model's parameters in a state dict of any layout that the family knows.

        Returns:
            tuple[dict[str, Tensor], list[str]]: The parameters under this model's names; and the
            names of output norms and pyramid levels that the state dict lacks.

        Raises:
            CheckpointError: If it is of no known layout, or anything else is missing, unexpected,
                or of another shape.
        """
        family = type(self).__name__
        try:
            given = self.convert_checkpoint(state_dict)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:  # of tensors' shapes
            raise CheckpointError(
                f'its tensors have not the shapes of a {family}: {error}'
            ) from error
        own = self.state_dict()
        own_parts, given_parts = self._fresh_parts(own), self._fresh_parts(given)
        unused, missing = given_parts - own_parts, own_parts - given_parts
        left_out = {
            name
            for name in given
            if name not in own and (self.fresh_part(name) in unused or self.is_unbuilt(name))
        }
        problems = differences(
            {name: tensor for name, tensor in own.items() if self.fresh_part(name) not in missing},
            {name: tensor for name, tensor in given.items() if name not in left_out},
        )
        if problems:
            try:
                described = self.describe_checkpoint(given)
            except IndexError:
                described = 'tensors of too few dimensions'
            raise CheckpointError(
                f'it holds {described}, which does not fit this model '
                f'of depths {self.depths}, dims {self.dims}: {problems}'
            )
        return {name: x for name, x in given.items() if name in own}, sorted(missing)

    def fresh_part(self, name: str) -> str | None:
        """The part of the network that a parameter belongs to, if files may lack that part."""
        part = name.partition('.')[0]
        return part if self.fresh_parts.fullmatch(part) else None

    def _fresh_parts(self, names: Collection[str]) -> set[str]:
        return {part for part in map(self.fresh_part, names) if part is not None}

    def init_weights(self) -> None:
        """Apply ``init_cfg``; called by MMEngine's Runner before training.

        ``dict(type='Pretrained', checkpoint=...)`` takes a path, a URL or a catalogue name
        (``mambaout://tiny``, ``vmamba://tiny_s1l8``, ``timm://mambaout_tiny.in1k``) and,
        optionally, ``key`` (``'model'`` or ``'model_ema'`` of files that hold both) and ``prefix``
        for files that hold the backbone under an unusual one. It goes through
        :meth:`load_published`, which raises where MMEngine's own loader would log a warning and
        leave the model random.

        Raises:
            CheckpointError: If the checkpoint cannot be read or does not fit.
        """
        if self.is_init:
            return
        configs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        pretrained = [cfg for cfg in configs if cfg['type'] == 'Pretrained']
        whole_init_cfg = self.init_cfg
        self.init_cfg = [cfg for cfg in configs if cfg['type'] != 'Pretrained'] or None
        try:
            super().init_weights()
        finally:
            self.init_cfg = whole_init_cfg
        for cfg in pretrained:
            options: dict[str, Any] = {k: v for k, v in cfg.items() if k != 'type'}
            self.load_published(**options)


def _rename_published(
    backbone: PublishedWeights, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    backbone.rename_published(state_dict, prefix)
