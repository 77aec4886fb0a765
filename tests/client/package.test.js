// The npm package, as it is packed and installed: found by Node and by TypeScript, minified with a source map.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const vm = require('node:vm');
const ts = require('typescript');

const NAME = 'switchback-events';
const PACKAGE = path.join(__dirname, '../../static');

// A project in which the package is installed.
const project = fs.mkdtempSync(path.join(os.tmpdir(), 'switchback-package-'));
const installed = path.join(project, 'node_modules', NAME);
test.after(() => fs.rmSync(project, { recursive: true, force: true }));

test.before(() => {
  const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', PACKAGE, '--json', '--silent', '--pack-destination', project], { encoding: 'utf8' }).replace(/^[^[]*/, ''));
  fs.mkdirSync(installed, { recursive: true });
  execFileSync('tar', ['--extract', '--gzip', '--strip-components=1', '--directory', installed, '--file', path.join(project, filename)]);
});

function write(name, text) {
  const file = path.join(project, name);
  fs.writeFileSync(file, text);
  return file;
}

const node = (name, text) => execFileSync(process.execPath, [write(name, text)], { encoding: 'utf8' }).trim();

test('every file that it exports is in it, and none of the tests or pages', () => {
  const files = fs.readdirSync(installed).sort();
  const manifest = require(path.join(installed, 'package.json'));
  const named = [manifest.main, manifest.module, manifest.types, manifest.unpkg, ...JSON.stringify(manifest.exports).match(/\.\/\w+\.[\w.]+/g)];
  for (const file of named) assert.ok(fs.existsSync(path.join(installed, file)), file);
  assert.ok(files.includes('README.md'));
  assert.deepEqual(files.filter((name) => !/^(client|share|state)\.|^package\.json$|^README\.md$/.test(name)), []);
});

test('it has the version of the server', () => {
  const cargo = fs.readFileSync(path.join(__dirname, '../../Cargo.toml'), 'utf8');
  assert.equal(require(path.join(installed, 'package.json')).version, cargo.match(/^version = "(.*)"/m)[1]);
});

test('Node finds it by import and by require, with the transport of share', () => {
  const asks = 'connect, transports.join()';
  assert.match(node('a.mjs', `import { connect, transports } from '${NAME}'; console.log(${asks});`), /function.* ws,sse/i);
  assert.match(node('b.mjs', `import Switchback from '${NAME}/share'; console.log(Switchback.transports.join());`), /shared/);
  assert.match(node('f.mjs', `import { state } from '${NAME}/state'; console.log(typeof state);`), /function/);
  assert.match(node('c.cjs', `const { connect, transports } = require('${NAME}'); console.log(${asks});`), /function.* ws,sse/i);
  assert.match(node('d.cjs', `const Switchback = require('${NAME}'); require('${NAME}/share'); console.log(Switchback.transports.join());`), /shared/);
  assert.match(node('e.cjs', `console.log(typeof require('${NAME}/client.min.js').connect);`), /function/);
});

test('TypeScript finds its types, in every way of finding modules', () => {
  const uses = `
    const line = Switchback.connect('', { topics: ['orders.>'], latest: true });
    line.on('$open', ({ transport }) => { const name: string = transport; void name; });
    line.on<{ by: string }>('approved', (item) => { const by: string = item.data.by; void by; });
    // @ts-expect-error: no such option
    Switchback.connect('', { topic: 'a' });
    export {};`;
  const sources = {
    'h.mts': `import Switchback, { connect } from '${NAME}'; import shared from '${NAME}/share'; import { state } from '${NAME}/state'; void connect; void shared; void state; ${uses}`,
    'g.cts': `import Switchback from '${NAME}'; import { connect } from '${NAME}'; import install from '${NAME}/share'; void connect; void install; ${uses}`,
  };
  const { ModuleKind, ModuleResolutionKind } = ts;
  const ways = {
    Node16: { module: ModuleKind.Node16, moduleResolution: ModuleResolutionKind.Node16 },
    NodeNext: { module: ModuleKind.NodeNext, moduleResolution: ModuleResolutionKind.NodeNext },
    Bundler: { module: ModuleKind.ESNext, moduleResolution: ModuleResolutionKind.Bundler },
  };
  const files = Object.entries(sources).map(([name, source]) => write(name, source));
  for (const [way, options] of Object.entries(ways)) {
    // A bundler has no CommonJS of TypeScript's.
    const roots = way === 'Bundler' ? files.slice(0, 1) : files;
    const program = ts.createProgram(roots, { ...options, strict: true, noEmit: true, target: ts.ScriptTarget.ES2022, lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'], types: [] });
    const found = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => `${file && path.basename(file.fileName)}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`);
    assert.deepEqual(found, [], way);
  }
});

test('the minified file is the same library, with a source map', () => {
  const text = fs.readFileSync(path.join(installed, 'client.min.js'), 'utf8');
  const page = vm.createContext({});
  page.window = page;
  const before = Object.keys(page);
  vm.runInContext(text, page);
  assert.deepEqual(Object.keys(page).filter((key) => !before.includes(key)), ['Switchback']);
  assert.deepEqual([...page.Switchback.transports], [...require('../../static/client.js').transports]);
  assert.match(text, /\/\/# sourceMappingURL=client\.min\.js\.map$/);
  const map = JSON.parse(fs.readFileSync(path.join(installed, 'client.min.js.map'), 'utf8'));
  assert.deepEqual(map.sources, ['client.js']);
  assert.equal(map.sourcesContent[0], fs.readFileSync(path.join(PACKAGE, 'client.js'), 'utf8'));
  assert.ok(map.mappings.length > 10000);
});
