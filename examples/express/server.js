// A backend that keeps orders, publishes each change once it is stored, and signs tokens for its page.
'use strict';

const { createHmac, randomUUID } = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const express = require('express');

const EVENTS_URL = process.env.EVENTS_URL || 'http://127.0.0.1:8080';
const SECRET = fs.readFileSync(process.env.EVENTS_SECRET_FILE || 'secret', 'utf8').replace(/\r?\n$/, '');
const PORT = Number(process.env.PORT || 3000);

const TOKEN_SECONDS = 600;
const ATTEMPTS = 5;

// A JWT, signed by HS256.
function sign(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ ...claims, exp: Math.floor(Date.now() / 1000) + TOKEN_SECONDS })}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

// Publishes one event. With its id a repetition is stored once, so every failure that may pass is repeated.
async function publish(topic, event, data, id) {
  for (let attempt = 1; ; attempt += 1) {
    let problem;
    try {
      const response = await fetch(`${EVENTS_URL}/v1/events`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${sign({ sub: 'orders', publish: ['orders.>'] })}` },
        body: JSON.stringify({ topic, event, data, id }),
        signal: AbortSignal.timeout(10000),
      });
      const answer = await response.json();
      if (response.ok) return answer.cursor;
      problem = new Error(answer.error.message);
      if (response.status < 500 && response.status !== 429) throw problem;
    } catch (error) {
      if (error === problem || attempt === ATTEMPTS) throw error;
    }
    if (attempt === ATTEMPTS) throw problem;
    await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** attempt));
  }
}

// In place of a database. With one: store the order and a row "to be published" in one transaction, publish after it, then delete the
// row; after a crash, publish the rows that are left, with the same ids.
const orders = new Map();

const app = express();
app.use(express.json());

app.post('/orders', async (request, response) => {
  const order = { id: randomUUID(), item: String(request.body?.item ?? 'something'), status: 'created' };
  orders.set(order.id, order);
  const cursor = await publish(`orders.${order.id}.status`, 'created', { item: order.item }, `${order.id}-created`);
  response.status(201).json({ ...order, cursor });
});

app.post('/orders/:id/approve', async (request, response) => {
  const order = orders.get(request.params.id);
  if (!order) return response.status(404).json({ error: 'there is no such order' });
  order.status = 'approved';
  const cursor = await publish(`orders.${order.id}.status`, 'approved', { item: order.item }, `${order.id}-approved`);
  response.json({ ...order, cursor });
});

// What the page presents to the event server. Here every visitor may read all orders; check your session, and grant what its user may read.
app.get('/token', (request, response) => {
  response.set('Cache-Control', 'no-store').json({ token: sign({ sub: 'visitor', subscribe: ['orders.>'] }) });
});

app.get('/settings.js', (request, response) => {
  response.type('js').send(`var EVENTS_URL = ${JSON.stringify(EVENTS_URL)};\n`);
});

app.use(express.static(path.join(__dirname, 'public')));

app.listen(PORT, '127.0.0.1', function () { console.log(`listens on http://127.0.0.1:${this.address().port}`); });
