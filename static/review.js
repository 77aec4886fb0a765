// The review desk: a submitter's and a reviewer's page, both a view of the event log.
//
//   desk.<submitter>   submitted { item, title, text }
//                      approved | rejected { item, by, note }
//                      chat { from, reviewer, text }
//
// Nothing is kept but the name and how far the news was read: each page reads its topics from
// `earliest` and folds the events into `desk`. What a button does is publish; what is shown is
// what came back. So every page, also one opened after the verdict, shows the same.
//
// Text from the wire goes into the page by `textContent` only.
'use strict';

const MINUTES = 30;                    // of activity shown
const KINDS = ['submitted', 'approved', 'rejected', 'chat'];
const ITEMS_SHOWN = 50;                // of each list
const PEOPLE_SHOWN = 50;
const LINES_SHOWN = 200;               // of a chat

const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------- who

const address = new URLSearchParams(location.search);
const role = address.get('as') === 'reviewer' ? 'reviewer' : 'submitter';

// A private window may refuse to keep anything; the page works all the same.
const kept = {
  get(key) { try { return localStorage.getItem('desk ' + key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem('desk ' + key, value); } catch { /* then it is not kept */ } },
};

const me = address.get('name') || kept.get(role) || (role === 'reviewer' ? 'reviewer' : 'guest-' + Math.random().toString(36).slice(2, 6));
kept.set(role, me);

// The same name is the same person. A topic token takes no blanks, dots, wildcards or controls.
const tokenOf = (name) => name.trim().toLowerCase().replace(/[\s.*>\u0000-\u001f\u007f]+/g, '-') || 'nobody';
const own = 'desk.' + tokenOf(me);

// ---------------------------------------------------------------- the state, folded from the log

const emptyDesk = () => ({ items: new Map(), chats: new Map(), minutes: new Map(), news: [] });
let desk = emptyDesk();

const positionOf = (cursor) => Number(cursor.split('-')[1]);

function fold(item) {
  const who = item.topic.slice('desk.'.length);
  const data = item.data && typeof item.data === 'object' ? item.data : {};
  const minute = Math.floor(item.time / 60000);
  desk.minutes.set(minute, (desk.minutes.get(minute) || 0) + 1);
  if (!desk.chats.has(who)) desk.chats.set(who, []);
  if (item.event === 'chat') return foldChat(who, item, data);
  if (typeof data.item !== 'string') return;
  const key = who + ' ' + data.item;
  if (item.event === 'submitted') foldSubmission(key, who, item, data);
  else foldVerdict(key, item, data);
}

function foldSubmission(key, who, item, data) {
  if (desk.items.has(key)) return;
  desk.items.set(key, { key, who, id: data.item, title: String(data.title), text: String(data.text || ''), at: item.time, status: 'waiting' });
  if (role === 'reviewer') addNews(item, who + ' submitted “' + data.title + '”');
}

// Two reviewers may decide at once. The log has one order, so the first verdict is the verdict.
function foldVerdict(key, item, data) {
  const entry = desk.items.get(key);
  if (!entry || entry.status !== 'waiting') return;
  Object.assign(entry, { status: item.event, by: String(data.by), note: String(data.note || ''), decided: item.time });
  if (role === 'submitter') addNews(item, '“' + entry.title + '” was ' + item.event);
}

function foldChat(who, item, data) {
  const line = { from: String(data.from), text: String(data.text), at: item.time, reviewer: data.reviewer === true };
  desk.chats.get(who).push(line);
  if (line.reviewer !== (role === 'reviewer')) addNews(item, line.from + ': ' + line.text);
}

function addNews(item, text) {
  desk.news.push({ position: positionOf(item.cursor), epoch: item.cursor.split('-')[0], text });
}

// ---------------------------------------------------------------- news

const readKey = 'read ' + role + ' ' + tokenOf(me);

function unread() {
  const [epoch, position] = (kept.get(readKey) || ' 0').split(' ');
  return desk.news.filter((news) => news.epoch !== epoch || news.position > Number(position));
}

function markRead() {
  const last = desk.news[desk.news.length - 1];
  if (last) kept.set(readKey, last.epoch + ' ' + last.position);
  render();
}

// ---------------------------------------------------------------- showing it

const timeOf = (ms) => new Date(ms).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
const WORDS = { waiting: '◷ Waiting', approved: '✓ Approved', rejected: '✕ Rejected' };

// A card is made once and then changed, so that a note being typed survives what arrives.
const cards = new Map();

function card(entry) {
  if (!cards.has(entry.key)) cards.set(entry.key, makeCard(entry));
  const { root, verdict, by, decide } = cards.get(entry.key);
  root.className = 'item ' + entry.status + (live ? ' new' : '');
  verdict.textContent = WORDS[entry.status];
  by.textContent = entry.status === 'waiting' ? '' : 'by ' + entry.by + ', ' + timeOf(entry.decided) + (entry.note ? ': ' + entry.note : '');
  if (decide) decide.hidden = entry.status !== 'waiting';
  if (decide && entry.status !== 'waiting') decide.remove();
  return root;
}

function makeCard(entry) {
  const verdict = element('span', { class: 'verdict' });
  const by = element('p', { class: 'small soft' });
  const about = element('span', { class: 'small soft' }, (role === 'reviewer' ? entry.who + ', ' : '') + timeOf(entry.at));
  const root = element('li', { class: 'item', 'data-item': entry.id },
    element('div', { class: 'line' }, element('h3', {}, entry.title), verdict), about);
  if (entry.text) root.append(element('p', {}, entry.text));
  root.append(by);
  const decide = role === 'reviewer' && entry.status === 'waiting' ? makeDecision(entry) : null;
  if (decide) root.append(decide);
  return { root, verdict, by, decide };
}

function makeDecision(entry) {
  const note = element('input', { 'aria-label': 'Note to ' + entry.who, placeholder: 'Note (optional)', maxlength: '500' });
  const decide = element('div', { class: 'decide' }, note);
  for (const [event, text, look] of [['approved', 'Approve', 'good'], ['rejected', 'Reject', 'bad']]) {
    const button = element('button', { type: 'button', class: look, 'aria-label': text + ' ' + entry.title }, text);
    button.addEventListener('click', () => {
      decide.querySelectorAll('button').forEach((each) => { each.disabled = true; });
      // One id for both verdicts: the server itself takes only the first of a double click.
      publish('desk.' + entry.who, event, { item: entry.id, by: me, note: note.value }, 'verdict-' + entry.id)
        .catch(() => decide.querySelectorAll('button').forEach((each) => { each.disabled = false; }));
    });
    decide.append(button);
  }
  return decide;
}

// Only what is out of place is moved: moving takes the focus away. A browser with ten thousand cards is slow: the rest waits.
function arrange(list, entries) {
  const wanted = entries.slice(0, ITEMS_SHOWN).map(card);
  const rest = entries.length - wanted.length;
  $(list.id + '-rest').textContent = rest ? 'and ' + rest + ' more' : '';
  for (const child of [...list.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((root, i) => { if (list.children[i] !== root) list.insertBefore(root, list.children[i] || null); });
}

function render() {
  const entries = [...desk.items.values()];
  const newest = (a, b) => (b.decided || b.at) - (a.decided || a.at);
  if (role === 'submitter') arrange($('own'), entries.reverse());
  else {
    arrange($('queue'), entries.filter((entry) => entry.status === 'waiting'));
    arrange($('decided'), entries.filter((entry) => entry.status !== 'waiting').sort(newest));
    renderActivity(entries);
  }
  renderChat();
  renderNews();
}

function renderNews() {
  const count = unread().length;
  $('count').textContent = String(count);
  $('bell').dataset.count = String(count);
  $('bell').setAttribute('aria-label', 'News ' + count + ': mark as read');
  document.title = (count ? '(' + count + ') ' : '') + 'Review desk';
}

function renderActivity(entries) {
  const all = { waiting: 0, approved: 0, rejected: 0 };
  const each = new Map([...desk.chats.keys()].map((who) => [who, { ...all }]));
  for (const { who, status } of entries) { all[status] += 1; each.get(who)[status] += 1; }
  for (const [status, count] of Object.entries(all)) $('n-' + status).textContent = String(count);
  const waits = entries.filter((entry) => entry.decided).map((entry) => entry.decided - entry.at).sort((a, b) => a - b);
  $('n-median').textContent = waits.length ? duration(waits[Math.floor(waits.length / 2)]) : '–';
  renderMinutes();
  const busiest = [...each].sort(([, a], [, b]) => b.waiting - a.waiting).slice(0, PEOPLE_SHOWN);
  $('people').replaceChildren(...busiest.map(([who, counts]) => element('tr', {}, element('th', { scope: 'row' }, who),
    ...Object.values(counts).map((count) => element('td', {}, String(count))))));
}

function renderMinutes() {
  const now = Math.floor(Date.now() / 60000);
  const counts = Array.from({ length: MINUTES }, (_, i) => desk.minutes.get(now - MINUTES + 1 + i) || 0);
  const most = Math.max(1, ...counts);
  $('activity').replaceChildren(...counts.map((count) => {
    const bar = element('i', count ? {} : { class: 'none' });
    bar.style.height = (count / most) * 100 + '%';
    return bar;
  }));
  const total = counts.reduce((sum, count) => sum + count, 0);
  $('activity-text').textContent = total + ' events in the last ' + MINUTES + ' minutes, at most ' + Math.max(...counts) + ' a minute';
}

function duration(ms) {
  if (ms < 60000) return Math.round(ms / 1000) + ' s';
  return ms < 3600000 ? Math.round(ms / 60000) + ' min' : Math.round(ms / 3600000) + ' h';
}

function chatPartner() { return role === 'submitter' ? tokenOf(me) : $('with').value; }

function renderChat() {
  if (role === 'reviewer') offerPartners();
  const lines = desk.chats.get(chatPartner()) || [];
  const list = $('chat');
  if (list.dataset.who !== chatPartner()) { list.replaceChildren(); list.dataset.who = chatPartner(); list.shown = Math.max(0, lines.length - LINES_SHOWN); }
  const mine = (line) => line.reviewer === (role === 'reviewer');
  for (const line of lines.slice(list.shown)) {
    list.append(element('li', mine(line) ? { class: 'mine' } : {}, element('span', { class: 'from' }, line.from + ', ' + timeOf(line.at)), line.text));
  }
  if (list.shown === lines.length) return;
  list.shown = lines.length;
  while (list.children.length > LINES_SHOWN) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
}

function offerPartners() {
  const people = [...desk.chats.keys()];
  if (people.length === $('with').options.length) return;
  const chosen = $('with').value;
  $('with').replaceChildren(...people.map((who) => element('option', { value: who }, who)));
  if (people.includes(chosen)) $('with').value = chosen;
}

// ---------------------------------------------------------------- the connection to the server

// Reading the history must not announce it, line after line, to a screen reader.
let live = false;
let rendering = false;

function renderSoon() {
  if (rendering) return;
  rendering = true;
  requestAnimationFrame(() => { rendering = false; render(); });
}

// A hidden tab has no animation frames, but its title counts.
const renderWhen = () => (document.hidden ? render() : renderSoon());

let connection;

const transport = () => $('transport').value;

function connect(cursor) {
  connection = Switchback.connect('', { topics: role === 'reviewer' ? 'desk.*' : own, cursor, interval: 1000, token: PageToken.value });
  for (const kind of KINDS) connection.on(kind, hear);
  connection.on('$open', () => { notice(''); showState(); setTimeout(() => { live = true; }, 1000); });
  connection.on('$switch', showState);
  connection.on('$error', (error) => {
    notice(PageToken.refused(error) ? '' : error.message + (error.retry === undefined ? '' : ' Trying again.'));
    showState();
  });
  connection.on('$close', showState);
  connection.on('$gap', startAnew);
  if (transport() !== 'auto') connection.switchTo(transport());
}

// A connection has the token that it was opened with. The next goes on where that was.
PageToken.changed = () => {
  connection.close();
  live = false;
  connect(connection.cursor || 'earliest');
};

function hear(item) {
  const before = desk.news.length;
  fold(item);
  if (live && desk.news.length > before) $('announce').textContent = desk.news[desk.news.length - 1].text;
  renderWhen();
}

function showState() {
  $('state').dataset.state = connection.state;
  $('state').textContent = connection.state === 'open' ? 'live over ' + connection.transport : connection.state;
}

// History that this page had folded in is gone, or the log is another one: what is left of it
// is all there is, so the state is what that says.
function startAnew(gap) {
  if (gap.reason !== 'expired') { desk = emptyDesk(); cards.clear(); delete $('chat').dataset.who; }
  notice('Part of the history is no longer there (' + gap.reason + '). What is shown is what the log still has.');
  renderWhen();
}

function notice(text) {
  $('notice').textContent = text;
  $('notice').classList.toggle('shown', text !== '');
}

function publish(topic, event, data, id) {
  return connection.publish(topic, data, id ? { event, id } : { event }).catch((error) => {
    notice(PageToken.refused(error) ? '' : 'Not sent: ' + error.message);
    throw error;
  });
}

// ---------------------------------------------------------------- the page

document.body.dataset.role = role;
$('name').value = me;
$('as-' + role).setAttribute('aria-current', 'true');
for (const name of ['auto', ...Switchback.supported()]) $('transport').append(element('option', { value: name }, name === 'auto' ? 'auto' : 'over ' + name));
$('transport').addEventListener('change', () => {
  if (connection.state !== 'closed') connection.switchTo(transport(), (error) => { if (error) notice('Could not switch: ' + error.message); });
});

$('identity').addEventListener('submit', (event) => {
  event.preventDefault();
  kept.set(role, $('name').value);
  location.search = '?' + new URLSearchParams({ as: role, name: $('name').value });
});

// The form is emptied only when the server has it: what was typed is not lost to a dead connection.
function submitWith(form, send) {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const button = form.querySelector('button');
    button.disabled = true;
    send().then(() => form.reset(), () => {}).finally(() => { button.disabled = false; });
  });
}

submitWith($('submit'), () => publish(own, 'submitted', { item: crypto.randomUUID ? crypto.randomUUID() : String(Date.now()) + Math.random(), title: $('title').value, text: $('text').value }));
submitWith($('say'), () => publish('desk.' + chatPartner(), 'chat', { from: me, reviewer: role === 'reviewer', text: $('line').value }));
$('with').addEventListener('change', renderChat);
$('bell').addEventListener('click', markRead);

connect('earliest');
showState();
render();
setInterval(() => { if (role === 'reviewer') renderMinutes(); }, 10000);
