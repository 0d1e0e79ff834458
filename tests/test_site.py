"The site in Chromium, from the disk and without a network: needs _docs/ (make docs)"
import os
from pathlib import Path

import pytest
from lab import chromium, flags

root = Path(__file__).resolve().parent.parent
out = root/'_docs'
pages = [f.relative_to(out).as_posix() for f in sorted(out.rglob('*.html'))
         if f.relative_to(out).parts[0] not in ('_static', 'playground')]
if not pages: pytest.skip('no site: make docs', allow_module_level=True)
if not chromium and not os.environ.get('CI'):
    pytest.skip('no Chromium here', allow_module_level=True)


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        there = p.chromium.launch(executable_path=chromium, args=flags)
        yield there
        there.close()


def look(browser, name, width=1280, **settings):
    "A page of the site, and the list of what it asks of the network"
    context = browser.new_context(viewport=dict(width=width, height=900), offline=True, **settings)
    page, asked = context.new_page(), []
    page.on('request', lambda r: asked.append(r.url) if r.url.startswith('http') else None)
    page.goto(f'file://{out/name}')
    return page, asked


@pytest.mark.parametrize('name', pages)
def test_a_page_asks_nothing_of_the_network_and_fits_on_a_phone(browser, name):
    page, asked = look(browser, name, width=390)
    page.wait_for_load_state()
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    broken = '[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)'
    assert asked == [] and page.evaluate(broken) == []
    page.context.close()


def test_search_finds_a_word_of_a_lesson(browser):
    page, _ = look(browser, 'search.html?q=photocopier')
    page.wait_for_selector('#search-results li a')
    found = page.locator('#search-results li a').evaluate_all('o => o.map(a => a.href)')
    assert any('03_oracle.html' in href for href in found)
    page.context.close()


def test_search_finds_a_function(browser):
    page, _ = look(browser, 'search.html?q=repaint_path')
    page.wait_for_selector('#search-results li a')
    found = page.locator('#search-results li a').evaluate_all('o => o.map(a => a.href)')
    assert any('library/editing.html' in href for href in found)
    page.context.close()


def test_formulas_are_drawn(browser):
    "A fraction stands higher than a line of text; as text it would not"
    page, _ = look(browser, '02_angle.html')
    sizes = page.locator('math mfrac').evaluate_all('o => o.map(m => m.clientHeight)')
    assert len(sizes) > 2 and min(sizes) > 18
    assert '$' not in ''.join(page.locator('article p').all_inner_texts())
    page.context.close()


def test_a_slider_moves_with_keys_and_plays(browser):
    page, _ = look(browser, '06_trajectories.html')
    box = page.locator('.reel').first
    bar, image = box.locator('input'), box.locator('img')
    bar.press('Home')
    first = image.get_attribute('src')
    bar.press('ArrowRight')
    second = image.get_attribute('src')
    assert first != second and bar.input_value() == '1'
    box.locator('button').click()
    page.wait_for_function('document.querySelector(".reel input").value > 2')
    assert image.get_attribute('src') not in (first, second)
    page.context.close()


def test_wide_pictures_keep_their_size_on_a_phone(browser):
    page, _ = look(browser, 'index.html', width=390)
    assert page.locator('img.wide').first.evaluate('i => i.clientWidth == i.naturalWidth')
    page.context.close()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_theme_follows_the_reader(browser, scheme):
    page, _ = look(browser, 'index.html', color_scheme=scheme)
    background = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (max(map(int, background[4:-1].split(','))) < 60) == (scheme == 'dark')
    page.context.close()
