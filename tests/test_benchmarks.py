"What several benchmarks share: a training that is done once, and the classifiers of pictures"
import json
import sys
from pathlib import Path

import pytest
import torch

from diffnb.apps.checkpoints import save
from diffnb.data import Images
from diffnb.denoiser import Denoiser
from diffnb.unet import MLP

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
import common  # noqa: E402
import readers  # noqa: E402


def test_a_training_is_done_once(tmp_path):
    asked = []
    def train(begun):
        asked.append(begun)
        model = Denoiser(MLP(width=8), shape=(2,))
        save(tmp_path/'model.safetensors', model)
        return model, dict(steps=3)
    first, cost = common.train_once(tmp_path, train)
    again, same = common.train_once(tmp_path, train)
    assert asked == [False] and same == cost == json.loads((tmp_path/'done.json').read_text())
    assert again.net.last.weight.equal(first.net.last.weight)
    (tmp_path/'done.json').unlink()
    (tmp_path/'state-00000001.safetensors').touch()
    common.train_once(tmp_path, train)
    assert asked == [False, True]


def squares(n=64):
    "White pictures with a dark half: the left one, or the right one"
    y = torch.arange(n) % 2
    x = torch.full((n, 3, 8, 8), 255, dtype=torch.uint8)
    for half in (0, 1): x[y == half, :, :, 4*half:4*half + 4] = 0
    return Images(x, y, None)


def reader(fname, data, steps):
    torch.manual_seed(0)
    def still(x, g): return x
    return readers.taught(readers.Reader(2, ((8,), (8, 16))), fname, data, steps, 16, still)


def test_a_reader_is_taught_once_and_read_from_its_file(tmp_path):
    net = reader(tmp_path/'kept'/'reader.safetensors', squares(), 5)
    again = reader(tmp_path/'kept'/'reader.safetensors', None, 0)
    assert all(a.equal(b) for a, b in zip(net.parameters(), again.parameters()))
    assert not net.training and readers.in_parts(net.features, squares(6), 4).shape == (6, 16)


def test_moved_pictures_are_parts_of_the_larger_one():
    x = torch.arange(4.).view(1, 1, 2, 2).repeat(50, 1, 1, 1)
    out = readers.moved(x, 1, torch.Generator().manual_seed(0), value=-1.)
    assert out.shape == x.shape and len({tuple(p.flatten().tolist()) for p in out}) == 9
    assert x[0].flatten().tolist() in out.flatten(1).tolist()


@pytest.mark.parametrize('images', [
    squares(5), squares(5).x, squares(5).x.float()/127.5 - 1])
def test_pictures_of_any_kind_are_read_as_numbers_from_minus_one_to_one(images):
    assert readers.in_parts(lambda x: x, images, 2).flatten().unique().tolist() == [-1., 1.]
