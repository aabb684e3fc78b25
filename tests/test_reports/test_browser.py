"""Both pages in a real browser: from disk, without a network.

Needs ``pip install playwright`` and a Chromium: Debian's ``chromium``,
Google's, or that of ``playwright install chromium``.
"""

import os
import shutil

import pytest
from test_reports.label_sets import (
    fake_pairs,
    write_config,
    write_tree,
    write_truths,
)
from test_reports.show_dirs import (
    IMAGES,
    make_sample,
    make_samples,
    write_show_dir,
)

from hmsa_mmseg.reports import ReportOptions, make_report

sync_api = pytest.importorskip(
    'playwright.sync_api', reason='needs pip install playwright'
)

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
DESKTOP = dict(width=1280, height=900)
PHONE = dict(width=390, height=844)
# Long names: what does not fit into a phone by itself.
NAMES = [f'city/{"a_long_name_" * 8}{i:06}_leftImg8bit' for i in range(4)]


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        paths = [
            *map(shutil.which, BROWSERS),
            playwright.chromium.executable_path,
        ]
        found = [path for path in paths if path and os.path.exists(path)]
        if not found:
            pytest.skip(
                f'no browser: none of {", ".join(BROWSERS)}, nor that of '
                '"playwright install chromium"'
            )
        # Within a container there is often no sandbox.
        browser = playwright.chromium.launch(
            executable_path=found[0], args=['--no-sandbox']
        )
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def run_page(tmp_path_factory, tool):
    root = tmp_path_factory.mktemp('run')
    write_show_dir(root / 'run', make_samples())
    stock = {IMAGES[0]: make_sample(0, wrong=0.5, scales=())}
    write_show_dir(root / 'stock', stock)
    compare = f'stock={root / "stock"}'
    assert tool.main([str(root / 'run'), '--compare', compare]) == 0
    return root / 'run' / 'report.html'


@pytest.fixture(scope='module')
def label_page(tmp_path_factory):
    root = tmp_path_factory.mktemp('report')
    pairs, truths = fake_pairs(NAMES)
    failures = [dict(name='x' * 90, image='x', reason='grey', error='y' * 90)]
    out = write_tree(root / 'out', pairs, failures=failures)
    write_tree(out / 'check', pairs)
    write_tree(root / 'before', fake_pairs(NAMES, 1)[0])
    write_truths(root / 'val', truths)
    config = write_config(root / 'config.py', val_dataloader=root / 'val')
    options = ReportOptions(
        *(config, *['config:val_dataloader'] * 3),
        previous=root / 'before',
        workers=0,
    )
    return make_report(out, options)


