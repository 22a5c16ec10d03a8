"""Images of curves and their labels."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from mambaout_mm.probe import curves
from mambaout_mm.probe.curves import IGNORED, MARKED, OTHER, Curves, NoRoom, arrange, draw


def drawn(seed, size, distance, distractors):
    return draw(arrange(np.random.default_rng(seed), size, distance, distractors), size)


@pytest.mark.parametrize('distance', [0.25, 0.5, 1.0])
def test_all_curves_are_as_long_as_asked_for_and_apart(distance, monkeypatch):
    monkeypatch.setattr(curves, 'GAP', 0)  # so that a curve is one piece
    _, label = drawn(3, 128, distance, 2)
    pieces, count = ndimage.label(label != 0, np.ones((3, 3)))
    assert count == 3
    for piece in range(1, count + 1):
        rows, columns = np.nonzero(pieces == piece)
        extent = np.hypot(np.ptp(rows), np.ptp(columns))
        assert 0.6 * distance * 128 < extent < 1.1 * distance * 128 + 5


def test_the_mark_is_at_the_marked_curves_end():
    image, label = drawn(0, 128, 0.5, 3)
    red = (image == (255, 0, 0)).all(-1)
    assert (label[red] == IGNORED).all() and red.sum() == (label == IGNORED).sum()
    middle = np.argwhere(red).mean(0)
    to_marked = np.linalg.norm(np.argwhere(label == MARKED) - middle, axis=1)
    assert to_marked.min() < 2 * curves.MARK_RADIUS + curves.GAP
    to_others = np.linalg.norm(np.argwhere(label == OTHER) - middle, axis=1)
    assert to_others.min() > curves.MARK_RADIUS


def test_nothing_but_the_mark_tells_the_marked_curve():
    """Without the mark, both kinds have the same numbers of pixels and colours."""
    counts = np.zeros(2)
    for seed in range(30):
        image, label = drawn(seed, 96, 0.4, 1)
        assert set(map(tuple, image[(label == MARKED) | (label == OTHER)])) == {(255, 255, 255)}
        counts += [(label == MARKED).sum(), (label == OTHER).sum()]
    assert counts[0] / counts[1] == pytest.approx(1, abs=0.15)  # the mark hides some


def test_curves_have_gaps_which_their_thickness_nearly_closes():
    _, label = drawn(1, 128, 1.0, 0)
    _, pieces = ndimage.label(label == MARKED, np.ones((3, 3)))
    assert pieces > 1


def test_an_image_depends_on_its_number_and_the_seed_alone():
    one, two = (Curves(96, (0.25, 0.5), 4, seed=7, distractors=2) for _ in range(2))
    assert torch.equal(one[3]['inputs'], two[3]['inputs'])
    assert torch.equal(one[3]['labels'], two[3]['labels'])
    assert not torch.equal(one[1]['labels'], one[3]['labels'])
    assert [one[i]['distances'] for i in range(4)] == [0, 1, 0, 1]
    other = Curves(96, (0.25, 0.5), 4, seed=8, distractors=2)
    assert not torch.equal(one[3]['labels'], other[3]['labels'])


def test_what_does_not_fit_is_said():
    with pytest.raises(NoRoom, match='40 curves of 0.9 of 64 pixels do not fit'):
        arrange(np.random.default_rng(0), 64, 0.9, 39)
