"""Settings of `fit` that a notebook does not show: intervals in epochs, previews, another run in
the same folder, names"""
import math

import pytest
import torch

from diffnb.apps import runs
from diffnb.apps.checkpoints import load
from diffnb.apps.generation import generate
from diffnb.apps.runs import fit
from diffnb.data import Images, batches, spiral
from diffnb.denoiser import Denoiser
from diffnb.unet import MLP, UNet

points, quick = spiral(64), dict(steps=12, bs=16, progress=False)


def small():
    torch.manual_seed(0)
    return Denoiser(MLP(width=8, layers=1))


def saved(folder): return [int(f.stem) for f in sorted(folder.glob('checkpoints/*'))]


@pytest.mark.parametrize('said, at', [('1 epoch', [4, 8, 12]), ('2 epochs', [8, 12]),
                                      ('1.5epochs', [6, 12]), ('.01 epochs', [10, 11, 12]),
                                      ('5', [5, 10, 12])])
def test_an_interval_may_be_in_epochs(tmp_path, said, at):
    fit(small(), points, folder=tmp_path, every=dict(save=said), **quick)  # 4 steps are an epoch
    assert saved(tmp_path) == at


@pytest.mark.parametrize('data, said, what', [
    (points, '1 epoc', '2 epochs'), (points, 'epochs', '2 epochs'), (points, '1.5', 'whole number'),
    (None, '1 epoch', 'a stream has no end')])
def test_other_intervals_are_refused(tmp_path, data, said, what):
    if data is None: data = batches(points, 16)
    with pytest.raises(ValueError, match=what):
        fit(small(), data, folder=tmp_path/'run', every=dict(save=said), **quick)
    assert not (tmp_path/'run').exists()


def test_previews_as_they_are_ordered(tmp_path, monkeypatch):
    seen, preview = [], runs.preview
    def watched(model, **how):
        seen.append(how)
        return preview(model, **how)
    monkeypatch.setattr(runs, 'preview', watched)
    fit(small(), points, folder=tmp_path, every=dict(preview=6), previews=dict(n=30, calls=2),
        **quick)
    assert seen == [dict(n=30, calls=2)]*2 and len(list(tmp_path.glob('previews/*.png'))) == 2
    for bad in (dict(n=0), dict(number=3), dict(calls=1.5)):
        with pytest.raises(ValueError, match='previews'):
            fit(small(), points, folder=tmp_path/'x', every=dict(preview=6), previews=bad, **quick)
    with pytest.raises(ValueError, match='previews= has no effect'):
        fit(small(), points, previews=dict(n=3), **quick)


def test_another_run_in_the_same_folder(tmp_path):
    fit(small(), points, folder=tmp_path, config=dict(mine=1), **quick)
    (tmp_path/'notes.txt').write_text('mine')
    before = {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()}
    with pytest.raises(ValueError, match='overwrite=True'):
        fit(small(), points, folder=tmp_path, **quick)
    with pytest.raises(ValueError, match='kind'):
        fit(small(), points, folder=tmp_path, overwrite=True, kind='l3', **quick)
    assert {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()} == before
    fit(small(), points, folder=tmp_path, overwrite=True, **{**quick, 'steps': 3})
    assert load(tmp_path).notes['steps'] == 3 and (tmp_path/'notes.txt').exists()
    assert not (tmp_path/'config.json').exists()
    assert saved(tmp_path) == [1, 2, 3]


def test_clipping_can_be_switched_off():
    never, infinite, usual = (fit(small(), 30*points, clip=c, **quick).state_dict()
                              for c in (None, math.inf, .01))
    assert all(never[k].equal(infinite[k]) for k in never)
    assert any(not never[k].equal(usual[k]) for k in never)


def test_names_of_classes_travel_from_the_data_to_the_samples(tmp_path):
    x = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8,
                      generator=torch.Generator().manual_seed(0))
    data = Images(x, torch.arange(20) % 2, ['cat', 'dog'])
    fit(Denoiser(UNet(1, width=8, mults=(1,), classes=2)), data, steps=2, bs=4, label_dropout=.1,
        folder=tmp_path, progress=False)
    model, how = load(tmp_path), dict(calls=2, seeds=0, progress=False)
    assert model.names == ['cat', 'dog']
    assert generate(model, 2, 'dog', **how).equal(generate(model, 2, 1, **how))
    assert fit(Denoiser(UNet(1, width=8, mults=(1,), classes=3)), data, steps=1, bs=4,
               label_dropout=.1, progress=False).names is None
