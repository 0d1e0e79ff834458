"""The playground: a folder that draws digits in a browser, without Python

python tools/page.py [FOLDER]        write it, into _docs/playground where no folder is named
python -m http.server -d FOLDER      look at it (or open its index.html)

The page is docs/playground/. Its weights and its picture are made here, from the models of the
package, and kept nowhere: whoever trains a model again runs this again.
"""
import argparse
import base64
import re
import shutil
from pathlib import Path

root = Path(__file__).resolve().parent.parent
source = root/'docs'/'playground'
models = 'mnist-labels', 'mnist-turns-labels'


def weights(name):
    "A model's file as a script: a page that was opened from a disk may load scripts, and no files"
    data = (root/'diffnb'/f'{name}.safetensors').read_bytes()
    return f"diffnb.weights('{name}', '{base64.b64encode(data).decode()}')\n"


def grey(x):
    "A picture of one channel in [-1, 1] as bytes"
    return x.add(1).mul(127.5).clamp(0, 255).byte().numpy()


def still(stops=7, calls=18):
    "What is seen where nothing runs: the mixtures of a walk, and both halves of each guess"
    import numpy as np
    from PIL import Image
    from diffnb import cosine, ddim, guide, load, path, seeded, unmix
    model = load('mnist-labels')
    steps = [*ddim(guide(model, [3], 2.), seeded([0])((1, *model.shape)), path(cosine, calls))]
    sheet = np.full((3*30, stops*30), 255, np.uint8)
    for i, step in enumerate(steps[:-1][::calls//(stops - 1)] + steps[-1:]):
        noise = unmix(step.x, step.x0, step.phi, 'x0').eps
        for k, x in enumerate([model.decode(step.x), model.decode(step.x0), noise/3]):
            sheet[30*k + 1:30*k + 29, 30*i + 1:30*i + 29] = grey(x[0, 0])
    return Image.fromarray(sheet)


def build(
    out,                      # The folder to write
    lesson='../{}.html',      # Where a lesson is, seen from there, such as '../lessons/{}.html'
):
    "Everything that the page needs, in one folder"
    shutil.copytree(source, out, dirs_exist_ok=True)
    page = (source/'index.html').read_text(encoding='utf-8')
    page = re.sub(r'"\.\./(\d\d_\w+)\.html"', lambda m: f'"{lesson.format(m[1])}"', page)
    (Path(out)/'index.html').write_text(page, encoding='utf-8')
    for name in models:
        (Path(out)/f'{name}.js').write_text(weights(name), encoding='utf-8')
    still().save(Path(out)/'still.png')


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', nargs='?', type=Path, default=root/'_docs'/'playground')
    p.add_argument('--lesson', default='../{}.html', help='where a lesson is, seen from there')
    a = p.parse_args()
    build(a.folder, a.lesson)
    size = sum(f.stat().st_size for f in a.folder.iterdir())
    print(f'{a.folder}: {size // 1000} kB')


if __name__ == '__main__':
    main()
