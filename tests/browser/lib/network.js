// What stands between: HTTP proxies that misbehave as real ones do. Each is also the page's
// origin and serves one empty page with the client in it, at `/__page`.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const path = require('node:path');
const zlib = require('node:zlib');

const CLIENT = path.join(__dirname, '../../../static/client.js');

// `without` takes APIs away before the client is loaded, as an older browser would.
function page(query) {
  const without = (query.get('without') || '').split(',').filter(Boolean);
  const remove = without.map((name) => `try { delete window.${name}; } catch (e) {} try { window.${name} = undefined; } catch (e) {}`).join('\n');
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>test</title><link rel="icon" href="data:,"><script>${remove}</script><script src="/client.js"></script><body></body></html>`;
}

class Network {
  // `habits` are the functions of one of NETWORKS below.
  static async start(server, habits = {}) {
    const network = new Network();
    Object.assign(network, { target: server.port, habits, requests: 0, upgraded: 0, sockets: new Set() });
    network.http = http.createServer((request, response) => network.handle(request, response));
    // Node's own keep-alive timer would replace the idle timeout of a network on each connection that is used again.
    network.http.keepAliveTimeout = 0;
    network.http.on('upgrade', (request, socket, head) => network.upgrade(request, socket, head));
    network.http.on('connection', (socket) => {
      network.sockets.add(socket);
      socket.on('close', () => network.sockets.delete(socket));
      if (habits.connection) habits.connection(socket);
    });
    await new Promise((resolve) => network.http.listen(0, '127.0.0.1', resolve));
    network.port = network.http.address().port;
    network.url = `http://127.0.0.1:${network.port}`;
    return network;
  }

  stop() {
    for (const socket of this.sockets) socket.destroy();
    return new Promise((resolve) => this.http.close(resolve));
  }

  handle(request, response) {
    const url = new URL(request.url, this.url);
    if (url.pathname === '/__page') { response.writeHead(200, { 'Content-Type': 'text/html' }); response.end(page(url.searchParams)); return; }
    // This tree's client, whatever the binary carries.
    if (url.pathname === '/client.js') { response.writeHead(200, { 'Content-Type': 'text/javascript' }); response.end(fs.readFileSync(CLIENT)); return; }
    // What the application itself answers: path -> function of the query, for the body.
    const route = this.habits.routes && this.habits.routes[url.pathname];
    if (route) { Promise.resolve(route(url.search.slice(1))).then((body) => { response.writeHead(200, { 'Content-Type': 'application/json' }); response.end(body); }); return; }
    if (url.pathname.startsWith('/v1/')) {
      this.requests += 1;
      if (this.habits.refuse && this.habits.refuse(this.requests, response)) return;
    }
    const upstream = http.request({ host: '127.0.0.1', port: this.target, method: request.method, path: request.url, headers: request.headers }, (answer) => {
      (this.habits.answer || passOn)(answer, response, request);
    });
    upstream.on('error', () => { if (response.headersSent) response.destroy(); else { response.writeHead(502); response.end('<h1>502</h1>'); } });
    response.on('close', () => upstream.destroy());
    request.pipe(upstream);
  }

  upgrade(request, socket, head) {
    socket.on('error', () => {});
    if (this.habits.noUpgrade) { socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n'); return; }
    this.upgraded += 1;
    socket.on('close', () => { this.upgraded -= 1; });
    const upstream = net.connect(this.target, '127.0.0.1', () => {
      const headers = [];
      for (let i = 0; i < request.rawHeaders.length; i += 2) headers.push(`${request.rawHeaders[i]}: ${request.rawHeaders[i + 1]}\r\n`);
      upstream.write(`${request.method} ${request.url} HTTP/1.1\r\n${headers.join('')}\r\n`);
      upstream.write(head);
      if (this.habits.tunnel) this.habits.tunnel(socket, upstream);
      else { upstream.pipe(socket); socket.pipe(upstream); }
    });
    upstream.on('error', () => socket.destroy());
    upstream.on('close', () => socket.destroy());
    socket.on('close', () => upstream.destroy());
  }
}

function passOn(answer, response) {
  response.writeHead(answer.statusCode, answer.rawHeaders);
  response.flushHeaders();
  answer.pipe(response);
  answer.on('error', () => response.destroy());
}

function whole(answer) {
  return new Promise((resolve) => {
    const parts = [];
    answer.on('data', (part) => parts.push(part));
    answer.on('end', () => resolve(Buffer.concat(parts)));
  });
}

const NETWORKS = {
  // Virus scanners and old gateways: nothing goes on until all of it is there.
  'buffers whole responses': {
    habits: () => ({
      noUpgrade: true,
      answer: async (answer, response) => {
        const body = await whole(answer);
        response.writeHead(answer.statusCode, answer.rawHeaders);
        response.end(body);
      },
    }),
    ends: ['longpoll'],
  },

  // The handshake passes, since it looks like HTTP. Nothing that follows does.
  'upgrades WebSocket, then drops every frame': {
    habits: () => ({
      tunnel: (socket, upstream) => {
        let head = Buffer.alloc(0);
        let passed = false;
        upstream.on('data', (part) => {
          if (passed) return;
          head = Buffer.concat([head, part]);
          const end = head.indexOf('\r\n\r\n');
          if (end < 0) return;
          passed = true;
          socket.write(head.subarray(0, end + 4));
        });
        socket.resume();
      },
    }),
    ends: ['sse'],
  },

  // Mobile gateways with short tables: five seconds of silence, and the connection is gone.
  'cuts idle connections after 5 s': {
    habits: () => ({ connection: (socket) => socket.setTimeout(5000, () => socket.destroy()) }),
    ends: ['longpoll', 'poll'],
    quiet: 7000,
  },

  'answers 502 now and then': {
    habits: () => ({
      noUpgrade: true,
      refuse: (count, response) => {
        if (count % 5 !== 3) return false;
        response.writeHead(502, { 'Content-Type': 'text/html' });
        response.end('<html><h1>502 Bad Gateway</h1></html>');
        return true;
      },
    }),
    ends: ['sse', 'stream', 'longpoll'],
  },

  // `no-transform` or not. zlib holds small writes back, as it does in such proxies.
  'compresses and strips ETags': {
    habits: () => ({
      noUpgrade: true,
      answer: (answer, response) => {
        const headers = { ...answer.headers };
        delete headers.etag;
        delete headers['content-length'];
        if (answer.statusCode !== 200) { response.writeHead(answer.statusCode, headers); answer.pipe(response); return; }
        response.writeHead(200, { ...headers, 'content-encoding': 'gzip' });
        answer.pipe(zlib.createGzip()).pipe(response);
      },
    }),
    ends: ['longpoll'],
  },
};

// Passes everything until `muteAll`: then open connections stay open, and carry nothing more.
function mutable() {
  const open = [];
  return {
    tunnel: (socket, upstream) => {
      open.push(socket);
      upstream.on('data', (part) => { if (!socket.muted) socket.write(part); });
      socket.pipe(upstream);
    },
    answer: (answer, response) => {
      open.push(response);
      response.writeHead(answer.statusCode, answer.rawHeaders);
      response.flushHeaders();
      answer.on('data', (part) => { if (!response.muted) response.write(part); });
      answer.on('end', () => { if (!response.muted) response.end(); });
      answer.on('error', () => response.destroy());
    },
    muteAll: () => { for (const each of open) each.muted = true; },
  };
}

module.exports = { Network, NETWORKS, mutable };
