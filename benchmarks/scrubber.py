"""The slider in a real browser: from key to picture, moves shown, time to build, sizes. Writes
results/scrubber.json; notebook 05 shows the table.

    python benchmarks/scrubber.py       needs Chromium, jupyterlab and playwright (make bench)
"""
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import keep, load_average

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tests'))
import lab as driver  # noqa: E402
from diffnb.apps.datasets import load_data  # noqa: E402
from diffnb.apps.playground import playground  # noqa: E402
from diffnb.kit.pictures import to_float  # noqa: E402
from diffnb.kit.scrubber import scrubber_html  # noqa: E402
from diffnb.oracle import ideal  # noqa: E402
from diffnb.samplers import ddim, seeded  # noqa: E402
from diffnb.schedules import cosine, path  # noqa: E402
from diffnb.trajectories import slider  # noqa: E402

walk_of = '''from diffnb.all import *
knows = ideal(to_float(load_data('digits').x))
walk = list(ddim(knows, seeded(range(16))((16, 1, 16, 16)), path(cosine, 49)))
slider(walk, items=16)'''

# Written into the page. A picture counts as shown when the browser itself says so: Element Timing
# reports each picture that was painted, and when. (The load event is no evidence: it comes late,
# and a picture that was painted and left again before it would not be counted.)
watch = '''() => {
    window.seen = []
    window.down = 0
    const images = node => node.tagName == 'IMG' ? [node]
        : node.querySelectorAll ? [...node.querySelectorAll('img')] : []
    const tag = node => images(node).filter(img => img.alt.includes('step'))
        .forEach(img => img.setAttribute('elementtiming', img.alt))
    tag(document.body)
    const changed = list => list.forEach(m => [...m.addedNodes, m.target].forEach(tag))
    new MutationObserver(changed).observe(document.body,
        {childList: true, subtree: true, attributes: true, attributeFilter: ['alt']})
    const painted = list => list.getEntries().forEach(
        e => window.seen.push([e.identifier, e.renderTime - window.down]))
    new PerformanceObserver(painted).observe({type: 'element'})
    document.addEventListener('keydown', e => { window.down = e.timeStamp }, true)
}'''
rush = '''async (handle, ms) => {
    const start = document.querySelector('.diffnb-walks img').alt
    const to = handle.id == 'bar' ? document : handle
    const pause = ms => new Promise(f => setTimeout(f, ms))
    let frames = 0, on = true
    const count = () => {
        if (!on) return
        frames++
        requestAnimationFrame(count)
    }
    requestAnimationFrame(count)
    window.seen = []
    const begin = performance.now()
    for (let i = 0; i < 45; i++) {
        const how = {key: 'ArrowRight', bubbles: true, cancelable: true}
        to.dispatchEvent(new KeyboardEvent('keydown', how))
        await pause(ms)
    }
    const took = performance.now() - begin
    on = false
    await pause(1000)
    const shown = new Set(window.seen.map(s => s[0]).filter(s => s != start))
    return {shown: shown.size, took_ms: Math.round(took), display_frames: frames}
}'''


def press(page, n=40):
    "Milliseconds from each of n presses of the right arrow to its picture"
    times = []
    for _ in range(n):
        page.evaluate('() => { window.seen = [] }')
        page.keyboard.press('ArrowRight')
        page.wait_for_function('() => window.seen.length', timeout=60_000)
        times.append(page.evaluate('() => window.seen[0][1]'))
        time.sleep(.1)
    return times


def measure(page, handle, again=None):
    """Presses one by one, then 45 moves at two speeds; again() shows the page afresh, where a
    picture is kept and would not be reported twice"""
    def ready():
        page.evaluate(watch)
        # JupyterLab keeps in sight the cell that was clicked last, and may take the keyboard back
        page.locator('.diffnb-walks figcaption').first.click()
        for _ in range(3):
            handle.focus()
            page.keyboard.press('Home')
            time.sleep(1)
    ready()
    times, rushes = press(page), {}
    for ms in (16, 33) * 3:
        if again:
            again()
            ready()
        page.keyboard.press('Home')
        time.sleep(1)
        rushes.setdefault(ms, []).append(handle.evaluate(rush, ms))
    return dict(press_ms=[round(t, 1) for t in times],
                median_ms=round(statistics.median(times), 1), p90_ms=round(sorted(times)[35], 1),
                moves={str(k): v for k, v in rushes.items()})


def painted(rushes):
    """Three times: how many pictures, in what time (a move waits until the page is done with the
    last one, so they take longer than their pauses)"""
    took = [r['took_ms']/1000 for r in rushes]
    counts = ', '.join(str(r['shown']) for r in rushes)
    return f'{counts} (in {min(took):.1f} to {max(took):.1f} s)'


