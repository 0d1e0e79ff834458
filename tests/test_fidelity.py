"What torch-fidelity is asked, and what it answers to a network of one's own"
import math
import sys
import urllib.error
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import diffnb.apps.fidelity as module
from diffnb.apps.datasets import save_samples
from diffnb.apps.fidelity import as_bytes, fidelity
from diffnb.data import Images
from diffnb.denoiser import Denoiser
from diffnb.fld import frechet, stats

keys = ('frechet_inception_distance', 'kernel_inception_distance_mean',
        'kernel_inception_distance_std', 'inception_score_mean', 'inception_score_std')


@pytest.fixture
def asked(monkeypatch):
    "A stand-in that remembers what it was asked, and answers 1 to 5"
    seen = {}
    def calculate_metrics(**how):
        seen.update(how)
        return {k: i + 1 for i, k in enumerate(keys)}
    monkeypatch.setitem(sys.modules, 'torch_fidelity',
                        SimpleNamespace(calculate_metrics=calculate_metrics))
    return seen


def pictures(n=5, seed=0, channels=3):
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed))*2 - 1


def test_pictures_become_bytes_in_colour():
    grey = as_bytes(pictures(channels=1))
    assert grey.dtype == torch.uint8 and grey.shape == (5, 3, 8, 8) and grey[:, 0].equal(grey[:, 2])
    colour = torch.tensor([-1., 0., 1.]).view(1, 3, 1, 1)
    assert as_bytes(colour).flatten().tolist() == [0, 128, 255]
    assert as_bytes(Images(grey, None, None)).equal(grey)


def test_what_it_is_asked_and_what_it_says(asked):
    got = fidelity(pictures(5), pictures(7), batch_size=3)
    assert got[:5] == (1, 2, 3, 4, 5) and got.n == 5 and got.extractor == 'inception-v3-compat'
    assert len(asked['input1']) == 5 and asked['input1'][0].dtype == torch.uint8
    assert asked['input2'][6].shape == (3, 8, 8)
    assert asked['kid_subset_size'] == 5 and asked['batch_size'] == 3 and asked['isc']
    assert asked['fid'] and asked['kid']


def test_a_model_draws_the_same_pictures_whatever_the_lot(asked, monkeypatch):
    lots = []
    def generate(model, n, seeds, **how):
        lots.append((n, seeds, how))
        return pictures(n, seeds)
    monkeypatch.setattr(module, 'generate', generate)
    model = Denoiser(nn.Identity(), shape=(3, 8, 8))
    assert fidelity(model, pictures(), n=2300, sampling=dict(calls=50)).n == 2300
    assert lots == [(n, i, dict(progress=False, calls=50))
                    for n, i in ((1000, 0), (1000, 1000), (300, 2000))]


def test_a_folder_and_a_named_set(asked, monkeypatch, tmp_path):
    save_samples(pictures(4), tmp_path/'made')
    def load_data(name, part):
        assert (name, part) == ('cifar10', 'train')
        return Images(as_bytes(pictures(9)), None, None)
    monkeypatch.setattr(module, 'load_data', load_data)
    assert fidelity(tmp_path/'made').n == 4 and asked['input1'] == str(tmp_path/'made')
    assert len(asked['input2']) == 9
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='0 pictures: give two or more'): fidelity(tmp_path/'empty')
    with pytest.raises(ValueError, match='nowhere is no folder'): fidelity('nowhere')


def test_what_is_missing_is_said(asked, monkeypatch):
    def offline(**how): raise urllib.error.URLError('no network')
    monkeypatch.setattr(sys.modules['torch_fidelity'], 'calculate_metrics', offline)
    with pytest.raises(ValueError,
                       match='weights of Inception could not be downloaded.*no network.*weights='):
        fidelity(pictures(), pictures())
    monkeypatch.setitem(sys.modules, 'torch_fidelity', None)
    with pytest.raises(ValueError, match='pip install torch-fidelity'):
        fidelity(pictures(), pictures())


def test_its_distance_is_the_one_of_lesson_11():
    "With a tiny network of our own: the mean colour of 4x4 tiles"
    tf = pytest.importorskip('torch_fidelity', reason='torch-fidelity is not installed')

    def tiles(x): return nn.functional.adaptive_avg_pool2d(x.float()/255, 4).flatten(1)

    class Tiles(tf.FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs): super().__init__(name, features_list)
        @staticmethod
        def get_provided_features_list(): return ('tiles',)
        @staticmethod
        def get_default_feature_layer_for_metric(metric): return 'tiles'
        @staticmethod
        def can_be_compiled(): return False
        def forward(self, x): return (tiles(x),)

    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY as registry
    if 'tiles' not in registry: tf.register_feature_extractor('tiles', Tiles)
    made, real = pictures(200, 1)*.8, pictures(300, 2)
    got = fidelity(made, real, extractor='tiles', cache=False)
    a, b = (stats(tiles(as_bytes(x))) for x in (made, real))
    assert got.fid == pytest.approx(frechet(a.mean, a.cov, b.mean, b.cov), rel=1e-4)
    assert fidelity(real, real, extractor='tiles', cache=False).fid < 1e-6 < got.fid
    assert math.isfinite(got.kid + got.isc)
