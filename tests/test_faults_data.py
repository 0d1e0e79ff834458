"""Mistakes that people made with data of other programs: what is refused, warned of, or taken."""

import math
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import IterableDataset, TensorDataset

from diffnb.apps.datasets import hold_out, load_data, stream, to_channels, to_size
from diffnb.data import Images, batches, moons, show_points, spiral
from diffnb.kit.pictures import show_images, to_float

in01 = r'no value below 0 \(from 0 to 1\): are these images in \[0, 1\]\?.*give 2\*x - 1'


def picture(fname, grey=0):
    fname.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (4, 4), grey).save(fname)


def classes(home, *where, n=2):
    "Folders with n pictures each"
    for folder in where:
        for k in range(n):
            picture(home/folder/f'{k}.png', k)
    return home


@pytest.fixture
def quiet():
    "Any warning is a failure"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


@pytest.fixture
def unit():
    "Pictures as ToTensor makes them: black is 0 and white is 1"
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, :2] = torch.tensor([0., 1.])
    return x


# Pictures in [0, 1]

@pytest.mark.parametrize('draw', [batches, lambda x: stream(TensorDataset(x))])
def test_pictures_from_0_to_1_are_noticed(draw, unit):
    with pytest.warns(UserWarning, match=in01) as said:
        draw(unit)
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.warns(UserWarning, match='are these images in'):
        draw(unit.index_fill(0, torch.tensor([1]), -1e-7))          # rounding does not hide it


def test_pictures_from_0_to_1_are_noticed_in_a_fit(unit):
    from diffnb.denoiser import Denoiser
    from diffnb.apps.runs import fit
    with pytest.warns(UserWarning, match=in01) as said:
        fit(Denoiser(Flat()), unit, steps=1, bs=4, progress=False)
    assert {w.filename for w in said if 'in [0, 1]' in str(w.message)} == {__file__}


class Flat(torch.nn.Module):
    "A network that answers with a multiple of its input"
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, phi=None, y=None):
        return self.w*x


@pytest.mark.parametrize('draw', [batches, lambda x: stream(TensorDataset(x))])
def test_what_is_no_picture_from_0_to_1_raises_no_alarm(draw, unit, quiet):
    x0 = next(draw(2*unit - 1))[0]
    assert x0.min() == -1 and x0.max() == 1
    for fine in (unit[0, 0], (255*unit).byte(), torch.zeros(8, 1, 4, 4), torch.ones(8, 1, 4, 4),
                 5*unit, unit[:1], unit - .1):
        draw(fine)


# What the numbers in a file mean

def saved(tmp_path, **arrays):
    fname = tmp_path/f'{len(list(tmp_path.iterdir()))}.npz'
    np.savez(fname, **arrays)
    return fname


@pytest.mark.parametrize('speck', [-1e-7, -1e-4, 0., 1 + 1e-6])
def test_a_speck_does_not_change_the_scale(tmp_path, speck):
    x = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16).repeat(2, 0)
    right = load_data(saved(tmp_path, x=x)).x
    assert right[0].flatten().tolist() == list(range(256))
    x[1, 0, 0] = speck
    got = load_data(saved(tmp_path, x=x)).x
    assert got[0].equal(right[0]) and got[1].flatten()[1:].equal(right[1].flatten()[1:])


def test_floats_that_may_be_either_are_refused_with_the_remedy(tmp_path):
    x = np.linspace(-.2, 1, 32).reshape(2, 4, 4)
    with pytest.raises(ValueError, match=r'from -0.2 to 1: this may be .*x.clip\(0, 1\).*127.5'):
        load_data(saved(tmp_path, x=x))
    assert load_data(saved(tmp_path, x=x.clip(0, 1))).x.min() == 0
    assert load_data(saved(tmp_path, x=np.linspace(-1, 1, 32).reshape(2, 4, 4))).x.min() == 0
    with pytest.raises(ValueError, match='7 to 7'):
        load_data(saved(tmp_path, x=np.full((2, 4, 4), 7.)))


