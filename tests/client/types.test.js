// The declarations, as TypeScript reads them in its strictest mode, the way Node and the way bundlers find modules.
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const ts = require('typescript');

const FOLDER = path.join(__dirname, 'types');
const WAYS = {
  nodenext: { module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext },
  bundler: { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler },
};

function problems(file, way) {
  const program = ts.createProgram([file], { ...WAYS[way], strict: true, noEmit: true, target: ts.ScriptTarget.ES2022, lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'], types: [] });
  return ts.getPreEmitDiagnostics(program).map((found) => `${found.file ? path.basename(found.file.fileName) : ''}: ${ts.flattenDiagnosticMessageText(found.messageText, ' ')}`);
}

for (const name of fs.readdirSync(FOLDER)) {
  for (const way of Object.keys(WAYS)) {
    test(`${name}, modules found by ${way}`, () => assert.deepEqual(problems(path.join(FOLDER, name), way), []));
  }
}
