// Debian's browsers. Chromium (over CDP) and Firefox (over WebDriver BiDi) are driven by puppeteer, which does all that the
// pages' tests need. WebKitGTK and QtWebKit do what the transports' tests need: see webkit.js.
'use strict';

const puppeteer = require('puppeteer-core');
const webkits = require('./webkit.js');

const BROWSERS = {
  chromium: {
    executablePath: '/usr/bin/chromium',
    // It looks for servers of its maker's otherwise, many at a time.
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  },
  firefox: {
    browser: 'firefox',
    executablePath: '/usr/bin/firefox-esr',
    headless: true,
    // Tests run several pages at once. Timers of pages in the background are throttled otherwise; puppeteer turns that off in Chromium only.
    extraPrefsFirefox: { 'dom.min_background_timeout_value': 4, 'dom.timeout.enable_budget_timer_throttling': false, 'network.captive-portal-service.enabled': false, 'network.connectivity-service.enabled': false, 'app.update.enabled': false, 'datareporting.policy.dataSubmissionEnabled': false, 'browser.safebrowsing.downloads.remote.enabled': false },
  },
};

const launch = (name) => (webkits[name] ? webkits[name]() : puppeteer.launch(BROWSERS[name]));

// A new page. Firefox's driver sometimes loses a window that opens while another closes.
async function newPage(browser) {
  try {
    return await browser.newPage();
  } catch (error) {
    if (!/DiscardedBrowsingContext/.test(error.message)) throw error;
    return browser.newPage();
  }
}

// Collects the page's errors, and refusals by its Content-Security-Policy, in `page.faults`.
function collectFaults(page) {
  page.faults = [];
  // Firefox's driver also calls a refused connection, and one that a reload cuts, an error of the page.
  page.on('pageerror', (error) => { if (!/can.t establish a connection|was interrupted while/.test(error.message)) page.faults.push(error.message); });
  page.on('console', (message) => { if (message.type() === 'error' && /Content.Security.Policy/i.test(message.text())) page.faults.push(message.text()); });
}

// Polls until the value is truthy, every 50 ms, and returns it; the error contains the last value.
async function until(what, poll, ms = 15000) {
  const end = Date.now() + ms;
  let last;
  for (;;) {
    try { last = await poll(); } catch (error) { last = error; }
    if (last && !(last instanceof Error)) return last;
    if (Date.now() > end) throw new Error(`waited ${ms} ms in vain until ${what}; last: ${last instanceof Error ? last.message : JSON.stringify(last)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const engines = (process.env.BROWSERS || 'chromium firefox webkitgtk qtwebkit').split(' ');

module.exports = { engines, names: engines.filter((name) => BROWSERS[name]), launch, newPage, collectFaults, until };