def test_both_parts_of_a_file_have_one_scale(tmp_path):
    dark, bright = np.full((2, 4, 4), -1.), np.full((2, 4, 4), 0.)
    fname = saved(tmp_path, x_train=dark, x_test=bright)
    assert load_data(fname, 'test').x.unique().tolist() == [128]
    assert load_data(fname, 'all').x.unique().tolist() == [0, 128]
    fname = saved(tmp_path, x_train=bright, x_test=dark)
    assert load_data(fname).x.unique().tolist() == [128]


def test_bytes_that_are_only_0_and_1_are_refused(tmp_path):
    x = np.eye(4, dtype=np.uint8)[None].repeat(2, 0)
    with pytest.raises(ValueError, match=r'bytes from 0 to 1, and white is 255: save x\*255'):
        load_data(saved(tmp_path, x=x))
    assert load_data(saved(tmp_path, x=x*255)).x.unique().tolist() == [0, 255]


def test_one_colour_picture_is_not_a_set_of_narrow_ones(tmp_path):
    one = np.zeros((8, 6, 3), np.uint8)
    with pytest.raises(ValueError, match=r'\(8, 6, 3\): is this one picture .*save x\[None\]'):
        load_data(saved(tmp_path, x=one))
    assert load_data(saved(tmp_path, x=one[None])).x.shape == (1, 3, 8, 6)


def test_the_test_part_never_takes_pictures_or_labels_of_the_training_part(tmp_path):
    train, test = np.zeros((2, 4, 4), np.uint8), np.full((2, 4, 4), 9, np.uint8)
    fname = saved(tmp_path, x_train=train, x_test=test, y=[0, 1])
    assert load_data(fname).y.tolist() == [0, 1] and load_data(fname, 'test').y is None
    assert load_data(fname, 'all').y.tolist() == [0, 1, -1, -1]     # kept, not dropped
    with pytest.raises(ValueError, match='no test part'):
        load_data(saved(tmp_path, x=train, y=[0, 1], y_test=[1, 0]), 'test')
    assert len(load_data(saved(tmp_path, x_train=train), 'all').x) == 2


def test_what_is_not_read_of_a_file_is_named(tmp_path, quiet):
    x, y = np.zeros((2, 4, 4), np.uint8), np.array([1, 0])
    np.savez(tmp_path/'unnamed.npz', x, y)
    with pytest.warns(UserWarning, match=r'left aside arr_1 \(2,\).*x=x, y=y') as said:
        assert load_data(tmp_path/'unnamed.npz').y is None
    assert said[0].filename == __file__
    load_data(saved(tmp_path, x_train=x, y_train=y, x_test=x, y_test=y, names=['a', 'b']))


@pytest.mark.parametrize('names', [np.array([b'cat', b'dog']), np.array([['cat'], ['dog']])])
def test_names_are_words(tmp_path, names):
    x = np.zeros((2, 4, 4), np.uint8)
    assert load_data(saved(tmp_path, x=x, y=[0, 1], names=names)).names == ['cat', 'dog']


def test_names_as_bytes_are_shown_as_words():
    data = Images(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.tensor([0]), [b'cat'])
    assert repr(data).endswith('names: cat)')
    assert np.array_equal(show_images(data), show_images(data._replace(names=['cat'])))


@pytest.mark.parametrize('name', ['n', 'cols', 'scale'])
def test_nothing_is_not_what_is_usual(name):
    with pytest.raises(ValueError, match=f'{name}=0: give a whole number, 1 or more'):
        show_images(torch.zeros(3, 1, 8, 8), **{name: 0})


def test_there_is_a_name_for_each_label(tmp_path):
    x = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(ValueError, match='label 2, but 2 names'):
        load_data(saved(tmp_path, x=x, y=[0, 2], names=['a', 'b']))


# What is no data in a folder

@pytest.mark.parametrize('rubbish', [
    '.ipynb_checkpoints/0-checkpoint.png', 'cat/.ipynb_checkpoints/0.png', '__MACOSX/cat/0.png',
    'cat/@eaDir/0.png', 'cat/._0.png', '.ipynb_checkpoints/train/0.png'])
