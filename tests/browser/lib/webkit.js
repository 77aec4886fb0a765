// The WebKits of Debian, with as much of puppeteer's interface as the tests of the transports need: WebKitGTK, this
// year's engine, by its WebDriver; QtWebKit, an engine of 2016, by a small program of ours (qtwebkit.py).
'use strict';

const { spawn } = require('node:child_process');
const path = require('node:path');
const readline = require('node:readline');
const { Builder } = require('selenium-webdriver');
const { freePort } = require('./port.js');

const POLL_MS = 20;
const START_MS = 30000;

/*
 * One page. `engine` has open, goto, back, run and close, which take a page's name; `run` evaluates a script at once
 * and gives back its text. What the script's value takes longer to become is polled: one way for
 * both engines, of which one knows nothing of promises.
 */
class Page {
  constructor(engine, name) { Object.assign(this, { engine, name, closed: false, slots: 0 }); }

  goto(url) { return this.engine.goto(this.name, url); }
  goBack() { return this.engine.back(this.name); }
  isClosed() { return this.closed; }

  async close() {
    this.closed = true;
    await this.engine.close(this.name);
  }

  // `expression` is one, as text. A promise is awaited, a rejection thrown.
  async evaluate(expression) {
    const slot = `answer ${this.slots += 1}`;
    let answer = JSON.parse(await this.engine.run(this.name, `(function () {
      function failed(error) { return JSON.stringify({ error: String(error && error.message || error) }); }
      try { var value = (${expression}\n); } catch (error) { return failed(error); }
      if (!value || typeof value.then !== 'function') return JSON.stringify({ value: value });
      value.then(function (value) { window['${slot}'] = JSON.stringify({ value: value }); }, function (error) { window['${slot}'] = failed(error); });
      return '{"later":true}';
    }())`));
    while (answer.later) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      answer = JSON.parse(await this.engine.run(this.name, `window['${slot}'] || '{"later":true}'`));
    }
    if ('error' in answer) throw new Error(answer.error);
    return answer.value;
  }
}

class Browser {
  constructor(engine) { this.engine = engine; }
  async newPage() { return new Page(this.engine, await this.engine.open()); }
  close() { return this.engine.end(); }
}

// What a program says first on its standard output.
function firstLine(child) {
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`${child.spawnfile} ended with ${code}`)));
    readline.createInterface({ input: child.stdout }).once('line', resolve);
  });
}

function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return undefined;
  return new Promise((resolve) => { child.on('exit', resolve); child.kill(); });
}

// ---------------------------------------------------------------- WebKitGTK

class WebKitGtk {
  static async start() {
    const engine = new WebKitGtk();
    // It has no headless mode.
    engine.screen = spawn('Xvfb', ['-displayfd', '1', '-screen', '0', '1280x900x24', '-nolisten', 'tcp'], { stdio: ['ignore', 'pipe', 'ignore'] });
    const DISPLAY = ':' + await firstLine(engine.screen);
    const port = await freePort();
    engine.server = spawn('WebKitWebDriver', [`--port=${port}`], { env: { ...process.env, DISPLAY }, stdio: 'ignore' });
    engine.driver = await engine.connect(`http://127.0.0.1:${port}`);
    // New windows are opened from here: the current one may have been closed.
    engine.first = await engine.driver.getWindowHandle();
    // A driver has one current window: orders to different pages go one after the other.
    engine.last = Promise.resolve();
    return engine;
  }

  async connect(url) {
    for (const end = Date.now() + START_MS; ;) {
      try { return await new Builder().usingServer(url).withCapabilities({ browserName: 'MiniBrowser' }).build(); } catch (error) {
        if (error.code !== 'ECONNREFUSED' && !/ECONNREFUSED/.test(error.message) || Date.now() > end) throw error;
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    }
  }

  inTurn(order) {
    const result = this.last.then(order);
    this.last = result.catch(() => {});
    return result;
  }

  at(page, order) { return this.inTurn(async () => { await this.driver.switchTo().window(page); return order(); }); }

  open() { return this.at(this.first, async () => { await this.driver.switchTo().newWindow('tab'); return this.driver.getWindowHandle(); }); }
  goto(page, url) { return this.at(page, () => this.driver.get(url)); }
  back(page) { return this.at(page, () => this.driver.navigate().back()); }
  run(page, script) { return this.at(page, () => this.driver.executeScript('return ' + script)); }
  close(page) { return this.at(page, () => this.driver.close()); }

  async end() {
    await this.inTurn(() => this.driver.quit()).catch(() => {});
    await stop(this.server);
    await stop(this.screen);
  }
}

// ---------------------------------------------------------------- QtWebKit

class QtWebKit {
  static async start() {
    const engine = new QtWebKit();
    engine.waiting = new Map();
    engine.ids = 0;
    // The system's interpreter: the bindings come from its packages.
    engine.child = spawn('/usr/bin/python3', [path.join(__dirname, 'qtwebkit.py')], { stdio: ['pipe', 'pipe', 'ignore'] });
    engine.child.on('exit', () => { for (const { reject } of engine.waiting.values()) reject(new Error('QtWebKit is gone')); });
    readline.createInterface({ input: engine.child.stdout }).on('line', (line) => {
      const { id, value } = JSON.parse(line);
      engine.waiting.get(id).resolve(value);
      engine.waiting.delete(id);
    });
    return engine;
  }

  order(order) {
    const id = this.ids += 1;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.child.stdin.write(JSON.stringify({ id, ...order }) + '\n');
    });
  }

  open() { return this.order({ do: 'open' }); }
  goto(page, url) { return this.order({ do: 'goto', page, url }); }
  back(page) { return this.order({ do: 'back', page }); }
  run(page, script) { return this.order({ do: 'run', page, script }); }
  close(page) { return this.order({ do: 'close', page }); }
  end() { return stop(this.child); }
}

module.exports = {
  webkitgtk: async () => new Browser(await WebKitGtk.start()),
  qtwebkit: async () => new Browser(await QtWebKit.start()),
};
