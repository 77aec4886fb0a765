// The server under test: the binary named by SWITCHBACK_BIN, on a free port, with its own data.
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { until } = require('./browsers.js');
const { freePort } = require('./port.js');

const BIN = process.env.SWITCHBACK_BIN;

class Server {
  static async start(...flags) {
    if (!BIN) throw new Error('Set SWITCHBACK_BIN to the path of the server binary.');
    const server = new Server();
    // The same after a restart.
    server.port = await freePort();
    server.data = fs.mkdtempSync(path.join(os.tmpdir(), 'switchback-'));
    server.flags = flags;
    server.url = `http://127.0.0.1:${server.port}`;
    await server.boot();
    return server;
  }

  async boot() {
    this.process = spawn(BIN, ['serve', '--listen', `127.0.0.1:${this.port}`, '--data', this.data, ...this.flags], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.stderr = '';
    this.process.stderr.on('data', (text) => { this.stderr = (this.stderr + text).slice(-4000); });
    this.gone = new Promise((resolve) => this.process.on('exit', resolve));
    await until(`the server answers (${this.stderr})`, async () => (await fetch(this.url + '/v1/info')).ok);
  }

  async kill(signal = 'SIGKILL') {
    this.process.kill(signal);
    await this.gone;
  }

  async stop() {
    await this.kill();
    fs.rmSync(this.data, { recursive: true, force: true });
  }

  // `token`: what publishing takes, where the server asks.
  headers() { return { 'Content-Type': 'application/json', ...(this.token && { Authorization: `Bearer ${this.token}` }) }; }

  async publish(topic, data, more = {}) {
    const response = await fetch(this.url + '/v1/events', { method: 'POST', headers: this.headers(), body: JSON.stringify({ topic, data, ...more }) });
    if (response.status !== 201) throw new Error(`publish: ${response.status} ${await response.text()}`);
    return response.json();
  }

  publishAll(topic, values) { return this.publishEvents(values.map((data) => ({ topic, data }))); }

  // One batch: one commit, however many.
  async publishEvents(events) {
    const response = await fetch(this.url + '/v1/events', { method: 'POST', headers: this.headers(), body: JSON.stringify(events) });
    if (response.status !== 201) throw new Error(`publish: ${response.status} ${await response.text()}`);
  }

  // As it stands, byte by byte: for payloads that JSON.stringify would not write so.
  async publishRaw(topic, json) {
    const response = await fetch(this.url + '/v1/events', { method: 'POST', headers: this.headers(), body: `{"topic":${JSON.stringify(topic)},"data":${json}}` });
    if (response.status !== 201) throw new Error(`publish: ${response.status} ${await response.text()}`);
    return response.json();
  }
}

module.exports = { Server };
