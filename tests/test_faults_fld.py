"Numbers, labels and features as people have them"
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffnb import fld
from diffnb.apps.datasets import load_data

pytestmark = pytest.mark.filterwarnings('ignore:only .* images')
WHOLE = [np.int64, np.uint8, np.array, torch.tensor]


@pytest.fixture(scope='module')
def digits(): return load_data('digits', 'test', n=100)


@pytest.fixture(scope='module')
def clouds(): return torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(0))


def itself(f): return f


@pytest.mark.parametrize('whole', WHOLE)
def test_whole_numbers_of_any_kind(digits, clouds, whole):
    assert_close(fld.features(digits, whole(50)), fld.features(digits, 50))
    meter = fld.FLD('digits')
    assert meter(digits, seed=whole(3)).se == meter(digits, seed=3).se
    shares = [fld.precision_recall(*clouds, k=k, features=itself) for k in (3, whole(3))]
    assert shares[0] == shares[1]


@pytest.mark.parametrize('wrong', [1.5, 'ten', None, 0, -2])
def test_what_is_no_size_is_named(digits, clouds, wrong):
    with pytest.raises(ValueError, match='batch=.*give a whole number, 1 or more'):
        fld.features(digits, wrong)
    with pytest.raises(ValueError, match='k=.*give a whole number, 1 or more'):
        fld.precision_recall(*clouds, k=wrong, features=itself)


@pytest.mark.parametrize('kind', [
    torch.uint8, torch.int8, torch.int16, torch.int32, 'u1', 'u2', 'u8', 'i4', list, 'one-hot'])
def test_labels_of_any_integer_type(digits, kind):
    y = digits.y
    if kind is list: y = y.tolist()
    elif kind == 'one-hot': y = torch.nn.functional.one_hot(y, 10)
    elif isinstance(kind, str): y = y.numpy().astype(kind)
    else: y = y.to(kind)
    assert_close(fld.per_class(digits, y).confusion, fld.per_class(digits).confusion)


@pytest.mark.parametrize('change, says', [
    (lambda y: y + .7, 'whole numbers'), (lambda y: y[:-1], 'give one for each'),
    (lambda y: y - 1, 'from 0 to 9'), (lambda y: y + 1, 'from 0 to 9')])
def test_labels_that_cannot_be_are_refused_not_cut(digits, change, says):
    with pytest.raises(ValueError, match=says): fld.per_class(digits.x, change(digits.y))


def test_weights_count_as_copies_do(clouds):
    w = torch.arange(60) % 3
    copies = clouds[0].repeat_interleave(w, 0)
    for kind in (w, w.numpy(), w.tolist()):
        assert_close(tuple(fld.stats(clouds[0], kind)), tuple(fld.stats(copies)))
    with pytest.raises(ValueError, match='one for each of 60 rows'): fld.stats(clouds[0], w[1:])
    with pytest.raises(ValueError, match='N at least 2'): fld.stats(clouds[0], w*0)


@pytest.mark.parametrize('measure', [
    lambda *f: fld.kid(*f, features=itself), lambda *f: fld.precision_recall(*f, features=itself),
    lambda *f: fld.nearest(*f, f[1], features=itself)])
def test_features_that_are_not_finite_or_no_rows_are_refused(clouds, measure):
    broken = clouds[0].clone()
    broken[5, 1] = torch.nan
    with pytest.raises(ValueError, match='NaN'): measure(broken, clouds[1])
    with pytest.raises(ValueError, match='give .N, D.'): measure(clouds[0, :, 0], clouds[1])


def test_the_wobble_of_large_features_is_not_rounded(clouds):
    "Half precision ends at 65,504, and knows whole numbers only up to 2,048"
    small = fld.FLD(clouds[0], features=itself)(clouds[1])
    for scale, shift in ((1e5, 0), (1, 1e4)):
        def large(f): return f.double()*scale + shift
        score = fld.FLD(clouds[0], features=large)(clouds[1])
        noise = fld.FLD(clouds[0], features=large).ref.noise
        assert np.isfinite(noise)
        assert score.reference_error == pytest.approx(small.reference_error*scale**2, rel=.01)


def test_the_wobble_is_as_large_as_it_says():
    "Another draw of as many reference points moves the value by that"
    def draw(seed): return torch.randn(500, 8, generator=torch.Generator().manual_seed(seed))
    images = fld.stats(1.2*draw(99) + .3)
    values = [fld.frechet(*fld.stats(draw(s))[:2], *images[:2]) for s in range(60)]
    said = np.mean([fld._bootstrap(draw(s), images, 0) for s in range(4)])
    assert .7 < said/np.std(values) < 1.4


def test_the_number_of_threads_does_not_matter(digits):
    threads, got = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            got.append(fld.features(digits))
    finally: torch.set_num_threads(threads)
    assert_close(*got, rtol=1e-4, atol=1e-4)
