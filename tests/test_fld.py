"""The instrument as a file: it is the one that everybody has, it refuses to be changed, and it
measures what it should"""
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

import diffnb
from diffnb import fld
from diffnb.apps.datasets import load_data
from diffnb.kit.pictures import to_float

shipped = Path(diffnb.__file__).parent/'fld-1.safetensors'
pytestmark = pytest.mark.filterwarnings('ignore:only .* images')


@pytest.fixture(scope='module')
def digits(): return load_data('digits', 'test')


def test_the_shipped_file_is_the_right_one():
    net, refs = fld.evaluator()
    assert sum(p.numel() for p in net.parameters()) == 44_426
    assert {k: r.stats.n for k, r in refs.items()} == {
        'mnist-test': 10_000, 'mnist-train': 60_000, 'digits': 797}
    assert shipped.stat().st_size < 700_000


@pytest.mark.parametrize('where', [100, -1, 200_000])
def test_a_changed_file_is_refused(tmp_path, where):
    changed = bytearray(shipped.read_bytes())
    changed[where] ^= 1
    copy = tmp_path/'fld-1.safetensors'
    copy.write_bytes(changed)
    with pytest.raises(ValueError, match='was changed.*reinstall'): fld.evaluator(copy)


def test_an_unchanged_copy_is_accepted_and_a_missing_one_named(tmp_path):
    copy = Path(shutil.copy(shipped, tmp_path))
    assert fld.evaluator(copy)[1]['digits'].hash == fld._sha[:8]
    with pytest.raises(ValueError, match='nowhere.safetensors cannot be read'):
        fld.evaluator(tmp_path/'nowhere.safetensors')


def test_a_changed_shipped_file_gives_no_number(tmp_path, monkeypatch, digits):
    "The check is on the way of every measurement"
    changed = bytearray(shipped.read_bytes())
    changed[-1] ^= 1
    (tmp_path/'fld-1.safetensors').write_bytes(changed)
    monkeypatch.setattr(fld, '_file', tmp_path/'fld-1.safetensors')
    fld.evaluator.cache_clear()
    try:
        with pytest.raises(ValueError, match='was changed'): fld.FLD('digits')
        with pytest.raises(ValueError, match='was changed'): fld.features(digits)
    finally: fld.evaluator.cache_clear()


def test_distance_to_itself(digits):
    assert fld.FLD('digits')(digits).value < 1e-6
    assert fld.FLD('digits')(to_float(digits.x)).value < 1e-6
    for r in fld.evaluator()[1].values(): assert 0 <= fld.frechet(*r.stats[:2], *r.stats[:2]) < 1e-6


def test_golden_numbers():
    o, i = torch.zeros(3), torch.eye(3)
    assert fld.frechet(o, i, o + 1, i) == pytest.approx(3)
    assert fld.frechet(o, i, o, 4*i) == pytest.approx(3)


def test_distance_is_real_and_finite_for_flat_clouds():
    "Covariances without an inverse, where a general matrix root fails"
    a, b = torch.randn(2, 5, 84, generator=torch.Generator().manual_seed(0))
    d = fld.frechet(*fld.stats(a)[:2], *fld.stats(b)[:2])
    assert 0 < d < float('inf')
    assert d == pytest.approx(fld.frechet(*fld.stats(b)[:2], *fld.stats(a)[:2]))


@pytest.mark.parametrize('change, says', [
    (lambda x: x.x[:84], 'too few'), (lambda x: x.x[:0], 'shape'), (lambda x: x.x[0], 'shape'),
    (lambda x: x.x[..., :5], 'square'), (lambda x: x.x.repeat(1, 2, 1, 1), 'C 1 or 3'),
    (lambda x: x.x.float(), 'values from 0 to 255'), (lambda x: x.x.long(), 'int64'),
    (lambda x: to_float(x.x)*torch.nan, '797 of 797 images hold NaN'),
    (lambda x: x.x.numpy(), 'ndarray')])
def test_what_is_no_picture_is_refused(digits, change, says):
    with pytest.raises(ValueError, match=says): fld.FLD('digits')(change(digits))


def test_images_from_zero_to_one_are_noticed(digits):
    with pytest.warns(UserWarning, match=r'are these images in \[0, 1\]'):
        fld.FLD('digits')(digits.x/255)


def test_the_size_of_a_batch_and_the_number_of_threads_do_not_matter(digits):
    torch.testing.assert_close(fld.features(digits, batch=7), fld.features(digits), rtol=1e-4,
                               atol=1e-4)


def test_the_error_in_percent_is_that_of_the_value(digits):
    score = fld.FLD()(digits)
    further = dataclasses.replace(score, value=score.value + score.se)
    assert score.percent_se == pytest.approx(further.percent - score.percent)
    assert dataclasses.replace(score, floor=None).percent_se is None


def test_scores_of_different_references_do_not_mix(digits):
    a, b = fld.FLD('digits')(digits), fld.FLD('mnist-test')(digits)
    for do in (lambda: a < b, lambda: a >= b, lambda: a - b, lambda: a == b):
        with pytest.raises(ValueError, match='same reference'): do()
    assert a == fld.FLD('digits')(digits) and not a == 0.
    with pytest.raises(ValueError, match='choose one of mnist-test'): fld.FLD('minst')
    with pytest.raises(ValueError, match='real images themselves'):
        fld.FLD('digits', features=fld.pixels)


def test_mnist(slow):
    "Needs MNIST. Train against test 0.3 to 1.2, test against itself 0, noise above 250"
    train, test = load_data('mnist'), load_data('mnist', 'test')
    meter = fld.FLD('mnist-test')
    assert .3 < meter(train.x[:10_000]).value < 1.2
    assert meter(test).value < 1e-6
    g = torch.Generator().manual_seed(0)
    noise = meter(torch.randn(10_000, 1, 28, 28, generator=g).clamp(-1, 1))
    assert noise.value > 250 and noise.percent == pytest.approx(100, abs=1e-3)
    assert fld.per_class(test).accuracy >= .985