@pytest.fixture
def open_page(browser, run_page):
    """Return a function that opens a page in a window of some size.

    In the end there must have been no error and no request.
    """
    pages, troubles = [], []

    def open_page(viewport=DESKTOP, path=run_page, **kwargs):
        page = browser.new_page(viewport=viewport, offline=True, **kwargs)
        pages.append(page)
        page.on('console', lambda said: troubles.append(said.text))
        page.on('pageerror', lambda error: troubles.append(str(error)))
        page.on(
            'request',
            lambda request: (
                request.url[:5] == 'data:'
                or request.url == path.as_uri()
                or troubles.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert troubles == []


def names(page):
    return page.eval_on_selector_all(
        '.card', 'cards => cards.map(card => card.dataset.name)'
    )


def cut(page):
    """Where the first card's boundary is, as a part of its width."""
    return page.evaluate(
        """() => {
          const stage = document.querySelector('.stage');
          const clip = getComputedStyle(stage.querySelector('.over')).clipPath;
          const left = stage.querySelector('.handle').getBoundingClientRect();
          const box = stage.getBoundingClientRect();
          return [clip, (left.left + 1 - box.left) / box.width,
                  stage.querySelector('input').valueAsNumber / 100];
        }"""
    )


@pytest.mark.parametrize('kind', ['run', 'label'])
def test_it_fits_the_window_in_light_and_dark(open_page, request, kind):
    page = open_page(path=request.getfixturevalue(f'{kind}_page'))
    widths = page.evaluate(
        """() => Promise.all([...document.querySelectorAll('img')].map(
          async image => {
            image.loading = 'eager';
            await image.decode();
            return image.naturalWidth;
          }))"""
    )
    assert widths == [64] * 8
    # Whatever is folded counts as well.
    page.evaluate(
        "document.querySelectorAll('details').forEach(d => d.open = true)"
    )
    for viewport in (DESKTOP, PHONE):
        page.set_viewport_size(viewport)
        width = page.evaluate('document.documentElement.scrollWidth')
        assert width == viewport['width']
        # What is wider is within what can be scrolled.
        wide = page.evaluate(
            """() => [...document.querySelectorAll('main *')].filter(
              one => one.getBoundingClientRect().right > innerWidth + 1
                && !one.closest('.wide, .high')).map(one => one.outerHTML)"""
        )
        assert wide == []
    for scheme in ('light', 'dark'):
        page.emulate_media(color_scheme=scheme)
        ink, back = page.evaluate(
            """() => { const style = getComputedStyle(document.body);
              return [style.color, style.backgroundColor].map(
                text => text.match(/\\d+/g).slice(0, 3).map(Number)); }"""
        )
        assert (sum(ink) < sum(back)) == (scheme == 'light')


def test_the_line_follows_mouse_keys_and_finger(open_page):
    page = open_page()
    stage = page.locator('.stage').first
    stage.scroll_into_view_if_needed()
    assert cut(page)[0] == 'inset(0px 50% 0px 0px)'
    box = stage.bounding_box()
    middle = box['y'] + box['height'] / 2
    page.mouse.move(box['x'] + 0.5 * box['width'], middle)
    page.mouse.down()
    page.mouse.move(box['x'] + 0.25 * box['width'], middle, steps=3)
    page.mouse.up()
    clip, handle, value = cut(page)
    assert clip == f'inset(0px {100 * (1 - value):g}% 0px 0px)'
    assert value == pytest.approx(0.25, abs=0.01)
    assert handle == pytest.approx(0.25, abs=0.01)
    # The picture has the focus now.
    for _ in range(4):
        page.keyboard.press('ArrowRight')
    assert cut(page)[2] == pytest.approx(value + 0.04)

    page = open_page(PHONE, has_touch=True, is_mobile=True)
    stage = page.locator('.stage').first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.touchscreen.tap(
        box['x'] + 0.8 * box['width'], box['y'] + box['height'] / 2
    )
    assert cut(page)[1] == pytest.approx(0.8, abs=0.01)


def test_buttons_change_the_picture(open_page):
    page = open_page()
    card = page.locator('.card').first
    under = card.locator('.under')
    seen = card.evaluate(
        """async card => {
          const seen = [];
          const image = card.querySelector('.over');
          for (const button of card.querySelectorAll('button')) {
            button.click();
            await image.decode();
            const pressed = card.querySelectorAll('[aria-pressed=true]');
            seen.push([image.src, pressed.length, pressed[0] === button,
              image.alt, card.querySelector('.tag.left').textContent]);
          }
          return seen;
        }"""
    )
    assert len({source for source, *_ in seen}) == len(seen) >= 15
    for _, num_pressed, same, alt, tag in seen:
        assert (num_pressed, same) == (1, True)
        assert alt.startswith(f'{tag} of ')
    card.get_by_role('button', name='overlay').click()
    before = under.get_attribute('src')
    card.get_by_label('beside').select_option(label='ground truth')
    assert under.get_attribute('src') != before
    assert under.get_attribute('alt').startswith('ground truth of ')
    # One picture of all images; those without it keep what they show.
    page.get_by_label('In all images show').select_option(
        label='prediction of stock'
    )
    for card in page.locator('.card').all():
        card.scroll_into_view_if_needed()
        has_it = card.get_attribute('data-name') == IMAGES[0]
        sync_api.expect(card.locator('.tag.left')).to_have_text(
            'prediction of stock' if has_it else 'overlay'
        )


def test_images_and_their_table_are_sorted(open_page):
    page = open_page()
    worst = names(page)
    assert set(worst) == set(IMAGES)
    order = page.get_by_label('Order')
    order.select_option(label='highest mIoU first')
    assert names(page) == worst[::-1]
    order.select_option(label='by name')
    # Numbers within names count as numbers.
    assert names(page)[:2] == ['a/9.png', 'a/10.png']
    order.select_option(label='most lost against stock')
    # That of which nothing is known comes last.
    assert names(page)[0] == IMAGES[0]

    table = page.locator('#images-table')

    def column(k):
        return table.locator(f'tbody tr > :nth-child({k})').all_inner_texts()

    by_miou = column(1)
    assert column(2) == sorted(column(2), key=float)
    table.get_by_role('button', name='mIoU').click()
    assert column(1) == by_miou[::-1]
    headers = table.locator('th[aria-sort]')
    assert headers.nth(1).get_attribute('aria-sort') == 'descending'
    table.get_by_role('button', name='image').focus()
    page.keyboard.press('Enter')
    assert column(1)[:2] == ['a/9.png', 'a/10.png']
    table.get_by_role('link').first.click()
    target = page.evaluate("document.querySelector(':target').dataset.name")
    assert target == 'a/9.png'
