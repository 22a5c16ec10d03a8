"""Shared by the tests against official vectors: a golden file, and a published list of keys."""

import json
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / 'data'


def relative_error(value, expected):
    return (value - expected).abs().max().item() / expected.abs().max().item()


class Golden:
    """A file of vectors: its arrays as tensors, its ``config``, the official ``state``."""

    def __init__(self, name):
        arrays = np.load(DATA / f'{name}.npz')
        self.config = json.loads(str(arrays['config']))
        self.arrays = {k: torch.from_numpy(arrays[k]) for k in arrays.files if k != 'config'}
        self.state = {k[6:]: x for k, x in self.arrays.items() if k.startswith('state.')}

    def loss(self, outs, limit):
        """The file's loss, after a look at each output in it."""
        for name, out in outs.items():
            assert relative_error(out, self.arrays[name]) < limit, name
        return sum((out * self.arrays[f'cotangent.{name}']).sum() for name, out in outs.items())

    def check_gradients(self, image, grads, limit):
        """Compare the image's gradient and, by official names, all that the file has."""
        assert relative_error(image.grad, self.arrays['grad_input']) < limit
        for name in (k[5:] for k in self.arrays if k.startswith('grad.')):
            assert relative_error(grads[name], self.arrays[f'grad.{name}']) < limit, name


def official_keys(name):
    """A published file's description, and the names and shapes in it without the head."""
    keys = json.loads((DATA / 'keys' / f'{name}.json').read_text())
    shapes = {k: tuple(v) for k, v in keys['keys'].items() if k not in keys.get('head_keys', ())}
    return keys, shapes
