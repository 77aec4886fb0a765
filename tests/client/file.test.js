// The file itself: old syntax, few bytes, one global.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');
const zlib = require('node:zlib');
const acorn = require('acorn');
const walk = require('acorn-walk');
const { minify } = require('terser');

const folder = path.join(__dirname, '../../static');
const read = (name) => fs.readFileSync(path.join(folder, name), 'utf8');

// ECMA-262, 3rd edition, 7.5.2 to 7.5.4. Parsers of today let them pass as property names.
const RESERVED = new Set(('break case catch continue default delete do else finally for function if in instanceof new return switch this throw try typeof var void while with '
  + 'abstract boolean byte char class const debugger double enum export extends final float goto implements import int interface long native package private protected '
  + 'public short static super synchronized throws transient volatile null true false').split(' '));

function es3Problems(source) {
  const problems = [];
  const tree = acorn.parse(source, { ecmaVersion: 3, locations: true });
  const complain = (node, what) => problems.push(`line ${node.loc.start.line}: ${what}`);
  walk.full(tree, (node) => {
    if (node.type === 'MemberExpression' && !node.computed && RESERVED.has(node.property.name)) complain(node, `.${node.property.name}`);
    if (node.type === 'Property' && node.key.type === 'Identifier' && RESERVED.has(node.key.name)) complain(node, `{ ${node.key.name}: }`);
    if (node.type === 'Identifier' && RESERVED.has(node.name)) complain(node, node.name);
  });
  // IE 8 counts a comma at the end of an array as one more element; acorn forgives it at this level.
  for (const token of acorn.tokenizer(source, { ecmaVersion: 3, locations: true })) {
    if (token.type.label === ',' && /^\s*[\]}]/.test(source.slice(token.end))) problems.push(`line ${token.loc.start.line}: trailing comma`);
  }
  return problems;
}

for (const name of ['client.js', 'state.js', 'legacy.js', 'token.js']) {
  test(`${name} is ES3`, () => {
    if (!fs.existsSync(path.join(folder, name))) assert.fail(`${name} is missing`);
    assert.deepEqual(es3Problems(read(name)), []);
  });
}

test('the ES3 check sees what ES3 lacks', () => {
  assert.throws(() => es3Problems('const a = 1;'));
  assert.throws(() => es3Problems('var a = () => 1;'));
  assert.throws(() => es3Problems('var a = { get b() { return 1; } };'));
  assert.equal(es3Problems('p.catch(f);').length, 1);
  assert.equal(es3Problems('var a = { "default": 1 };').length, 0);
  assert.equal(es3Problems('var a = { default: 1 };').length, 1);
  assert.equal(es3Problems('var a = [1, 2,];').length, 1);
});

test('client.js is at most 24 KiB gzipped, and 16 KiB if it is minified first; its lines have at most 110 columns', async () => {
  const source = read('client.js');
  const size = (text) => zlib.gzipSync(text, { level: 9 }).length;
  const { code } = await minify(source, { ie8: true });
  assert.ok(size(source) <= 24 * 1024, `${size(source)} bytes`);
  assert.ok(size(code) <= 16 * 1024, `${size(code)} bytes minified`);
  assert.deepEqual(source.split('\n').filter((line) => line.length > 110), []);
});

test('state.js is at most 4 KiB gzipped; its lines have at most 130 columns', () => {
  const source = read('state.js');
  const size = zlib.gzipSync(source, { level: 9 }).length;
  assert.ok(size <= 4 * 1024, `${size} bytes`);
  assert.deepEqual(source.split('\n').filter((line) => line.length > 130), []);
});

test('as a script it makes one global, as CommonJS none', () => {
  const page = vm.createContext({});
  page.window = page;
  const before = Object.keys(page);
  vm.runInContext(read('client.js'), page);
  assert.deepEqual(Object.keys(page).filter((key) => !before.includes(key)), ['Switchback']);

  const modular = vm.createContext({ module: { exports: {} } });
  modular.window = modular;
  const names = Object.keys(modular);
  vm.runInContext(read('client.js'), modular);
  assert.deepEqual(Object.keys(modular), names);
  assert.equal(typeof modular.module.exports.connect, 'function');
});

// esbuild, and so Vite up to 7, wraps a chunk in which it finds `module` as CommonJS: what is exported there reaches nobody.
test('in a page it is also the global where there is a module, unless the page has one', () => {
  for (const own of [undefined, { connect: 'the page\'s' }]) {
    const page = vm.createContext({ module: { exports: {} }, document: {} });
    page.window = page;
    if (own) page.Switchback = own;
    vm.runInContext(read('client.js'), page);
    assert.equal(page.Switchback, own || page.module.exports);
  }
});

test('it needs nothing that Internet Explorer 8 lacks to be loaded', () => {
  const old = vm.createContext({});
  old.window = old;
  vm.runInContext(`
    delete Array.prototype.forEach; delete Array.prototype.map; delete Array.prototype.filter; delete Array.prototype.indexOf;
    delete Function.prototype.bind; delete Object.keys; delete Object.create; delete Date.now; delete String.prototype.trim;
    delete Array.isArray; Promise = undefined; Symbol = undefined;
    XMLHttpRequest = function () { this.open = this.send = this.abort = this.setRequestHeader = function () {}; };
    setTimeout = function () {}; clearTimeout = function () {};
    location = { protocol: 'http:', host: 'old.test' };`, old);
  vm.runInContext(read('client.js'), old);
  assert.deepEqual([...vm.runInContext(`
    var line = Switchback.connect('', { topics: ['a'] });
    var seen = [];
    line.on('$close', function (how) { seen.push(how.reason); });
    line.subscribe('b'); line.unsubscribe('a');
    seen.push(line.state); line.close(); seen.push(line.state); seen`, old)], ['connecting', 'closed', 'closed']);
});

test('state.js adds to the global as a script, to client.js as CommonJS, and needs nothing that Internet Explorer 8 lacks', () => {
  const page = vm.createContext({});
  page.window = page;
  vm.runInContext('delete Array.prototype.forEach; delete Array.prototype.indexOf; delete Object.keys; delete Object.create; Map = undefined;', page);
  vm.runInContext(read('client.js'), page);
  vm.runInContext(read('state.js'), page);
  assert.equal(typeof page.Switchback.state, 'function');
  assert.equal(typeof page.Switchback.members, 'function');
  const library = require('../../static/client.js');
  assert.equal(require('../../static/state.js')(library), library);
  assert.equal(typeof library.state, 'function');
});

test('the module exports the same library', async () => {
  const module = await import(path.join(folder, 'client.mjs'));
  assert.equal(typeof module.connect, 'function');
  assert.equal(module.default.connect, module.connect);
  const states = await import(path.join(folder, 'state.mjs'));
  assert.equal(states.default, module.default);
  assert.equal(states.state, module.default.state);
});
