"""Pages in Chromium."""

import os
import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def chromium():
    """A browser; the test is skipped where there is none, but fails in CI."""
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    names = ('chromium', 'chromium-browser', 'google-chrome')
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        missing = f'no Chromium found: none of {", ".join(names)} on the path'
        pytest.fail(missing) if os.environ.get('CI') else pytest.skip(missing)
    options = 'no-sandbox disable-gpu disable-quic no-first-run disable-background-networking '
    options += 'disable-component-update disable-sync'
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=[f'--{option}' for option in options.split()]
        )
        yield browser
        browser.close()


class Visit:
    """A page, with the errors and requests that it made."""

    def __init__(self, browser, path, **options):
        self.errors, self.requests = [], []
        self.page = browser.new_page(**options)
        self.page.on('pageerror', lambda error: self.errors.append(str(error)))
        self.page.on(
            'console', lambda m: m.type in ('error', 'warning') and self.errors.append(m.text)
        )
        self.page.on('request', lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri(), wait_until='load')
