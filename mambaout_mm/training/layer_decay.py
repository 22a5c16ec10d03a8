"""Layer-wise learning-rate decay for any backbone that knows its layers' depth."""

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mambaout_mm.errors import near_names

_OPTIONS = ('decay_rate', 'decay_type')
_EMBEDDINGS = ('pos_embed', 'cls_token')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Give the layer of id ``i`` out of ``n`` the learning rate ``lr * decay_rate ** (n - 1 - i)``.

    mmdet's and mmseg's ``LearningRateDecayOptimizerConstructor`` works for ConvNeXt by name, of
    depth 9 or 27; this one asks ``model.backbone.get_layer_depth``. One-dimensional parameters,
    biases, position embeddings and class tokens get no weight decay, as there.

    ``paramwise_cfg`` takes ``decay_rate`` (float) and ``decay_type``: ``'layer_wise'`` (default) or
    ``'stage_wise'``. Unlike mmdet's, the stage-wise form has no jump between the last stage and the
    head, and there is no ``num_layers``: the backbone knows it.

    MambaOut's author used no layer decay in segmentation (yuweihao/MambaOut issue #251).

    Raises:
        ValueError: If ``paramwise_cfg`` has another key, lacks ``decay_rate``, or names an unknown
            ``decay_type``.
        TypeError: If the model's backbone has no ``get_layer_depth``.

    Example:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(decay_rate=0.95, decay_type='layer_wise'))
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        for key in self.paramwise_cfg:
            if key not in _OPTIONS:
                hint = (
                    'it is read from the backbone, leave it out'
                    if key == 'num_layers'
                    else near_names(key, list(_OPTIONS))
                )
                raise ValueError(f'paramwise_cfg of layer decay does not take {key!r}; {hint}')
        if 'decay_rate' not in self.paramwise_cfg:
            raise ValueError('paramwise_cfg of layer decay needs decay_rate, for example 0.95')
        decay_type = self.paramwise_cfg.get('decay_type', 'layer_wise')
        if decay_type not in ('layer_wise', 'stage_wise'):
            raise ValueError(f"decay_type must be 'layer_wise' or 'stage_wise', got {decay_type!r}")

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """Append the parameter groups of ``module``, one for each layer and kind of decay."""
        rate = self.paramwise_cfg['decay_rate']
        stage_wise = self.paramwise_cfg.get('decay_type') == 'stage_wise'
        backbone = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise TypeError(
                f'layer decay needs a model whose backbone has get_layer_depth, as those of '
                f'mambaout_mm do; got {type(backbone).__name__}'
            )

        groups: dict[str, dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer, num_layers = backbone.get_layer_depth(
                name, prefix='backbone.', stage_wise=stage_wise
            )
            decayed = param.ndim > 1 and name.split('.')[-1] not in ('bias', *_EMBEDDINGS)
            group_name = f'layer_{layer}_{"decay" if decayed else "no_decay"}'
            if group_name not in groups:
                scale = rate ** (num_layers - 1 - layer)
                groups[group_name] = dict(
                    params=[],
                    group_name=group_name,
                    lr_scale=scale,
                    lr=scale * self.base_lr,
                    weight_decay=self.base_wd if decayed else 0.0,
                )
            groups[group_name]['params'].append(param)
        for group in groups.values():
            print_log(
                f'{group["group_name"]}: {len(group["params"])} parameters, '
                f'lr x {group["lr_scale"]:.4g}, weight decay {group["weight_decay"]}',
                logger='current',
            )
        params.extend(groups.values())
