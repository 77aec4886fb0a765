// The npm package in bundlers, in Next's rendering on the server, and in Deno.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const WORK = path.join(__dirname, 'node_modules/.work');
const WANTED = 'connect is a function, with shared';

// An application: named and default imports, and the library with several tabs.
const APPLICATION = `
  import { connect } from 'switchback-events';
  import Switchback from 'switchback-events/share';
  const shared = Switchback.transports.includes('shared') ? 'shared' : 'nothing';
  document.title = 'connect is a ' + typeof connect + ', with ' + shared;
`;

// An empty folder with the application in it, in a project with this manifest. Below node_modules, the package is found from there.
function project(name, manifest = {}) {
  const folder = path.join(WORK, name);
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'package.json'), JSON.stringify({ name: 'application', private: true, ...manifest }));
  fs.writeFileSync(path.join(folder, 'main.js'), APPLICATION);
  return folder;
}

// What a page has in its title once it has run the script as a module or as a plain one.
function title(script, type) {
  const page = `globalThis.window = globalThis; globalThis.document = { title: '', querySelector() { return null; }, getElementsByTagName() { return []; }, createElement() { return {}; } };`;
  const file = path.join(path.dirname(script), `page.${type === 'module' ? 'mjs' : 'cjs'}`);
  const load = type === 'module' ? `await import(${JSON.stringify(script)});` : `require('node:vm').runInThisContext(require('node:fs').readFileSync(${JSON.stringify(script)}, 'utf8'));`;
  fs.writeFileSync(file, `${page}\n${load}\nconsole.log(document.title); process.exit();`);
  return execFileSync(process.execPath, [file], { encoding: 'utf8' }).trim();
}

// Where modules are the default, and where unused files are left out: each has broken a library before.
const MANIFESTS = { plain: {}, modules: { type: 'module' }, pure: { sideEffects: false } };

for (const [kind, manifest] of Object.entries(MANIFESTS)) {
  test(`esbuild, ${kind}`, async () => {
    const folder = project(`esbuild-${kind}`, manifest);
    for (const format of ['iife', 'esm']) {
      const outfile = path.join(folder, `${format}.js`);
      await require('esbuild').build({ entryPoints: [path.join(folder, 'main.js')], bundle: true, minify: true, format, outfile, logLevel: 'error' });
      assert.equal(title(outfile, 'script'), WANTED, format);
    }
  });

  test(`webpack, ${kind}`, async () => {
    const folder = project(`webpack-${kind}`, manifest);
    const configuration = { mode: 'production', context: folder, entry: './main.js', output: { path: path.join(folder, 'out'), filename: 'main.js' } };
    const stats = await new Promise((resolve, reject) => {
      require('webpack')(configuration, (error, stats) => { if (error) reject(error); else resolve(stats); });
    });
    assert.deepEqual(stats.toJson({ all: false, errors: true, warnings: true }), { errors: [], warnings: [] });
    assert.equal(title(path.join(folder, 'out/main.js'), 'script'), WANTED);
  });

  test(`Vite, ${kind}`, async () => {
    const folder = project(`vite-${kind}`, manifest);
    fs.writeFileSync(path.join(folder, 'index.html'), '<script type="module" src="/main.js"></script>');
    const { build } = await import('vite');
    await build({ root: folder, configFile: false, logLevel: 'error', build: { modulePreload: { polyfill: false } } });
    const [script] = fs.readdirSync(path.join(folder, 'dist/assets')).filter((name) => name.endsWith('.js'));
    assert.equal(title(path.join(folder, 'dist/assets', script), 'module'), WANTED);
  });
}

test('Vite\'s development server serves it as modules', async (t) => {
  const folder = project('vite-development');
  fs.writeFileSync(path.join(folder, 'index.html'), '<script type="module" src="/main.js"></script>');
  const { createServer } = await import('vite');
  const server = await createServer({ root: folder, configFile: false, logLevel: 'error', server: { host: '127.0.0.1', port: 0, strictPort: false } });
  t.after(() => server.close());
  await server.listen();
  const base = server.resolvedUrls.local[0];
  const text = async (address) => { const response = await fetch(new URL(address, base)); assert.equal(response.status, 200, address); return response.text(); };
  const main = await text('/main.js');
  const [, address] = main.match(/from "([^"]*switchback-events\.js[^"]*)"/);
  assert.match(await text(address), /export|module\.exports/);
});

test('Next renders a component with it on the server', () => {
  const folder = path.join(__dirname, 'next');
  execFileSync(process.execPath, [path.join(__dirname, 'node_modules/next/dist/bin/next'), 'build'], { cwd: folder, stdio: 'pipe', env: { ...process.env, NEXT_TELEMETRY_DISABLED: '1' } });
  const page = fs.readFileSync(path.join(folder, '.next/server/app/index.html'), 'utf8');
  assert.match(page, /<p[^>]*>transports: ws,sse,/);
});

test('Deno runs it', () => {
  const folder = project('deno', { type: 'module' });
  fs.writeFileSync(path.join(folder, 'deno.mjs'), "import { connect, transports } from 'switchback-events'; console.log(typeof connect, transports[0]);");
  const binary = path.join(__dirname, 'node_modules/.bin/deno');
  const text = execFileSync(binary, ['run', '--node-modules-dir=manual', '--no-lock', 'deno.mjs'], { cwd: folder, encoding: 'utf8', env: { ...process.env, DENO_NO_UPDATE_CHECK: '1', NO_COLOR: '1' } });
  assert.equal(text.trim(), 'function ws');
});
