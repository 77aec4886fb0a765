// The front page: the state of this server, a try-out, and examples (snippets.js).
//
//   server    what /v1/info says, asked again while the page is visible
//   tryOut    listens to one topic, and publishes to it
//   code      the examples, with this server's address and the topic
//
// Nothing is published unless a button is pressed. Text from the wire is shown by `textContent` alone.
'use strict';

const INFO_MS = 5000;                  // between two looks at the state
const RECEIVED = 50;                   // events shown

const $ = (id) => document.getElementById(id);

// The pages may be mounted below a path.
const BASE = new URL('.', location.href).href.replace(/\/$/, '');

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function showState(node, state, text) {
  node.dataset.state = state;
  if (node.textContent !== text) node.textContent = text;
}

function notice(text) {
  $('notice').textContent = text;
  $('notice').classList.toggle('shown', text !== '');
}

// ---------------------------------------------------------------- this server

const server = {
  needsToken: false,

  async look() {
    let info;
    try {
      const headers = PageToken.value ? { Authorization: 'Bearer ' + PageToken.value } : {};
      const response = await fetch('v1/info', { headers });
      info = await response.json();
      if (!response.ok) throw new Error(info.error.message);
      showState($('server-state'), 'open', 'running');
    } catch {
      showState($('server-state'), 'closed', info ? 'refuses' : 'does not answer');
      if (info && info.error) PageToken.refused(info.error);
      return;
    }
    this.show(info);
  },

  show(info) {
    $('server-version').textContent = info.version;
    $('server-access').textContent = ACCESS[info.access] || info.access;
    $('server-cursor').textContent = info.cursor || 'for readers with a token';
    $('server-transports').textContent = info.transports.join(', ');
    $('server-heartbeat').textContent = info.heartbeat / 1000 + ' s';
    if (this.needsToken !== (info.access === 'token')) {
      this.needsToken = info.access === 'token';
      code.show();
    }
  },
};

const ACCESS = { open: 'open to every caller that reaches it', token: 'requires a token' };

// ---------------------------------------------------------------- the try-out

const tryOut = {
  connection: null,

  topic() { return $('topic').value.trim(); },

  listen() {
    this.stop();
    notice('');
    const topic = this.topic();
    const connection = this.connection = Switchback.connect(BASE, { topics: topic, token: PageToken.value });
    showState($('line-state'), 'connecting', 'connecting');
    $('listen-button').textContent = 'Stop';
    connection.on('*', (name, item) => this.receive(name, item));
    connection.on('$open', ({ transport }) => { notice(''); showState($('line-state'), 'open', 'over ' + transport); });
    connection.on('$switch', ({ to }) => showState($('line-state'), 'open', 'over ' + to));
    connection.on('$gap', (gap) => this.add('Events were missed: ' + gap.reason, ''));
    connection.on('$error', (error) => {
      showState($('line-state'), 'connecting', 'connecting');
      if (PageToken.refused(error)) { this.stop(); this.waits = true; } else notice(error.message);
    });
    connection.on('$close', () => { if (this.connection === connection) this.stop(); });
    // Over when the connection is open, or will not be.
    this.opened = new Promise((resolve) => { connection.on('$open', resolve); connection.on('$close', resolve); });
    $('nothing')?.replaceChildren('Listening to ' + topic + '. Nothing has arrived yet.');
  },

  stop() {
    const { connection } = this;
    this.connection = null;
    if (connection) connection.close();
    $('listen-button').textContent = 'Listen';
    showState($('line-state'), 'closed', 'not listening');
  },

  receive(name, item) {
    if (name.startsWith('$')) return;
    this.add((name === 'message' ? '' : name + ' ') + (item.deleted ? 'deleted' : JSON.stringify(item.data)), item.cursor);
    if (item.cursor) $('server-cursor').textContent = item.cursor;
  },

  add(text, cursor) {
    $('nothing')?.remove();
    $('received').prepend(element('li', {}, element('span', {}, text), element('span', {}, cursor)));
    while ($('received').children.length > RECEIVED) $('received').lastChild.remove();
  },

  // Text that is JSON is meant as JSON.
  data() {
    const text = $('data').value;
    try { return JSON.parse(text); } catch { return text; }
  },

  async publish() {
    // Published earlier, the event would be before the place where the connection starts.
    if (!this.connection) {
      this.listen();
      $('published').textContent = 'Connecting …';
      await this.opened;
    }
    if (!this.connection) { $('published').textContent = 'Not published: there is no connection.'; return; }
    $('published').textContent = 'Publishing …';
    try {
      const { cursor } = await this.connection.publish(this.topic(), this.data());
      $('published').textContent = 'Stored at ' + cursor + '.';
    } catch (error) {
      $('published').textContent = error.message;
      PageToken.refused(error);
    }
  },
};

PageToken.changed = () => { notice(''); server.look(); if (tryOut.connection || tryOut.waits) tryOut.listen(); tryOut.waits = false; };

// ---------------------------------------------------------------- the examples

const code = {
  chosen: 0,

  build() {
    Snippets.forEach(({ name }, i) => {
      const tab = element('button', { type: 'button', role: 'tab', id: 'tab-' + name, 'aria-controls': 'snippet' }, name);
      tab.addEventListener('click', () => this.choose(i));
      $('tabs').append(tab);
    });
    $('tabs').addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      this.choose((this.chosen + step + Snippets.length) % Snippets.length);
      $('tabs').children[this.chosen].focus();
    });
    $('copy').addEventListener('click', () => this.copy());
  },

  choose(i) {
    this.chosen = i;
    this.show();
  },

  show() {
    const { name, about, text } = Snippets[this.chosen];
    for (const tab of $('tabs').children) {
      const isChosen = tab.id === 'tab-' + name;
      tab.setAttribute('aria-selected', String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
    }
    $('snippet').setAttribute('aria-labelledby', 'tab-' + name);
    $('snippet-about').textContent = about + (server.needsToken && name !== 'Page' ? ' The token is in the variable TOKEN.' : '');
    $('snippet-code').textContent = text(BASE, tryOut.topic() || 'demo.hello', server.needsToken);
    $('copy').textContent = 'Copy';
  },

  // The clipboard is there only over HTTPS and on localhost.
  async copy() {
    try {
      await navigator.clipboard.writeText($('snippet-code').textContent);
      $('copy').textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren($('snippet-code'));
      $('copy').textContent = 'Selected';
    }
  },
};

// ---------------------------------------------------------------- the page

// A topic of this page's own: a second visitor is another demo.
$('topic').value = 'demo.' + Math.random().toString(36).slice(2, 8);
$('topic').addEventListener('input', () => code.show());
$('topic').addEventListener('change', () => { if (tryOut.connection) tryOut.listen(); });
$('listen').addEventListener('submit', (event) => {
  event.preventDefault();
  if (tryOut.connection) tryOut.stop(); else tryOut.listen();
});
$('publish').addEventListener('submit', (event) => { event.preventDefault(); tryOut.publish(); });

code.build();
code.show();
server.look();
setInterval(() => { if (!document.hidden) server.look(); }, INFO_MS);
