// Minifies the client library's scripts, with source maps, beside them: static/*.min.js. `npm pack` runs it; the plain files need no
// build. The minifier is that of the client's tests: run tests/client/install first.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '../..');
const require = createRequire(path.join(root, 'tests/client/package.json'));

let minify;
try {
  ({ minify } = require('terser'));
} catch {
  console.error('terser is missing: run tests/client/install');
  process.exit(1);
}

// `ie8`: what the library is written for. share.js needs browsers of 2018, and may use their syntax.
const SCRIPTS = { client: { ie8: true }, state: { ie8: true }, share: { ecma: 2018 } };

for (const [name, options] of Object.entries(SCRIPTS)) {
  const file = path.join(root, 'static', `${name}.js`);
  const { code, map } = await minify({ [`${name}.js`]: fs.readFileSync(file, 'utf8') }, {
    ...options,
    format: { comments: false },
    sourceMap: { includeSources: true, filename: `${name}.min.js`, url: `${name}.min.js.map` },
  });
  fs.writeFileSync(path.join(root, 'static', `${name}.min.js`), code);
  fs.writeFileSync(path.join(root, 'static', `${name}.min.js.map`), map);
}
