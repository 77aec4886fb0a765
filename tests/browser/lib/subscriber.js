// A connection in a page, watched from here.
'use strict';

const assert = require('node:assert/strict');
const { newPage, until } = require('./browsers.js');

class Subscriber {
  /*
   * Closed at the end of the test `t`, also of one that failed: a page left open holds some of
   * the six connections that the next one needs. `options` go to Switchback.connect; `server` where it is not the page's own origin. By
   * names rather than '*', so that EventSource is judged on what it promises. `mint` returns the page's next token
   * at each request.
   */
  static async open(t, browser, network, { options, server = '', without = '', mint }) {
    const subscriber = new Subscriber();
    const page = subscriber.page = await newPage(browser);
    t.after(() => subscriber.close());
    await page.goto(`${network.url}/__page?without=${without}`);
    if (mint) await page.exposeFunction('mint', mint);
    await page.evaluate(`(function (options, server) {
      window.tokenCalls = 0;
      if (window.mint) options.token = function (done) { tokenCalls += 1; mint().then(function (token) { done(null, token); }, done); };
      window.seen = []; window.controls = []; window.faults = [];
      // Collected in the page: Firefox's driver also calls a refused connection an error of the page.
      window.onerror = function (message) { faults.push(String(message)); };
      window.line = Switchback.connect(server, options);
      function receive(item) { seen.push(item); }
      var names = ['message', '__proto__', 'constructor', 'approved'];
      for (var i = 0; i < names.length; i++) line.on(names[i], receive);
      var control = ['$open', '$switch', '$gap', '$live', '$error', '$close'];
      function record(name) { line.on(name, function (data) { controls.push([name, data]); }); }
      for (i = 0; i < control.length; i++) record(control[i]);
    })(${JSON.stringify(options)}, ${JSON.stringify(server)})`);
    return subscriber;
  }

  get(expression) { return this.page.evaluate(expression); }

  async opened(ms) {
    await until('the connection is open', () => this.get("line.state === 'open'"), ms);
    return this.get('line.transport');
  }

  over(names, ms) { return until(`it runs over ${names}`, async () => names.includes(await this.get("line.state === 'open' && line.transport")), ms); }

  // Taken apart here: an old browser's arrays have no `map`.
  async data() { return JSON.parse(await this.get('JSON.stringify(seen)')).map((item) => item.data); }

  // With a callback: an old browser has no promises.
  async switchTo(name) {
    await this.get(`window.switched = null, line.switchTo('${name}', function (error) { switched = error ? error.message : true; }), 1`);
    const result = await until(`the switch to ${name} ends`, () => this.get('switched'));
    assert.equal(result, true, `switching to ${name}`);
  }

  // Exactly these, in this order, and nothing after them.
  async receives(expected, ms = 20000) {
    await until(`${expected.length} events are received`, async () => (await this.get('seen.length')) >= expected.length, ms).catch(async (error) => {
      throw new Error(`${error.message}; on ${JSON.stringify(await this.get('[line.transport, line.state, line.cursor, controls.slice(-5)]'))}`);
    });
    assert.deepEqual(await this.data(), expected);
    await this.sound();
  }

  async sound() { assert.deepEqual(await this.get('faults'), []); }

  // The connection first: what a page writes to its storage as it goes, Firefox may lose, and its place among those held with it.
  async close() {
    if (this.page.isClosed()) return;
    await this.get('line.close(), 1').catch(() => {});
    await this.page.close();
  }
}

module.exports = { Subscriber };