def test_what_a_system_puts_into_folders_is_no_data(tmp_path, rubbish, quiet):
    for folder in (classes(tmp_path/'classes', 'cat', 'dog'),
                   classes(tmp_path/'parts', 'train/cat', 'test/cat')):
        plain = load_data(folder, 'all')
        for root in (folder, *folder.glob('t*')):
            if (root/rubbish.split('/')[0]).is_dir() or not rubbish.startswith('cat/'):
                picture(root/rubbish, 99)
        (folder/'.DS_Store').write_bytes(b'x')
        (folder/'Thumbs.db').write_bytes(b'x')
        got = load_data(folder, 'all')
        assert got.names == plain.names and got.x.equal(plain.x) and got.y.equal(plain.y)
    flat = classes(tmp_path, 'flat')/'flat'
    picture(flat/rubbish.replace('cat/', ''), 99)
    assert len(load_data(flat).x) == 2 and load_data(flat).y is None


@pytest.mark.skipif(os.name == 'nt', reason='on Windows only some users may make links')
def test_a_linked_class_is_data_and_a_ring_of_links_ends(tmp_path):
    classes(tmp_path, 'elsewhere/dog', 'set/cat')
    (tmp_path/'set'/'dog').symlink_to(tmp_path/'elsewhere'/'dog')
    (tmp_path/'set'/'cat'/'ring').symlink_to(tmp_path/'set')
    data = load_data(tmp_path/'set')
    assert data.names == ['cat', 'dog'] and data.y.tolist() == [0, 0, 1, 1]


def test_classes_that_differ_in_capitals_are_refused(tmp_path):
    classes(tmp_path, 'train/Cat', 'test/cat')
    with pytest.raises(ValueError, match='differ only in capitals'):
        load_data(tmp_path)


@pytest.mark.parametrize('fname', ['b.heic', 'b.AVIF', 'labels.csv', 'dataset.json', 'a.txt'])
def test_what_is_left_aside_in_a_folder_is_named(tmp_path, fname, quiet):
    classes(tmp_path, 'cat')
    for paper in ('README.txt', 'LICENSE', 'look.ipynb'):
        (tmp_path/paper).write_text('x')
    load_data(tmp_path)
    (tmp_path/fname).write_text('x')
    says = f'left aside {fname}: .*convert HEIC, AVIF.*names of the folders'
    with pytest.warns(UserWarning, match=says) as said:
        assert len(load_data(tmp_path).x) == 2
    assert said[0].filename == __file__
    (tmp_path/'alone').mkdir()
    (tmp_path/'alone'/'b.heic').write_text('x')
    with pytest.raises(ValueError, match='no images in it.*left aside b.heic: .*convert HEIC'):
        load_data(tmp_path/'alone')


def test_labels_in_file_names_are_named(tmp_path, quiet):
    for name in ('cat.0', 'cat.1', 'dog.0', 'dog.1'):
        picture(tmp_path/'pets'/f'{name}.png')
        picture(tmp_path/'photos'/f'img_{name[-1]}{name[0]}.png')
        picture(tmp_path/'shots'/f'IMG_{len(name)}{ord(name[0])}{name[-1]}.png')
    with pytest.warns(UserWarning, match='no labels, although .* begin with cat, dog'):
        assert load_data(tmp_path/'pets').y is None
    load_data(tmp_path/'photos')
    load_data(tmp_path/'shots')


# The parts of a set

@pytest.mark.parametrize('train, test', [
    ('train', 'test'), ('Train', 'Test'), ('training', 'testing'), ('seg_train', 'seg_test'),
    ('train2017', 'test2017')])
def test_parts_go_by_many_names(tmp_path, train, test):
    classes(tmp_path, f'{train}/cat', f'{train}/dog', n=1)
    classes(tmp_path, f'{test}/dog', n=3)
    data, unseen = load_data(tmp_path), load_data(tmp_path, 'test')
    assert data.names == unseen.names == ['cat', 'dog']
    assert data.y.tolist() == [0, 1] and unseen.y.tolist() == [1, 1, 1]
    assert len(load_data(tmp_path, 'all').x) == 5


