"""Data as other people leave them: labels in a file of their own, and the faces in torchvision's
layout"""
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from diffnb.apps.datasets import load_data

sprites = np.random.RandomState(0).randint(0, 256, (12, 16, 16, 3), dtype=np.uint8)
one_hot = np.eye(5)[np.arange(12) % 5]


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path/'sprites_12_16x16.npy', sprites)
    return tmp_path


def test_labels_beside_an_array_are_read(folder):
    assert load_data(folder/'sprites_12_16x16.npy').y is None
    np.save(folder/'sprite_labels_nc_12_16x16.npy', one_hot)
    data = load_data(folder/'sprites_12_16x16.npy')
    assert data.y.tolist() == [i % 5 for i in range(12)] and data.x.shape == (12, 3, 16, 16)


def test_a_file_of_other_labels_is_left_alone(folder):
    np.save(folder/'labels_of_something_else.npy', one_hot[:7])
    assert load_data(folder/'sprites_12_16x16.npy').y is None


def test_two_files_of_labels_are_said(folder):
    for name in ('labels_a', 'labels_b'): np.save(folder/f'{name}.npy', one_hot)
    with pytest.warns(UserWarning, match='labels_[ab].npy, labels_[ab].npy: only one'):
        assert load_data(folder/'sprites_12_16x16.npy').y is None


def test_celeba_in_its_own_layout(tmp_path, monkeypatch):
    """torchvision's own class, and files laid out as the real ones; only the checksums are passed
    over"""
    home = tmp_path/'celeba'
    (home/'img_align_celeba').mkdir(parents=True)
    names = [f'{i:06}.jpg' for i in range(1, 8)]
    for i, name in enumerate(names):
        Image.new('RGB', (178, 218), (40*i, 0, 0)).save(home/'img_align_celeba'/name)
    def table(fname, columns, head=True):
        top = f'{len(names)}\n{" ".join(columns)}\n' if head else ''
        rows = [f'{name} ' + ' '.join('1' for _ in columns) for name in names]
        (home/fname).write_text(top + '\n'.join(rows) + '\n')
    table('list_attr_celeba.txt', [f'attribute{i}' for i in range(40)])
    table('list_bbox_celeba.txt', ['x', 'y', 'width', 'height'])
    table('list_landmarks_align_celeba.txt', [f'point{i}' for i in range(10)])
    table('identity_CelebA.txt', ['identity'], head=False)
    parts = zip(names, (0, 0, 0, 1, 1, 2, 2))
    (home/'list_eval_partition.txt').write_text(''.join(f'{name} {part}\n' for name, part in parts))
    monkeypatch.setattr(datasets.CelebA, '_check_integrity', lambda self: True)
    train, test = (load_data('celeba', s, root=tmp_path, size=16, download=False)
                   for s in ('train', 'test'))
    assert train.x.shape == (5, 3, 16, 16) and test.x.shape == (2, 3, 16, 16) and train.y is None
    reds = torch.tensor([0., 40, 80, 120, 160])
    assert (train.x[:, 0].float().mean((1, 2)) - reds).abs().max() < 3


def test_a_full_memory_is_no_broken_image(tmp_path, monkeypatch):
    Image.new('L', (4, 4)).save(tmp_path/'fine.png')
    def full(*_, **__): raise MemoryError
    monkeypatch.setattr(Image, 'open', full)
    with pytest.raises(MemoryError): load_data(tmp_path)
