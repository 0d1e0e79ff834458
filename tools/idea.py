"""Draw nbs/images/idea.png, the picture at the top of the README: python tools/idea.py

Left, a quarter circle from image to noise, with one digit at six angles. Right, the way back in
eight steps: the mixture above, and the network's guess of the image below.
"""
import math
from pathlib import Path

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402
import torch  # noqa: E402
from matplotlib.offsetbox import AnnotationBbox, OffsetImage  # noqa: E402

from diffnb import cosine, ddim, given, load, mix, path, seeded  # noqa: E402

root = Path(__file__).resolve().parent.parent
blue, orange, grey = '#2a78b8', '#e07b28', '#555555'


def picture(ax, x, at, zoom):
    "An image `(1, 28, 28)` in [-1, 1] at a place of the axes"
    shades = x[0].add(1).div(2).clamp(0, 1).numpy()
    image = OffsetImage(shades, zoom=zoom, cmap='gray', interpolation='nearest')
    edge = dict(edgecolor=grey, linewidth=1)
    ax.add_artist(AnnotationBbox(image, at, pad=0, bboxprops=edge))


def circle(ax, x0, eps):
    "The quarter circle, and the mixtures on it"
    turn = torch.linspace(0, math.pi/2, 200)
    ax.plot(.74*turn.cos(), .74*turn.sin(), color=blue, lw=4)
    for deg in range(0, 91, 18):
        phi = math.radians(deg)
        x, y = math.cos(phi), math.sin(phi)
        ax.plot([0, .74*x], [0, .74*y], color=blue, lw=1, alpha=.35, zorder=0)
        ax.plot(.74*x, .74*y, 'o', color=orange, ms=9)
        picture(ax, mix(x0, eps, phi)[0], (x, y), 1.85)
        ax.text(.56*x, .56*y, f'{deg}°', size=15, color=grey, ha='center', va='center',
                bbox=dict(facecolor='white', edgecolor='none', pad=1))
    ax.text(1, -.2, 'image', size=22, ha='center', va='top')
    ax.text(-.16, 1.2, 'noise', size=22, ha='left', va='bottom')
    ax.set(xlim=(-.2, 1.2), ylim=(-.36, 1.36), aspect='equal')
    ax.axis('off')


def way_back(ax, steps):
    "Both rows of a walk"
    for i, step in enumerate(steps):
        picture(ax, step.x[0], (i, 1), 2.6)
        picture(ax, step.x0[0], (i, 0), 2.6)
        ax.text(i, 1.56, f'{math.degrees(step.phi):.0f}°', size=18, color=grey, ha='center')
    ax.annotate('', (7.5, -.68), (-.5, -.68), arrowprops=dict(arrowstyle='->', color=orange, lw=3))
    ax.text(-.62, 1, 'mixture', size=22, ha='right', va='center')
    ax.text(-.62, 0, 'guess', size=22, ha='right', va='center')
    ax.set(xlim=(-1.75, 7.6), ylim=(-.85, 1.95))
    ax.axis('off')


def main():
    model = load('mnist-labels')
    eps = seeded([3])((1, 1, 28, 28))
    steps = list(ddim(given(model, [2]), eps, path(cosine, 28)))
    fig, (left, right) = plt.subplots(1, 2, figsize=(14, 4.4), width_ratios=(1, 2.4))
    circle(left, steps[-1].x, eps)
    way_back(right, steps[::4])
    fig.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0)
    fname = root/'nbs'/'images'/'idea.png'
    fig.savefig(fname, dpi=100, facecolor='white')
    print(f'{fname}: {fname.stat().st_size // 1000} kB')


if __name__ == '__main__':
    main()
