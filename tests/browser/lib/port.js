// A free port of the loopback interface: taken and given back, for programs that cannot choose one.
'use strict';

const net = require('node:net');

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = net.createServer();
    probe.on('error', reject);
    probe.listen(0, '127.0.0.1', () => { const { port } = probe.address(); probe.close(() => resolve(port)); });
  });
}

module.exports = { freePort };