def to_build(steps, rounds=7):
    """Seconds of the processor for a slider of 50 frames of 16 images: one thread, so what a clock
    says too, when nothing else runs"""
    slider(steps[:4])
    times = []
    for _ in range(rounds):
        start = time.process_time()
        slider(steps[:50], items=16)
        times.append(time.process_time() - start)
    return times


def to_draw(rounds=7):
    """Seconds from the draw button to the finished slider: ten digits, guided, 20 calls; after a
    first walk that warms up"""
    play = playground().wait()
    times = []
    for seed in range(1, rounds + 1):
        play.set['seed'].value, start = seed, time.perf_counter()
        play.go.click()
        play.wait()
        times.append(time.perf_counter() - start)
    return times


def in_file(steps, fname, browser):
    "What is measured in the HTML file, and its size"
    file = scrubber_html(steps, fname, items=16)
    page = browser.new_page(viewport=dict(width=1100, height=900))
    page.goto(file.as_uri())
    found = measure(page, page.locator('#bar'), page.reload)
    page.close()
    return found, file.stat().st_size


def write_notebook(fname, *sources):
    "A notebook of cells of code"
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, execution_count=None, outputs=[],
                  source=source) for i, source in enumerate(sources)]
    kernel = dict(display_name='Python 3 (ipykernel)', language='python', name='python3')
    fname.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4,
                                     nbformat_minor=5)))


def in_lab(fname, browser):
    "What is measured in JupyterLab, with and without a kernel, and the size of the notebook"
    write_notebook(fname, walk_of, 'slider(walk, items=16)')
    with driver.Lab([fname]) as lab:
        page = browser.new_page(viewport=dict(width=1300, height=1000))
        lab.open(page, fname.name)
        if error := lab.run_all(page): sys.exit(error)
        page.keyboard.press('Control+s')
        saved = lab.nbs/fname.name
        lab.until(lambda: saved.stat().st_size > 20_000, 60, 'the notebook to be saved')
        time.sleep(1)
        size = saved.stat().st_size
        live = measure(page, page.locator('.diffnb-scrubber .noUi-handle').first)
        lab.end_kernels()
        time.sleep(2)
        gone = measure(page, page.locator('.diffnb-scrubber .noUi-handle').first)
    return live, gone, size


def table(places, build, build_28, drawn, html, saved):
    "The numbers in words, as the notebook shows them"
    shown = {f'key press to painted picture, {where}':
             f"{m['median_ms']:.0f} ms (9 of 10 within {m['p90_ms']:.0f})"
             for where, m in places.items()}
    shown |= {f'pictures painted of 45 moves with pauses of {ms} ms, {where}':
              painted(m['moves'][ms]) for ms in ('16', '33') for where, m in places.items()}
    one, large, whole = (statistics.median(t) for t in (build, build_28, drawn))
    threads = torch.get_num_threads()
    return shown | {
        'building a slider of 50 frames of 16 digits, processor time':
            f'{one:.2f} s (28x28: {large:.2f} s)',
        'playground: from the draw button to the slider, ten guided digits, '
        f'{threads} threads': f'{whole:.1f} s',
        'the HTML file, 60 frames of 16 digits': f'{html//1000} kB',
        'a notebook with two such sliders, as JupyterLab saves it': f'{saved//1000} kB'}


def main():
    begun = time.time()
    if driver.chromium is None:
        return print('benchmarks/scrubber.py needs Chromium (Debian: apt install chromium); '
                     'nothing was measured')
    knows, noise = ideal(to_float(load_data('digits').x)), seeded(range(16))((16, 1, 16, 16))
    steps = list(ddim(knows, noise, path(cosine, 59)))
    def larger(x0): return torch.nn.functional.interpolate(x0, size=28)
    hard = [s._replace(x=torch.randn(16, 1, 28, 28), x0=larger(s.x0)) for s in steps]
    build, build_28, drawn = to_build(steps), to_build(hard), to_draw()     # noise compresses worst
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, driver.browser() as browser:
        alone, html = in_file(steps, Path(folder)/'walk.html', browser)
        live, gone, saved = in_lab(Path(folder)/'two.ipynb', browser)
    places = {'JupyterLab': live, 'JupyterLab, no kernel': gone, 'the HTML file': alone}
    shown = table(places, build, build_28, drawn, html, saved)
    keep('scrubber', table=shown, jupyterlab=live, without_kernel=gone, html_file=alone,
         build_s=[round(t, 3) for t in build], build_28_s=[round(t, 3) for t in build_28],
         playground_s=[round(t, 2) for t in drawn], seed=0, seconds=round(time.time() - begun),
         html_bytes=html, notebook_bytes=saved,
         load=load_average())
    print('\n'.join(f'{k:75}{v}' for k, v in shown.items()))


if __name__ == '__main__': main()
