// Tokens for a server that asks for them, and the flag by which it knows their secret.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const SECRET = 'a secret of enough random bytes, 32+';

function sign(claims, seconds) {
  const text = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const message = `${text({ alg: 'HS256', typ: 'JWT' })}.${text({ exp: Math.floor(Date.now() / 1000) + seconds, ...claims })}`;
  return `${message}.${crypto.createHmac('sha256', SECRET).update(message).digest('base64url')}`;
}

// Flags of `serve`. The file goes at the end of the test `t`.
function keyed(t) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'switchback-secret-'));
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }));
  const secret = path.join(directory, 'secret');
  fs.writeFileSync(secret, SECRET);
  return ['--jwt-secret-file', secret];
}

module.exports = { sign, keyed };
