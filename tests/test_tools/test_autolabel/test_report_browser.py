"""The report on auto-labels in a real browser: from disk, offline.

Needs ``pip install playwright`` and a Chromium: Debian's ``chromium``,
Google's, or that of ``playwright install chromium``.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

sync_api = pytest.importorskip(
    'playwright.sync_api', reason='needs pip install playwright'
)
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / 'test_autolabel'))
# Last: another tool has a module of the name of this one.
sys.path.append(str(HERE.parents[2] / 'tools'))

from autolabel_reporting.run import ReportOptions, make_report  # noqa: E402
from report_trees import (  # noqa: E402
    config_text,
    fake_pairs,
    make_meta,
    write_tree,
    write_truths,
)

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
# Long names: what does not fit into a phone by itself.
NAMES = [f'city/{"a_long_name_" * 8}{i:06}_leftImg8bit' for i in range(4)]


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    root = tmp_path_factory.mktemp('report')
    pairs, truths = fake_pairs(NAMES)
    meta = make_meta()
    failures = [dict(name='x' * 90, image='x', reason='grey', error='y' * 90)]
    out = write_tree(root / 'out', pairs, meta=meta, failures=failures)
    write_tree(out / 'check', pairs, meta=meta)
    write_tree(root / 'before', fake_pairs(NAMES, 1)[0], meta=meta)
    write_truths(root / 'val', truths)
    config = root / 'config.py'
    config.write_text(config_text(val_dataloader=root / 'val'))
    key = 'config:val_dataloader'
    options = ReportOptions(
        *(str(config), key, key, key),
        previous=root / 'before',
        workers=0,
        shows_progress=False,
    )
    return make_report(out, options)


@pytest.fixture(scope='module')
def page(path):
    """Return the page in a window; there was no error and no request."""
    with sync_api.sync_playwright() as playwright:
        paths = [
            *map(shutil.which, BROWSERS),
            playwright.chromium.executable_path,
        ]
        found = [path for path in paths if path and os.path.exists(path)]
        if not found:
            pytest.skip(f'no browser: none of {", ".join(BROWSERS)}')
        # Within a container there is often no sandbox.
        browser = playwright.chromium.launch(
            executable_path=found[0], args=['--no-sandbox']
        )
        page = browser.new_context(offline=True).new_page()
        troubles, requests = [], []
        page.on('console', lambda said: troubles.append(said.text))
        page.on('pageerror', lambda error: troubles.append(str(error)))
        page.on('request', lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.evaluate(
            "document.querySelectorAll('details').forEach(d => d.open = true)"
        )
        yield page
        browser.close()
    assert troubles == []
    assert [url for url in requests if url[:5] != 'data:'] == [path.as_uri()]


@pytest.mark.parametrize('width', [1280, 390])
def test_it_fits_the_window(page, width):
    page.set_viewport_size(dict(width=width, height=850))
    assert page.evaluate('document.documentElement.scrollWidth') == width
    # What is wider is within what can be scrolled.
    wide = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(
          one => one.getBoundingClientRect().right > innerWidth + 1
            && !one.closest('.wide, .high')).map(one => one.outerHTML)"""
    )
    assert wide == []


def test_light_and_dark(page):
    for scheme in ('light', 'dark'):
        page.emulate_media(color_scheme=scheme)
        ink, back = page.evaluate(
            """() => { const style = getComputedStyle(document.body);
              return [style.color, style.backgroundColor].map(
                text => text.match(/\\d+/g).slice(0, 3).map(Number)); }"""
        )
        assert (sum(ink) < sum(back)) == (scheme == 'light')


def test_all_pictures_are_shown(page):
    widths = page.evaluate(
        """() => Promise.all([...document.querySelectorAll('img')].map(
          async image => {
            image.loading = 'eager';
            await image.decode();
            return image.naturalWidth;
          }))"""
    )
    # Label and confidence of each; the images are not there.
    assert widths == [64] * 2 * len(NAMES)
    assert page.get_by_text('not found').count() == len(NAMES)


def test_plots_show_the_numbers(page):
    # Bars of the reliability diagram reach as high as the table says.
    bars = page.evaluate(
        """() => [...document.querySelectorAll('.bar-right')].map(
          bar => 100 * bar.height.baseVal.value / 220)"""
    )
    rows = page.locator('#bins tbody tr td:last-child').all_inner_texts()
    known = [float(text) for text in rows if text != '\N{EN DASH}']
    assert bars == pytest.approx(known, abs=0.1)
    # The curve of coverage begins at the top and ends below it.
    ends = page.evaluate(
        """() => { const path = document.querySelector('path.all');
          const end = path.getTotalLength();
          return [0, end].map(at => path.getPointAtLength(at))
            .map(point => [point.x, point.y]); }"""
    )
    assert ends[0] == pytest.approx([44, 12], abs=0.2)
    assert ends[1][0] == pytest.approx(344, abs=0.2)
    assert ends[1][1] > 220