@pytest.mark.parametrize('where, says', [
    (('Train/cat', 'Validation/cat'), 'folder Train beside Validation'),
    (('training/cat', 'val/cat', 'testing/cat'), 'beside val'),
    (('train/cat', 'Train_2/cat'), 'beside'),
    (('valid/cat', 'dog'), 'beside'),
    (('seg_train/cat', 'seg_test/cat', 'seg_pred'), 'beside seg_pred'),
    (('dataset/Train/cat', 'dataset/Test/cat'), 'dataset: holds the parts Test, Train: give load'),
    (('cat/train', 'cat/val', 'dog/train', 'dog/val'), 'holds the parts train, val'),
])
def test_parts_are_never_taken_for_classes(tmp_path, where, says):
    classes(tmp_path, *where)
    with pytest.raises(ValueError, match=says):
        load_data(tmp_path)


def test_a_picture_beside_the_parts_is_refused(tmp_path):
    classes(tmp_path, 'train/cat', 'test/cat')
    picture(tmp_path/'loose.png')
    with pytest.raises(ValueError, match='loose.png lies beside the folders train, test'):
        load_data(tmp_path)


def test_a_test_part_alone_is_not_trained_on(tmp_path):
    classes(tmp_path, 'test/cat')
    with pytest.raises(ValueError, match='has no train part: give the path of .*test'):
        load_data(tmp_path)
    assert load_data(tmp_path, 'test').names == ['cat']


def test_classes_may_speak_of_trains(tmp_path):
    classes(tmp_path, 'bullet train', 'train station', 'bus')
    assert load_data(tmp_path).names == ['bullet train', 'bus', 'train station']


@pytest.mark.parametrize('where, says', [(('Train', 'Test'), 'parts of a set'),
                                         (('.ipynb_checkpoints', 'cat'), 'no class')])
def test_a_stream_of_a_folder_has_classes_too(tmp_path, where, says):
    class Pictures(TensorDataset):
        classes = list(where)
    with pytest.raises(ValueError, match=says):
        stream(Pictures(torch.zeros(4, 1, 4, 4, dtype=torch.uint8)))


# Numbers and labels as people have them

whole = pytest.mark.parametrize('kind', [np.int64, np.uint8, np.array, torch.tensor])


@whole
def test_whole_numbers_of_any_type(kind, tmp_path):
    digits = load_data('digits', size=8)
    assert spiral(kind(10), seed=kind(3)).equal(spiral(10, seed=3))
    few = load_data('digits', n=kind(5), size=kind(20), seed=kind(1), channels=kind(3))
    assert few.x.shape == (5, 3, 20, 20)
    assert to_size(digits.x, (kind(4), kind(6))).shape[2:] == (4, 6)
    assert to_channels(digits.x[:1], kind(3)).shape[1] == 3
    assert hold_out(digits, seed=kind(2))[1].y.equal(hold_out(digits, seed=2)[1].y)
    how = dict(cols=3, scale=2, n=5, pad=1)
    same = {k: kind(v) for k, v in how.items()}
    assert np.array_equal(show_images(digits, **how), show_images(digits, **same))
    how = dict(bs=200, seed=4, start=3, rank=1, world=2)
    for draw in (batches, lambda data, **how: stream(TensorDataset(data.x, data.y), **how)):
        one, other = draw(digits, **how), draw(digits, **{k: kind(v) for k, v in how.items()})
        assert all(next(one)[1].equal(next(other)[1]) for _ in range(3))


@pytest.mark.parametrize('call', [
    lambda n: spiral(n), lambda n: moons(seed=n), lambda n: load_data('digits', n=n),
    lambda n: load_data('digits', size=n), lambda n: batches(spiral(10), bs=n),
    lambda n: batches(spiral(10), seed=n)])
def test_other_numbers_are_named(call):
    with pytest.raises(ValueError, match=r'=10.5: give a whole number.*; int\(...\)'):
        call(10.5)


y = np.arange(4)
forms = dict(list=y.tolist(), column=y[:, None], row=y[None], float=y.astype(float),
             uint8=y.astype(np.uint8), onehot=np.eye(4), torch=torch.from_numpy(y),
             torch8=torch.from_numpy(y).byte(), column_torch=torch.from_numpy(y)[:, None],
             half=torch.from_numpy(y).bfloat16())


