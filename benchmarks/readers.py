"Small classifiers, in whose features the pictures of CIFAR-10, flowers and sprites are compared"
import torch
import torch.nn.functional as F
from torch import nn

from diffnb.data import Images, batches
from diffnb.kit.files import load_state, save_state
from diffnb.kit.pictures import to_float


class Reader(nn.Module):
    """Convolutions of the given widths, with a pool after each group of them: ((32, 32), (64,)).
    The features are the means of the last maps"""
    def __init__(self, classes, groups):
        super().__init__()
        layers, cin = [], 3
        for i, widths in enumerate(groups):
            if i: layers.append(nn.MaxPool2d(2))
            for cout in widths:
                conv = nn.Conv2d(cin, cout, 3, padding=1)
                layers.append(nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU()))
                cin = cout
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(cin, classes)

    def features(self, x): return self.body(x).mean((2, 3))

    def forward(self, x): return self.head(F.dropout(self.features(x), .3, self.training))


def moved(x, most, g, **pad):
    "Each picture moved by up to `most` pixels; `pad` says what comes in at the edge"
    big = F.pad(x, (most,)*4, **pad)
    at = torch.randint(0, 2*most + 1, (len(x), 2), generator=g).tolist()
    height, width = x.shape[2:]
    return torch.stack([p[:, i:i + height, j:j + width] for p, (i, j) in zip(big, at)])


def teach(net, data, steps, batch, move):
    """Train a classifier: AdamW, one cycle of the rate up to 3e-3, smoothed labels. `move(x, g)`
    moves the pictures of a batch, with the dice of a generator"""
    opt = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps)
    g = torch.Generator().manual_seed(0)
    for _, (x, y) in zip(range(steps), batches(data, batch, flip=True)):
        opt.zero_grad()
        F.cross_entropy(net(move(x, g)), y, label_smoothing=.1).backward()
        opt.step()
        rate.step()


def taught(net, fname, *how):
    "The classifier with the weights of a file; `teach(net, *how)` makes them if it is not there"
    if fname.exists(): net.load_state_dict(load_state(fname))
    else:
        teach(net, *how)
        fname.parent.mkdir(parents=True, exist_ok=True)
        save_state(fname, dict(net.state_dict()))
    return net.eval().requires_grad_(False)


def in_parts(function, images, batch):
    "A function of pictures in [-1, 1] applied to `Images`, bytes or floats, a batch at a time"
    x = images.x if isinstance(images, Images) else images
    if x.dtype == torch.uint8: x = to_float(x)
    with torch.no_grad(): return torch.cat([function(part) for part in x.split(batch)])


def accuracy(net, data):
    "The share of labels that a classifier reads as they are"
    return in_parts(net, data, 500).argmax(1).eq(data.y).double().mean().item()


def mirrored(data):
    "All pictures, and all of them in the mirror"
    return torch.cat([data.x, data.x.flip(-1)])


def memory(m, copy):
    "What `nearest` found, in a few numbers; nearer than `copy` is a copy"
    return dict(share=m.share, expected=m.expected, to_train=m.train.median().item(),
                to_held=m.test.median().item(), copies=int((m.train < copy).sum()))


def quantiles(distances, prefix=''):
    "The least of some distances, and what a tenth and a half of them stay below"
    marks = dict(first=0., tenth=.1, half=.5)
    return {prefix + name: distances.quantile(q).item() for name, q in marks.items()}