@pytest.mark.parametrize('form', forms)
def test_labels_of_any_type_and_shape(form, tmp_path):
    x, got = torch.arange(4).byte().view(4, 1, 1, 1).expand(4, 1, 4, 4), forms[form]
    x0, labels = next(batches((x, got), 4))
    assert labels.dtype == torch.int64 and labels.equal(((x0[:, 0, 0, 0] + 1)*127.5).round().long())
    x0, labels = next(stream([*zip(x, got[0] if form == 'row' else got)], 4))
    assert labels.dtype == torch.int64 and labels.equal(((x0[:, 0, 0, 0] + 1)*127.5).round().long())
    colours = show_points(torch.randn(4, 2), got).collections[0].get_facecolor()
    assert len(np.unique(colours, axis=0)) == 4
    if not isinstance(got, torch.Tensor):
        assert load_data(saved(tmp_path, x=x.numpy(), y=got)).y.tolist() == [0, 1, 2, 3]


def test_a_column_of_ones_is_no_one_hot_row():
    assert next(batches((spiral(4), np.ones((4, 1))), 4))[1].tolist() == [1]*4


@pytest.mark.parametrize('labels, says', [
    (['cat', 'dog', 'cat', 'dog'], "labels are words, such as 'cat'.*numpy.unique"),
    ([b'cat']*4, "words, such as 'cat'"), ([.5, 1, 2, 3], 'fractions'),
    ([0, 1, 2, math.nan], 'fractions or NaN')])
def test_labels_that_are_no_numbers_are_refused(labels, says):
    with pytest.raises(ValueError, match=says):
        batches((spiral(4), labels))
    with pytest.raises(ValueError, match=says):
        stream([*zip(spiral(4), labels)])


def test_a_fraction_far_into_a_stream_is_not_cut():
    labels = torch.zeros(1000)
    labels[1] = 1.5
    draw = stream(TensorDataset(spiral(1000), labels), 1000)
    with pytest.raises(ValueError, match='fractions'):
        next(draw)


# What is handed over to be drawn from

def test_a_set_without_length_is_refused_with_the_remedy():
    class Endless(IterableDataset):
        def __iter__(self):
            yield torch.zeros(2)
    for endless in (Endless(), iter([torch.zeros(2)])):
        says = f'{type(endless).__name__} has no length.*endless loop of your own'
        with pytest.raises(ValueError, match=says):
            stream(endless)


def test_one_tensor_in_a_tuple_is_data_without_labels():
    for draw in (batches((spiral(10),), 5), batches([spiral(10)], 5),
                 stream(TensorDataset(spiral(10)), 5)):
        x0, y = next(draw)
        assert x0.shape == (5, 2) and y is None


def test_items_may_say_more_or_nothing():
    items = [(p, None, 'a note') for p in spiral(10)]
    assert next(stream(items, 5))[1] is None
    items[3] = (items[3][0], 7)
    assert sorted(next(stream(items, 10))[1].tolist()) == [-1]*9 + [7]


@pytest.mark.parametrize('items, says', [
    ([{'image': torch.zeros(2), 'label': 1}], 'dicts of image, label: make them'),
    ([torch.zeros(1, 4, k, dtype=torch.uint8) for k in (4, 5)], 'one size')])
def test_items_of_another_kind_are_named(items, says):
    with pytest.raises(ValueError, match=says):
        stream(items)


def test_workers_collate_as_well():
    x0, y = next(stream(TensorDataset(spiral(10), torch.arange(10)[:, None]), 10, workers=1))
    assert y.sort().values.tolist() == list(range(10)) and x0.equal(spiral(10)[y])


# Devices

class Count(TorchDispatchMode):
    "Counts where the host waits for a number, and collects all types that come up"
    def __init__(self):
        super().__init__()
        self.reads, self.types = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        self.types |= {getattr(out, 'dtype', None)}
        return out


def test_a_batch_waits_for_nothing_and_needs_no_float64():
    x = to_float(load_data('digits').x)
    with Count() as count:
        draw = batches((x, torch.zeros(1000, dtype=torch.uint8)), 16, flip=True)
        assert count.reads <= 1
        before = count.reads
        next(draw), next(draw)
        assert count.reads == before
    assert torch.float32 in count.types and torch.float64 not in count.types
