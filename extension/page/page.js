/*
 * The alerts page: reads the views of fraud_api through the gateway that sent
 * it.  Whatever comes from data reaches the document as a text node, never as
 * markup; the Content-Security-Policy would refuse it otherwise.
 */
(() => {
'use strict';

const $ = id => document.getElementById(id);
const ROOT = new URL('../', location.href);     /* the page is ROOT/rpc/page */
const PAGE = 60;                                /* rows of one request */
const HEAD = 100;                               /* newest rows that a refresh compares */
const KEEP = 1500;                              /* rows in the list at most */
const narrow = matchMedia('(max-width: 760px)');

const state = { view: 'alerts', token: null, claims: null, single: true };

/* ---- values: digits are kept as the server wrote them ---------------------- */

/*
 * JSON whose numbers stay exact: each becomes a string that starts with U+0000,
 * which no string of a jsonb can hold.  Ids and 19-digit cards survive so.
 */
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;
const parse = text => JSON.parse(text.replace(TOKEN, t => t[0] === '"' ? t : `"\\u0000${t}"`));
const isNumber = v => typeof v === 'string' && v.charCodeAt(0) === 0;
const digits = v => isNumber(v) ? v.slice(1) : v == null ? '' : String(v);

/* The JSON text of a parsed value, indented where asked */
function write(v, gap = '', pad = '\n') {
  if (v === null || typeof v === 'boolean') return String(v);
  if (isNumber(v)) return v.slice(1);
  if (typeof v === 'string') return JSON.stringify(v);
  const deeper = pad + gap, sep = gap ? ',' + deeper : ', ';
  const parts = Array.isArray(v) ? v.map(x => write(x, gap, deeper))
    : Object.entries(v).map(([k, x]) => `${JSON.stringify(k)}: ${write(x, gap, deeper)}`);
  const [open, close] = Array.isArray(v) ? '[]' : '{}';
  return !parts.length ? open + close : gap ? open + deeper + parts.join(sep) + pad + close : open + parts.join(sep) + close;
}
const plain = v => v === null || v === undefined ? '' : typeof v === 'string' ? digits(v) : write(v);

/* Ids are digits of any length */
const idOrder = (a, b) => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);

/* 1234567 -> 1 234 567, with narrow spaces */
const count = v => digits(v).replace(/^-?\d+/, d => d.replace(/\B(?=(\d{3})+$)/g, '\u202f'));

const two = n => String(n).padStart(2, '0');
function time(v, long) {
  const d = new Date(v);
  if (!v || isNaN(d)) return v ? String(v) : '';
  const day = `${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  const clock = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  return long ? `${d.getFullYear()}-${day} ${clock}` : `${day} ${clock}`;
}
/* What a datetime-local field holds, of a Date */
const local = d => `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}T${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
const ago = v => {
  const s = Math.round((Date.now() - new Date(v)) / 1000);
  return isNaN(s) ? '' : s < 90 ? `${Math.max(s, 0)} s ago` : s < 5400 ? `${Math.round(s / 60)} min ago`
    : s < 129600 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} d ago`;
};

/* ---- document ------------------------------------------------------------- */

function el(tag, props, ...kids) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(props || {}))
    if (v === null || v === undefined || v === false) continue;
    else if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (k === 'class') e.className = v;
    else e.setAttribute(k, v === true ? '' : v);
  e.append(...kids.filter(k => k !== null && k !== undefined && k !== ''));
  return e;
}

/*
 * Text of unknown origin: isolated from its neighbours' direction, control and
 * direction-changing characters made visible, cut where it is absurdly long.
 */
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/;
function data(v, limit = 4000, cls = '') {
  const text = plain(v), box = el('bdi', { class: 'data' + (cls && ' ' + cls) });
  const fill = s => {
    box.replaceChildren();
    for (const part of s.split(/([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff])/))
      if (part && part.length === 1 && HIDDEN.test(part))
        box.append(el('span', { class: 'ctl', title: 'invisible character' }, 'U+' + part.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')));
      else if (part) box.append(part);
  };
  fill(text.length > limit ? text.slice(0, limit) + '\u2026' : text);
  if (text.length > limit && limit >= 1000)
    box.append(' ', el('button', { type: 'button', onclick: () => fill(text) }, `show all ${text.length} characters`));
  return box;
}
const status = s => el('span', { class: `status ${['open', 'confirmed', 'dismissed', 'cleared'].includes(s) ? s : ''}` }, plain(s));
/* The schema that everybody reads goes without saying */
const short = v => plain(v).replace(/^public\.(?=.)/, '');
const stamp = v => v ? el('time', { datetime: String(v), title: String(v) }, time(v)) : '';

/* ---- the gateway ------------------------------------------------------------ */

class Failure extends Error {
  constructor(code, message, more) { super(message); this.status = code; this.more = more; }
}

async function call(path, query, body) {
  const url = new URL(path, ROOT);
  for (const [k, v] of query || []) url.searchParams.append(k, v);
  const headers = { Accept: 'application/json', [body ? 'Content-Profile' : 'Accept-Profile']: 'fraud_api' };
  if (body) headers['Content-Type'] = 'application/json';
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let answer, text;
  try {
    answer = await fetch(url, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), cache: 'no-store', referrerPolicy: 'no-referrer' });
    text = await answer.text();
  } catch (e) {
    throw new Failure(0, 'The server does not answer.');
  }
  if (answer.ok) return text ? parse(text) : null;
  let said = {};
  try { said = JSON.parse(text) || {}; } catch (e) { /* not JSON: the status line has to do */ }
  throw new Failure(answer.status, String(said.message || `${answer.status} ${answer.statusText}`), said.hint || said.details);
}

/* One line above the page for what went wrong, taken away when it works again */
let bannerOf = null;
function complain(topic, e) {
  const b = $('banner');
  if (!e) { if (bannerOf === topic) { b.hidden = true; bannerOf = null; } return; }
  const denied = e.status === 401 || e.status === 403;
  const head = e.status === 401 && !state.token ? 'Sign in to see this.' : denied ? 'Not allowed: ' : e.status ? 'The server refused: ' : '';
  b.replaceChildren(head, e.status === 401 && !state.token ? '' : data(e.message), e.more ? ' ' : '', e.more ? data(e.more) : '');
  if (denied) b.append(' ', el('button', { type: 'button', onclick: signIn }, 'Sign in'));
  b.hidden = false;
  bannerOf = topic;
}

/* ---- a grid: rows by key, cells changed in place ---------------------------- */

class Grid {
  constructor(box, name, columns, { key, open, sortable, empty, optional }) {
    Object.assign(this, { box, columns, key, open, sortable, empty, optional, rows: [], nodes: new Map(), sort: null, dir: 1 });
    this.head = el('tr', { role: 'row' });
    this.body = el('tbody', { role: 'rowgroup' });
    this.cols = el('colgroup');
    this.none = el('p', { class: 'more' }, '');
    this.table = el('table', { class: 'grid', role: 'grid', 'aria-label': name }, this.cols,
      el('thead', { role: 'rowgroup' }, this.head), this.body);
    this.body.addEventListener('keydown', e => this.onkey(e));
    this.body.addEventListener('click', e => {
      const tr = e.target.closest('tr');
      if (tr && !e.target.closest('button, a, input') && !String(getSelection())) this.pick(tr, true);
    });
    box.replaceChildren(this.table, this.none);
    this.shape('');
  }

  /* The columns that these rows have */
  shape(print) {
    if (this.print === print) return;
    this.print = print;
    this.shown = this.columns.filter(c => !c.field || print === '' || print.split('\n').includes(c.field));
    this.head.replaceChildren(); this.cols.replaceChildren(); this.nodes.clear(); this.body.replaceChildren();
    for (const c of this.shown) {
      const col = el('col');
      if (c.width) col.style.width = c.width;
      this.cols.append(col);
      const label = this.sortable && c.sort !== false
        ? el('button', { type: 'button', onclick: () => this.sortBy(c) }, c.head) : c.head;
      this.head.append(el('th', { role: 'columnheader', scope: 'col', class: c.cls && c.cls.includes('num') ? 'num' : null, title: c.title }, label));
    }
  }

  sortBy(c) {
    this.dir = this.sort === c ? -this.dir : c.cls && c.cls.includes('num') ? -1 : 1;
    this.sort = c;
    this.shown.forEach((s, i) => s === c
      ? this.head.children[i].setAttribute('aria-sort', this.dir > 0 ? 'ascending' : 'descending')
      : this.head.children[i].removeAttribute('aria-sort'));
    this.update(this.rows);
  }

  update(rows) {
    this.rows = rows;
    if (rows.length) this.shape(this.columns.map(c => c.field)
      .filter(f => f && f in rows[0] && (f !== this.optional || rows.some(r => r[f] !== null))).join('\n'));
    if (this.sort) {
      const value = r => plain((this.sort.by || (x => x[this.sort.field]))(r));
      rows = [...rows].sort((a, b) => this.dir * value(a).localeCompare(value(b), undefined, { numeric: true }));
    }
    const keep = new Set(), focus = document.activeElement;
    let at = this.body.firstChild;
    for (const row of rows) {
      const key = this.key(row), sign = write(row);
      let node = this.nodes.get(key);
      if (!node) {
        node = { tr: el('tr', { role: 'row', tabindex: '-1', 'aria-selected': this.open ? 'false' : null, class: this.open ? 'pick' : null }), sign: null };
        node.tr.fraudKey = key;
        this.nodes.set(key, node);
      }
      if (node.sign !== sign) {
        node.tr.replaceChildren(...this.shown.map(c => this.cell(c, row)));
        node.sign = sign;
      }
      keep.add(key);
      if (node.tr === at) at = at.nextSibling;
      else this.body.insertBefore(node.tr, at);
    }
    for (const [key, node] of this.nodes) if (!keep.has(key)) { node.tr.remove(); this.nodes.delete(key); }
    if (focus && focus.isConnected && this.body.contains(focus) && focus !== document.activeElement) focus.focus({ preventScroll: true });
    this.none.textContent = rows.length ? '' : this.empty;
    if (!this.body.querySelector('tr[tabindex="0"]') && this.body.firstChild) this.body.firstChild.tabIndex = 0;
  }

  cell(c, row) {
    const shown = c.show ? c.show(row) : data(row[c.field], 300);
    const td = el('td', { role: 'gridcell', class: c.cls, 'data-label': c.label }, shown);
    if (c.tip) { const tip = plain(c.tip(row)).slice(0, 1000); if (tip) td.title = tip; }
    return td;
  }

  /* One row is in the tab order; picking may open it */
  pick(tr, open) {
    for (const t of this.body.querySelectorAll('tr[tabindex="0"]')) t.tabIndex = -1;
    tr.tabIndex = 0;
    tr.focus({ preventScroll: true });
    tr.scrollIntoView({ block: 'nearest' });
    if (open && this.open) this.open(tr.fraudKey);
  }

  mark(key) {
    for (const t of this.body.querySelectorAll('tr[aria-selected="true"]')) t.setAttribute('aria-selected', 'false');
    const node = this.nodes.get(key);
    if (node) node.tr.setAttribute('aria-selected', 'true');
  }

  onkey(e) {
    const tr = e.target.closest('tr');
    if (!tr || e.target !== tr || e.ctrlKey || e.metaKey || e.altKey) return;
    const letter = state.single ? e.key : '';
    const to = e.key === 'ArrowDown' || letter === 'j' ? tr.nextElementSibling
      : e.key === 'ArrowUp' || letter === 'k' ? tr.previousElementSibling
      : e.key === 'Home' ? this.body.firstChild : e.key === 'End' ? this.body.lastChild : undefined;
    if (to !== undefined) { e.preventDefault(); if (to) this.pick(to, this.follow && this.follow()); }
    else if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); this.pick(tr, true); }
  }
}

/* ---- alerts: the list ------------------------------------------------------- */

const alerts = { rows: new Map(), order: [], done: false, busy: false, turn: 0, open: null, fresh: new Set() };
const ruleFields = new Map();                   /* table -> fields its rules name */

const IDENT = /('(?:[^']|'')*')|"((?:[^"]|"")+)"|([A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)/g;
const fieldsOf = condition => [...plain(condition).matchAll(IDENT)]
  .filter(m => !m[1]).map(m => m[2] ? m[2].replace(/""/g, '"') : m[3].toLowerCase());

/* A value in few letters: times without zone and fraction, objects by what they hold */
const brief = v => v !== null && typeof v === 'object' ? Object.values(v).slice(0, 8).map(brief).join(', ')
  : plain(v).replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?([+-]00(:00)?|Z)?$/, '$1 $2');

/* A transaction in one line: what the rules read first, then the rest */
function summary(row) {
  const t = row.transaction, box = el('span', { class: 'data' });
  if (!t || typeof t !== 'object') return data(t, 200);
  const first = [...ruleFields].filter(([name]) => row.table_name === name).flatMap(([, f]) => f);
  const keys = Object.keys(t).filter(k => t[k] !== null && !(typeof t[k] === 'string' && t[k] === row.occurred_at));
  const rank = k => first.includes(k) ? 0 : /^kafka_/.test(k) ? 3 : typeof t[k] === 'object' ? 2 : 1;
  const ranked = keys.sort((a, b) => rank(a) - rank(b)).slice(0, 12);
  for (const k of ranked)
    box.append(el('span', { class: 'pair' }, el('span', { class: 'key' }, data(k, 40)), '\u00a0', data(brief(t[k]), 60)), ' ');
  return box;
}

const alertGrid = new Grid($('alert-grid'), 'Alerts', [
  { head: 'Detected', width: '10em', show: r => stamp(r.detected_at) },
  { head: 'Status', width: '7.6em', show: r => status(r.status) },
  { head: 'Score', width: '4.4em', cls: 'num', show: r => digits(r.score), label: 'score' },
  { head: 'Table', width: '10em', show: r => data(short(r.table_name), 80), tip: r => r.table_name },
  { head: 'Rules', width: '22%', show: r => el('span', null, ...(r.rules || []).map(x => data(x, 60, 'tag'))), tip: r => (r.rules || []).join('\n') },
  { head: 'Transaction', cls: 'wide', show: summary },
], { key: r => digits(r.id), open: openAlert, empty: '' });
alertGrid.follow = () => alerts.open !== null && !narrow.matches;

/* The filters, as the gateway's own query */
const iso = v => { const d = new Date(v); return v && !isNaN(d) ? d.toISOString() : null; };
function filters() {
  const q = [], s = $('f-score').value.trim(), since = iso($('f-since').value), until = iso($('f-until').value);
  if ($('f-table').value) q.push(['table_name', `eq.${$('f-table').value}`]);
  if ($('f-rule').value) q.push(['rules', `cs.{"${$('f-rule').value.replace(/["\\]/g, '\\$&')}"}`]);
  if ($('f-status').value) q.push(['status', `eq.${$('f-status').value}`]);
  if (s !== '') q.push(['score', `gte.${s}`]);
  if (since) q.push(['detected_at', `gte.${since}`]);
  if (until) q.push(['detected_at', `lt.${until}`]);
  return q;
}

const scroller = () => narrow.matches ? document.scrollingElement : $('list');
const topEdge = () => narrow.matches ? 0 : $('list').getBoundingClientRect().top;

/* The rows that the reader sees now */
function visibleRows() {
  const top = topEdge(), bottom = narrow.matches ? innerHeight : $('list').getBoundingClientRect().bottom;
  return [...alertGrid.body.children].filter(tr => {
    const r = tr.getBoundingClientRect();
    return r.bottom > top + 24 && r.top < bottom;
  });
}

/*
 * Change the list without moving what the reader looks at: the row in focus or
 * open, else the first one in sight, stays where it is on the screen.
 */
function keepPlace(change) {
  const seen = visibleRows(), at = scroller().scrollTop;
  const held = seen.find(tr => tr === document.activeElement) || seen.find(tr => tr.getAttribute('aria-selected') === 'true')
    || (at > 0 ? seen[0] : null);
  const before = held && held.getBoundingClientRect().top;
  change();
  if (held && held.isConnected) scroller().scrollTop += held.getBoundingClientRect().top - before;
  else scroller().scrollTop = at;
}

function showAlerts() {
  alerts.order = [...alerts.rows.keys()].sort((a, b) => idOrder(b, a));
  alertGrid.update(alerts.order.map(id => alerts.rows.get(id)));
  alertGrid.mark(alerts.open);
  alertGrid.none.textContent = alerts.order.length || alerts.busy || bannerOf === 'alerts' ? '' : filters().length ? 'No alert matches the filters.' : 'No alert yet.';
  $('alert-more').replaceChildren(alerts.done ? (alerts.order.length ? `${count(alerts.order.length)} alerts, all shown.` : '')
    : alerts.order.length ? el('button', { type: 'button', onclick: older }, 'Older alerts') : '');
  seenFresh();
}

/* How many arrived above what is in sight */
function seenFresh() {
  const top = topEdge();
  if (scroller().scrollTop < 4) alerts.fresh.clear();
  for (const id of alerts.fresh) {
    const node = alertGrid.nodes.get(id);
    if (!node || node.tr.getBoundingClientRect().top >= top + 20) alerts.fresh.delete(id);
  }
  const n = alerts.gap ? 'Many' : alerts.fresh.size;
  $('fresh').hidden = !n;
  if (n) $('fresh').textContent = `${n} new \u2191`;
}

async function reload() {
  const turn = ++alerts.turn;
  alerts.busy = true; alerts.gap = false; alerts.fresh.clear();
  try {
    const rows = await call('alerts', [...filters(), ['order', 'id.desc'], ['limit', PAGE]]);
    if (turn !== alerts.turn) return;
    alerts.rows = new Map(rows.map(r => [digits(r.id), r]));
    alerts.done = rows.length < PAGE;
    complain('alerts');
  } catch (e) {
    if (turn !== alerts.turn) return;
    if (e.status === 401 || e.status === 403) { alerts.rows.clear(); alerts.done = true; }
    complain('alerts', e);
  }
  alerts.busy = false;
  showAlerts();
  scroller().scrollTop = 0;
  seenFresh();
}

async function older() {
  if (alerts.busy || alerts.done || !alerts.order.length) return;
  const turn = alerts.turn;
  alerts.busy = true;
  try {
    const last = alerts.order[alerts.order.length - 1];
    const rows = await call('alerts', [...filters(), ['id', `lt.${last}`], ['order', 'id.desc'], ['limit', PAGE]]);
    if (turn === alerts.turn) {
      for (const r of rows) alerts.rows.set(digits(r.id), r);
      alerts.done = rows.length < PAGE;
      const focused = document.activeElement === $('alert-more').firstChild;
      keepPlace(showAlerts);
      if (focused && rows.length) alertGrid.pick(alertGrid.nodes.get(digits(rows[0].id)).tr, false);
    }
    complain('alerts');
  } catch (e) { complain('alerts', e); }
  alerts.busy = false;
}

/*
 * What changed since: the newest ids and states, then whole rows only of those
 * that are new.  The newest HEAD are read again each time, because an id is
 * taken before its transaction commits and may appear below a later one.
 */
async function refreshAlerts() {
  if (alerts.busy) return;
  const turn = alerts.turn, few = ['select', 'id,status,reviewed_by,reviewed_at,note'];
  const head = await call('alerts', [...filters(), few, ['order', 'id.desc'], ['limit', HEAD]]);
  const seen = new Set(head.map(r => digits(r.id)));
  const others = visibleRows().map(tr => tr.fraudKey).filter(id => !seen.has(id));
  if (alerts.open && !seen.has(alerts.open) && !others.includes(alerts.open)) others.push(alerts.open);
  const rest = others.length ? await call('alerts', [few, ['id', `in.(${others.join()})`]]) : [];
  const oldest = alerts.order[alerts.order.length - 1];
  const fresh = [...seen].filter(id => !alerts.rows.has(id) && (alerts.done || !oldest || idOrder(id, oldest) > 0));
  const gap = fresh.length === HEAD && alerts.order.length > 0;
  const full = fresh.length && !gap ? await call('alerts', [['id', `in.(${fresh.join()})`]]) : [];
  if (turn !== alerts.turn || alerts.busy) return;

  const top = scroller().scrollTop < 4 && !alertGrid.body.contains(document.activeElement) && alerts.open === null;
  if (gap && top) return reload();
  keepPlace(() => {
    alerts.gap = gap;
    for (const r of [...head, ...rest]) {
      const old = alerts.rows.get(digits(r.id));
      if (old) alerts.rows.set(digits(r.id), { ...old, ...r });
    }
    for (const r of full) { alerts.rows.set(digits(r.id), r); alerts.fresh.add(digits(r.id)); }
    trim();
    showAlerts();
    for (const r of full) { const n = alertGrid.nodes.get(digits(r.id)); if (n) n.tr.classList.add('new'); }
  });
  seenFresh();
  refreshDetail();
}

/* Drop the list's far end when it has grown long and is out of sight */
function trim() {
  const ids = [...alerts.rows.keys()].sort((a, b) => idOrder(b, a));
  if (ids.length <= KEEP) return;
  const inSight = visibleRows().map(tr => tr.fraudKey);
  if (inSight.some(id => ids.indexOf(id) > KEEP - PAGE)) return;
  for (const id of ids.slice(KEEP)) if (id !== alerts.open) alerts.rows.delete(id);
  alerts.done = false;
}

/* ---- alerts: the chart ------------------------------------------------------ */

const SPANS = { '1h': [60, 60], '6h': [300, 72], '24h': [1800, 48], '7d': [10800, 56], '30d': [43200, 60] };
const chart = { rows: [], start: 0, step: 0, bars: 0, at: 0, focus: 0 };

async function loadChart() {
  const [seconds, bars] = SPANS[$('chart-span').value], step = seconds * 1000;
  const zone = new Date().getTimezoneOffset() * 60000;
  const end = Math.floor((Date.now() - zone) / step) * step + step + zone, start = end - bars * step;
  const q = [['every', `${seconds} seconds`], ['since', new Date(start).toISOString()], ['until', new Date(end).toISOString()]];
  if ($('f-table').value) q.push(['table_name', $('f-table').value]);
  if ($('f-rule').value) q.push(['rule', $('f-rule').value]);
  if ($('f-score').value.trim() !== '') q.push(['min_score', $('f-score').value.trim()]);
  const rows = await call('rpc/alert_counts', q);
  Object.assign(chart, { rows, start, step, bars, at: Date.now() });
  drawChart();
}

function svg(tag, attrs, text) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}

function drawChart() {
  const box = $('bars'), w = box.clientWidth, h = box.clientHeight, floor = h - 15, ceil = 6;
  if (!w || !chart.bars) return;
  const sums = Array.from({ length: chart.bars }, () => ({ open: 0, confirmed: 0, dismissed: 0, all: 0 }));
  for (const r of chart.rows) {
    const s = sums[Math.round((new Date(r.bucket_start) - chart.start) / chart.step)];
    if (!s) continue;
    s.open += +digits(r.open); s.confirmed += +digits(r.confirmed); s.dismissed += +digits(r.dismissed);
    s.all += +digits(r.alerts);
  }
  const most = Math.max(1, ...sums.map(s => s.all)), bar = w / chart.bars, pad = bar > 5 ? 1.5 : .5;
  const focused = box.contains(document.activeElement);
  const since = iso($('f-since').value), until = iso($('f-until').value);
  const pic = svg('svg', { viewBox: `0 0 ${w} ${h}`, role: 'group', 'aria-label': 'Frauds over time' });
  pic.append(svg('line', { x1: 0, x2: w, y1: floor + .5, y2: floor + .5 }));
  sums.forEach((s, i) => {
    let y = floor;
    for (const kind of ['dismissed', 'confirmed', 'open']) {
      const high = s[kind] / most * (floor - ceil);
      if (!s[kind]) continue;
      y -= Math.max(high, 1);
      pic.append(svg('rect', { class: kind, x: i * bar + pad, y, width: Math.max(bar - 2 * pad, .5), height: Math.max(high, 1) }));
    }
    const from = new Date(chart.start + i * chart.step), to = new Date(+from + chart.step);
    const label = `${time(from)} to ${time(to).slice(6)}: ${s.all} frauds, ${s.open} open, ${s.confirmed} confirmed, ${s.dismissed} dismissed or cleared`;
    const on = since === from.toISOString() && until === to.toISOString();
    const hit = svg('rect', { class: on ? 'hit on' : 'hit', x: i * bar, y: 0, width: bar, height: floor, role: 'button',
      tabindex: i === chart.focus ? 0 : -1, 'aria-label': label, 'aria-pressed': on });
    hit.append(svg('title', {}, label));
    hit.addEventListener('click', () => pickBar(i, from, to, on));
    pic.append(hit);
  });
  const ticks = Math.max(2, Math.min(8, Math.floor(w / 110)));
  for (let t = 0; t <= ticks; t++) {
    const i = Math.round(t * chart.bars / ticks), d = new Date(chart.start + i * chart.step);
    const label = chart.step > 7e6 ? time(d).slice(0, 5) : time(d).slice(6, 11);
    pic.append(svg('text', { x: i * bar, y: h - 3, 'text-anchor': t === 0 ? 'start' : t === ticks ? 'end' : 'middle' }, label));
  }
  box.replaceChildren(pic);
  if (focused) box.querySelector('[tabindex="0"]').focus({ preventScroll: true });
  $('chart-total').textContent = count(String(sums.reduce((n, s) => n + s.all, 0)));
  $('chart-most').textContent = `at most ${count(String(Math.max(...sums.map(s => s.all))))} in ${width(chart.step)}`;
}

const width = ms => ms < 3600000 ? `${ms / 60000} min` : `${ms / 3600000} h`;

/* A bar is a time filter; again, and the filter is gone */
function pickBar(i, from, to, on) {
  chart.focus = i;
  $('f-since').value = on ? '' : local(from);
  $('f-until').value = on ? '' : local(to);
  filtered();
  drawChart();
}

$('bars').addEventListener('keydown', e => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key], hits = $('bars').querySelectorAll('.hit');
  if (step) {
    e.preventDefault();
    hits[chart.focus].setAttribute('tabindex', -1);
    chart.focus = Math.min(Math.max(chart.focus + step, 0), hits.length - 1);
    hits[chart.focus].setAttribute('tabindex', 0);
    hits[chart.focus].focus();
  } else if (e.key === 'Enter' || e.key === ' ') {
    e.preventDefault();
    hits[chart.focus].dispatchEvent(new MouseEvent('click'));
  }
});
new ResizeObserver(drawChart).observe($('bars'));

/* ---- alerts: one alert ------------------------------------------------------ */

const drafts = new Map();                       /* alert id -> note being written */
let detail = null;

async function openAlert(id, decision) {
  alerts.open = id;
  alertGrid.mark(id);
  $('split').classList.add('opened');
  remember();
  try {
    let row = alerts.rows.get(id);
    if (!row) row = (await call('alerts', [['id', `eq.${id}`]]))[0];
    if (alerts.open !== id) return;
    if (!row) throw new Failure(404, `There is no alert ${id} that you may see.`);
    showDetail(row, decision);
    complain('detail');
    const why = await call('rpc/explain_alert', [['alert_id', id]]);
    if (detail && detail.id === id) showWhy(why);
  } catch (e) {
    if (!detail || detail.id !== id) closeAlert();
    complain('detail', e);
  }
}

function closeAlert() {
  const id = alerts.open;
  alerts.open = null; detail = null;
  alertGrid.mark(null);
  $('split').classList.remove('opened');
  $('detail').replaceChildren();
  remember();
  const node = alertGrid.nodes.get(id);
  if (node) alertGrid.pick(node.tr, false);
}

const pairs = list => el('dl', { class: 'pairs' }, ...list.filter(([, v]) => v !== null && v !== undefined && v !== '')
  .flatMap(([k, v, cls]) => [el('dt', { class: cls }, k), el('dd', null, v)]));

function showDetail(row, decision) {
  const id = digits(row.id), box = $('detail');
  detail = { id, row, sign: null };
  detail.head = el('span');
  detail.decided = el('p', { class: 'decided' });
  detail.why = el('div', null, ...(row.rules || []).map(r => el('div', { class: 'rule' }, data(r))));
  detail.fields = el('div');
  detail.note = el('textarea', { rows: 2, id: 'note', placeholder: 'Note (why?)', 'aria-label': 'Note', maxlength: 4000 });
  detail.note.value = drafts.get(id) || '';
  detail.note.addEventListener('input', () => drafts.set(id, detail.note.value));
  detail.note.addEventListener('keydown', e => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) { e.preventDefault(); const b = box.querySelector('button.next'); if (b) b.click(); }
  });
  const verb = (name, to) => el('button', { type: 'button', 'data-to': to, onclick: () => review(id, to) }, name);
  detail.verbs = [verb('Confirm fraud', 'confirmed'), verb('Dismiss', 'dismissed'), verb('Reopen', 'open')];
  detail.said = el('p', { role: 'status' });
  box.replaceChildren(
    el('header', null, el('h2', null, `Alert ${id}`), detail.head,
      el('button', { type: 'button', class: 'close', onclick: closeAlert, 'aria-label': 'Close alert' }, narrow.matches ? '\u2190 Back' : '\u2715')),
    el('p', null, data(row.table_name), el('span', { class: 'muted' }, ', score '), digits(row.score)),
    el('p', null, el('span', { class: 'muted' }, 'detected '), time(row.detected_at, true),
      row.occurred_at ? el('span', { class: 'muted' }, ', occurred ') : '', row.occurred_at ? time(row.occurred_at, true) : ''),
    el('div', { class: 'review' }, el('h3', null, 'Review'), detail.decided, detail.note, el('div', { class: 'buttons' }, ...detail.verbs), detail.said),
    el('h3', null, 'Why'), detail.why,
    el('h3', null, 'Transaction', el('button', { type: 'button', onclick: e => copy(e.target, row.transaction) }, 'Copy JSON')), detail.fields,
    el('h3', null, 'Where from'),
    pairs([['Source', row.source && data(row.source)], ['Topic', row.kafka_topic && data(row.kafka_topic)],
      ['Partition', digits(row.kafka_partition)], ['Offset', digits(row.kafka_offset)], ['Event', data(row.event_id, 4000, 'code')]]));
  showFields(row.transaction, []);
  refreshDetail();
  box.scrollTop = 0;
  if (decision) decide(decision);
  else if (narrow.matches) box.focus();
}

/* The decision that Ctrl+Enter in the note sends */
function decide(to) {
  for (const b of detail.verbs) b.classList.toggle('next', b.dataset.to === to);
  detail.note.focus();
}

/* The review's state, changed under the reader without touching the note */
function refreshDetail() {
  if (!detail) return;
  const row = alerts.rows.get(detail.id) || detail.row, sign = write([row.status, row.reviewed_by, row.reviewed_at, row.note]);
  if (sign === detail.sign) return;
  detail.sign = sign;
  detail.head.replaceChildren(status(row.status));
  detail.decided.replaceChildren(...(row.reviewed_at ? [status(row.status), ' by ', data(row.reviewed_by), `, ${time(row.reviewed_at, true)}`,
    row.note ? ': ' : '', row.note ? data(row.note) : ''] : [el('span', { class: 'muted' }, 'Nobody has looked at it yet.')]));
  for (const b of detail.verbs) {
    b.disabled = b.dataset.to === row.status;
    b.hidden = b.dataset.to === 'open' && row.status === 'open';
    b.classList.toggle('next', row.status !== 'confirmed' ? b.dataset.to === 'confirmed' : b.dataset.to === 'dismissed');
  }
}

async function review(id, to) {
  const d = detail, note = d.note.value.trim();
  for (const b of d.verbs) b.disabled = true;
  d.said.textContent = '';
  try {
    await call('rpc/review_alert', null, { id, status: to, note: note || null });
    drafts.delete(id);
    if (d === detail) { d.note.value = ''; d.said.className = 'muted'; d.said.textContent = 'Saved.'; }
    const [row] = await call('alerts', [['id', `eq.${id}`]]);
    if (row) { if (alerts.rows.has(id)) alerts.rows.set(id, row); d.row = row; }
    keepPlace(showAlerts);
    chart.at = 0;
  } catch (e) {
    d.said.className = 'error';
    d.said.replaceChildren('Not saved: ', data(e.message), e.more ? ' ' : '', e.more ? data(e.more) : '');
    if (e.status === 401 || e.status === 403)
      d.said.append(' ', el('button', { type: 'button', onclick: signIn }, 'Sign in as an analyst'));
  }
  if (d === detail) { d.sign = null; refreshDetail(); }
}

/* Each rule as it was when it fired, with what it looked at */
function showWhy(rules) {
  const named = new Set(), t = detail.row.transaction || {};
  const own = k => t && typeof t === 'object' && Object.prototype.hasOwnProperty.call(t, k);
  detail.why.replaceChildren(...rules.map(r => {
    /* what it read, as the server says it did; else what its text names */
    const read = r.observed && Object.entries(r.observed);
    const names = read ? read.map(([n]) => n) : [...new Set(fieldsOf(r.condition))].filter(own);
    names.forEach(n => named.add(n));
    return el('div', { class: 'rule' },
      el('div', { class: 'head' }, el('b', null, data(r.rule)), el('span', { class: 'muted' }, `version ${digits(r.version)}`),
        r.current_version === null ? el('span', { class: 'state-warn' }, 'dropped since')
          : digits(r.current_version) !== digits(r.version) ? el('span', { class: 'state-warn' }, `now version ${digits(r.current_version)}`) : '',
        r.score === null ? '' : el('span', { class: 'num', title: 'score' }, `+${digits(r.score)}`)),
      r.condition ? condition(r.condition, own) : el('p', { class: 'muted' }, 'Its text is no longer kept.'),
      r.description ? el('p', null, data(r.description)) : '',
      names.length ? el('p', { class: 'muted' }, ...names.flatMap((n, i) => {
        const v = read ? r.observed[n] : t[n];
        return [i ? ', ' : '', data(n, 60), ' = ', v === null ? 'null' : data(v, 120)];
      })) : '');
  }));
  if (!rules.length) detail.why.replaceChildren(el('p', { class: 'muted' }, 'No rule is recorded.'));
  showFields(detail.row.transaction, [...named]);
}

function condition(text, own) {
  const box = el('bdi', { class: 'data code' });
  let at = 0;
  for (const m of text.matchAll(IDENT)) {
    const name = m[1] ? null : m[2] ? m[2].replace(/""/g, '"') : m[3].toLowerCase();
    if (name === null || !own(name)) continue;
    box.append(data(text.slice(at, m.index)), el('mark', null, data(m[0])));
    at = m.index + m[0].length;
  }
  box.append(data(text.slice(at)));
  return box;
}

function showFields(t, named) {
  if (!t || typeof t !== 'object' || Array.isArray(t)) { detail.fields.replaceChildren(data(t)); return; }
  const show = v => v === null ? el('span', { class: 'muted' }, 'null') : typeof v === 'object' ? data(write(v, '  '), 4000, 'code') : data(v);
  const keys = Object.keys(t);
  detail.fields.replaceChildren(pairs([...keys.filter(k => named.includes(k)), ...keys.filter(k => !named.includes(k))]
    .map(k => [data(k, 200), show(t[k]), named.includes(k) ? 'seen' : ''])));
}

async function copy(button, value) {
  try { await navigator.clipboard.writeText(write(value, '  ')); button.textContent = 'Copied'; }
  catch (e) { button.textContent = 'Could not copy'; }
  setTimeout(() => { button.textContent = 'Copy JSON'; }, 1500);
}

/* ---- rules, dead letters, streams ------------------------------------------- */

const tone = s => /^(active|ok|live|running|alive|up|idle)$/.test(s) ? 'state-good'
  : /^(broken|stopped|failed|error|dead|stale|silent|lost|down|gone|no bridge)$/.test(s) ? 'state-bad' : /^(paused|shadow|off|late|retrying|starting|waiting)$/.test(s) ? 'state-warn' : '';
const toned = f => r => el('span', { class: tone(plain(r[f])) }, data(r[f], 80));
const counter = f => r => count(r[f]);
const wrap = (f, limit = 600) => r => data(r[f], limit);

const ruleGrid = new Grid($('rule-grid'), 'Rules', [
  { head: 'Table', field: 'target', width: '10em', show: r => data(short(r.target), 200), tip: r => r.target },
  { head: 'Rule', field: 'name', width: '12em', cls: 'wrap inline', show: r => el('b', null, data(r.name, 200)) },
  { head: 'Mode', field: 'mode', width: '6em', show: toned('mode') },
  { head: 'State', field: 'state', width: '5.5em', show: toned('state') },
  { head: 'Condition', field: 'condition', cls: 'wrap wide', show: r => el('span', null, data(r.condition, 1200, 'code'),
      r.error ? el('p', { class: 'error' }, data(r.error, 400)) : '', r.description ? el('p', { class: 'muted' }, data(r.description, 400)) : '') },
  { head: 'Score', field: 'score', width: '4.5em', cls: 'num', show: counter('score'), label: 'score' },
  { head: 'Version', field: 'version', width: '5em', cls: 'num', show: counter('version'), label: 'version',
    tip: r => `changed by ${plain(r.changed_by)}, ${time(r.changed_at, true)}` },
  { head: 'Evaluated', field: 'evaluated', width: '7em', cls: 'num', show: counter('evaluated'), label: 'evaluated' },
  { head: 'Fired', field: 'fired', width: '6em', cls: 'num', show: counter('fired'), label: 'fired' },
  { head: 'Rate', width: '5em', cls: 'num', by: rate, label: 'rate', show: r => rate(r) === null ? '' : `${+(rate(r) * 100).toPrecision(3)}\u202f%` },
  { head: 'Failed', field: 'failed', width: '5em', cls: 'num', label: 'failed',
    show: r => el('span', { class: +digits(r.failed) ? 'state-bad' : '' }, count(r.failed)) },
  { head: 'Last fired', field: 'last_fired_at', width: '10em', label: 'last', show: r => stamp(r.last_fired_at) },
  { head: '\u00b5s each', field: 'mean_time_us', width: '6em', cls: 'num', label: '\u00b5s', title: 'mean time of one evaluation, sampled',
    show: r => r.mean_time_us === null ? '' : String(+(+digits(r.mean_time_us)).toPrecision(3)) },
], { key: r => plain(r.target) + '\n' + plain(r.name), sortable: true, empty: 'No rule yet.' });
function rate(r) { return +digits(r.evaluated) ? +digits(r.fired) / +digits(r.evaluated) : null; }

async function loadRules() {
  const rows = await call('rules', [['limit', 1000]]);
  ruleFields.clear();
  for (const r of rows) ruleFields.set(plain(r.target), [...(ruleFields.get(plain(r.target)) || []), ...fieldsOf(r.condition)]);
  options($('f-rule'), rows.map(r => plain(r.name)));
  options($('f-table'), [...rows.map(r => plain(r.target)), ...[...alerts.rows.values()].map(r => plain(r.table_name))]);
  if (state.view === 'rules') ruleGrid.update(rows);
}

/* A filter's choices; what is chosen stays although it has no row now */
function options(select, values) {
  const had = [...select.options].map(o => o.value).filter(Boolean);
  const all = [...new Set([...had, ...values.filter(Boolean)])].sort();
  if (all.length === had.length) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...all.map(v => {
    const o = el('option', null, v.length > 60 ? v.slice(0, 60) + '\u2026' : v);
    o.value = v;
    return o;
  }));
  select.value = chosen;
}

const dead = { rows: new Map(), done: false, busy: false };
/* bytea as the gateway writes it, as text where it is UTF-8 */
function bytes(v) {
  const hex = plain(v);
  if (!/^\\x(?:[0-9a-f]{2})*$/.test(hex)) return hex;
  const raw = Uint8Array.from(hex.slice(2).match(/../g) || [], h => parseInt(h, 16));
  try { return new TextDecoder('utf-8', { fatal: true }).decode(raw); } catch (e) { return hex; }
}

const deadGrid = new Grid($('dead-grid'), 'Dead letters', [
  { head: 'Received', field: 'received_at', width: '10em', show: r => stamp(r.received_at) },
  { head: 'Source', field: 'source', width: '10em', tip: r => r.source },
  { head: 'Topic', field: 'kafka_topic', width: '12em', cls: 'wide', tip: r => r.kafka_topic,
    show: r => el('span', null, data(r.kafka_topic, 80), ' ', el('span', { class: 'key' }, `${digits(r.kafka_partition)}/${digits(r.kafka_offset)}`)) },
  { head: 'Stage', field: 'stage', width: '4.5em' },
  { head: 'SQLSTATE', field: 'sqlstate', width: '6.5em', show: r => data(r.sqlstate, 20, 'code') },
  { head: 'Reason', field: 'reason', cls: 'wrap wide', show: wrap('reason') },
  { head: 'Record', field: 'value', cls: 'wrap wide', show: r => r.value === null ? el('span', { class: 'muted' }, r.key === null ? '' : 'no value')
      : el('div', { class: 'more-text' }, data(bytes(r.value), 1000, 'code')) },
  { head: 'Replay', width: '9.5em', sort: false, cls: 'wrap inline', show: r => r.replayed_at ? el('span', null, 'replayed ', stamp(r.replayed_at))
      : r.replay_requested_at ? el('span', { class: 'muted' }, 'asked for ', stamp(r.replay_requested_at))
      : r.truncated ? el('span', { class: 'muted', title: 'Only its beginning was kept' }, 'too large')
      : el('button', { type: 'button', onclick: e => replay(e.target, digits(r.id)), 'aria-label': `Replay dead letter ${digits(r.id)}` }, 'Replay') },
], { key: r => digits(r.id), empty: 'No dead letter.', optional: 'value' });

function deadFilters() {
  const q = [];
  if ($('d-source').value) q.push(['source', `eq.${$('d-source').value}`]);
  if ($('d-stage').value) q.push(['stage', `eq.${$('d-stage').value}`]);
  if ($('d-state').value) q.push(['replayed_at', $('d-state').value === 'waiting' ? 'is.null' : 'not.is.null']);
  return q;
}

const deadOrder = () => [...dead.rows.keys()].sort((a, b) => idOrder(b, a));

/* How: afresh, a refresh of what is shown, or older ones */
async function loadDead(how) {
  if (dead.busy) return;
  dead.busy = true;
  try {
    const ids = deadOrder(), q = [...deadFilters(), ['order', 'id.desc']];
    if (how === 'older') q.push(['id', `lt.${ids[ids.length - 1]}`], ['limit', PAGE]);
    else if (how === 'again' && ids.length && !dead.done) q.push(['id', `gte.${ids[ids.length - 1]}`], ['limit', 500]);
    else q.push(['limit', PAGE]);
    const rows = await call('dead_letters', q);
    if (how !== 'older') dead.rows.clear();
    for (const r of rows) dead.rows.set(digits(r.id), r);
    if (how !== 'again' || dead.done) dead.done = rows.length < PAGE;
    options($('d-source'), rows.map(r => plain(r.source)));
    deadGrid.update(deadOrder().map(id => dead.rows.get(id)));
    $('dead-more').replaceChildren(dead.done ? '' : el('button', { type: 'button', onclick: () => act('dead', loadDead('older')) }, 'Older dead letters'));
  } finally { dead.busy = false; }
}

async function replay(button, id) {
  button.disabled = true;
  try {
    await call('rpc/replay', null, { id });
    complain('replay');
    const [row] = await call('dead_letters', [['id', `eq.${id}`]]);
    if (row) dead.rows.set(id, row);
    deadGrid.update(deadOrder().map(i => dead.rows.get(i)));
  } catch (e) {
    button.disabled = false;
    complain('replay', e);
  }
}

const reason = r => el('span', { class: 'error' }, data(r.stopped_reason || r.last_error || '', 500),
  r.statement || r.stopped_hint ? el('p', { class: 'muted' }, data(r.statement || r.stopped_hint, 500, 'code')) : '');
const sourceGrid = new Grid($('source-grid'), 'Sources', [
  { head: 'Source', field: 'name', width: '11em', show: r => el('b', null, data(r.name, 100)), tip: r => r.name },
  { head: 'State', field: 'state', width: '7em', show: toned('state') },
  { head: 'Topic', field: 'topic', tip: r => r.topic },
  { head: 'Table', field: 'target', show: r => data(short(r.target), 200), tip: r => r.target },
  { head: 'Lag', field: 'lag', width: '7em', cls: 'num', label: 'lag', show: r => r.lag === null ? '?' : count(r.lag) },
  { head: 'Position', field: 'position', cls: 'wrap', label: 'position', title: 'the next offset of each partition',
    show: r => data(Object.entries(r.position || {}).map(([p, o]) => `${p}: ${digits(o)}`).join('  '), 300) },
  { head: 'Error', cls: 'wrap wide', show: reason },
], { key: r => plain(r.name), sortable: true, empty: 'No source yet.' });
const sinkGrid = new Grid($('sink-grid'), 'Sinks', [
  { head: 'Sink', field: 'name', width: '11em', show: r => el('b', null, data(r.name, 100)), tip: r => r.name },
  { head: 'State', field: 'state', width: '7em', show: toned('state') },
  { head: 'Kind', field: 'kind', width: '6em' },
  { head: 'Table', field: 'target', show: r => data(short(r.target), 200), tip: r => r.target },
  { head: 'Lag, rows', field: 'lag_rows', width: '7em', cls: 'num', label: 'lag', show: r => r.lag_rows === null ? '?' : count(r.lag_rows) },
  { head: 'Lag, s', field: 'lag_seconds', width: '6em', cls: 'num', label: 'seconds', show: r => r.lag_seconds === null ? '' : count(String(Math.round(+digits(r.lag_seconds)))) },
  { head: 'Position', field: 'position', width: '7em', cls: 'num', show: counter('position'), label: 'position' },
  { head: 'Error', cls: 'wrap wide', show: reason },
], { key: r => plain(r.name), sortable: true, empty: 'No sink yet.' });
const bridgeGrid = new Grid($('bridge-grid'), 'Bridges', [
  { head: 'Instance', field: 'instance', width: '22em', show: r => data(r.instance, 60, 'code') },
  { head: 'State', field: 'state', width: '7em', show: toned('state') },
  { head: 'Host', field: 'host', tip: r => r.host },
  { head: 'Process', field: 'pid', width: '6em', cls: 'num', show: r => digits(r.pid), label: 'pid' },
  { head: 'Version', field: 'version', width: '6em', label: 'version' },
  { head: 'Does', field: 'parts', show: r => data((r.parts || []).join(', ')) },
  { head: 'Since', field: 'started_at', width: '9em', show: r => stamp(r.started_at) },
  { head: 'Heartbeat', field: 'heartbeat_at', width: '9em', show: r => el('span', { title: plain(r.heartbeat_at) }, ago(r.heartbeat_at)) },
], { key: r => plain(r.instance || r.heartbeat_at), sortable: true, empty: 'No bridge has reported: start fraudbridge.' });

async function loadStreams() {
  const [sources, sinks, bridges] = await Promise.all(['sources', 'sinks', 'bridge_status'].map(v => call(v)));
  if (state.view === 'streams') { sourceGrid.update(sources); sinkGrid.update(sinks); bridgeGrid.update(bridges); }
  health(sources, sinks, bridges);
}

/* One phrase for whether all runs, in sight on every view */
function health(sources, sinks, bridges) {
  const bad = r => tone(plain(r.state)) === 'state-bad', alive = bridges.filter(b => !bad(b));
  const stopped = [...sources, ...sinks].filter(bad), box = $('health');
  const lag = sources.reduce((n, s) => n + (s.lag === null || s.lag === undefined ? 0 : +digits(s.lag)), 0);
  const [mood, words] = stopped.length ? ['bad', `stopped: ${stopped.map(s => plain(s.name)).join(', ').slice(0, 60)}`]
    : !bridges.length ? ['', 'no bridge'] : !alive.length ? ['bad', 'no bridge alive']
    : lag > 0 ? ['good', `running, ${count(String(lag))} behind`] : ['good', 'running'];
  box.className = `health ${mood}`;
  if (box.textContent !== words) box.replaceChildren(data(words));
}

/* ---- views, timer, keys ------------------------------------------------------- */

const loads = { alerts: refreshAlerts, rules: loadRules, dead: () => loadDead('again'), streams: loadStreams };
async function act(topic, work) {
  try { await work; complain(topic); return true; } catch (e) { complain(topic, e); return false; }
}

function show(view) {
  state.view = view;
  for (const s of document.querySelectorAll('.view')) s.hidden = s.id !== view;
  for (const b of $('nav').children) b.dataset.view === view ? b.setAttribute('aria-current', 'page') : b.removeAttribute('aria-current');
  document.title = `${$('nav').querySelector('[aria-current]').firstChild.textContent} - pg_fraud`;
  remember();
  if (view === 'alerts') { drawChart(); seenFresh(); }
  act(view, loads[view]());
}

/* Where the reader is, in the address: it survives a reload, the token does not */
const kept = { table: 'f-table', rule: 'f-rule', status: 'f-status', score: 'f-score', since: 'f-since', until: 'f-until', span: 'chart-span' };
function remember() {
  const q = new URLSearchParams();
  for (const [k, id] of Object.entries(kept)) if ($(id).value && !(k === 'span' && $(id).value === '24h')) q.set(k, $(id).value);
  if (alerts.open) q.set('alert', alerts.open);
  history.replaceState(null, '', `#${state.view}${q.size || [...q].length ? '?' + q : ''}`);
}
function recall() {
  const [view, query] = location.hash.slice(1).split('?'), q = new URLSearchParams(query || '');
  for (const [k, id] of Object.entries(kept)) {
    const v = q.get(k);
    if (v === null) continue;
    if (id === 'f-table' || id === 'f-rule') options($(id), [v]);
    $(id).value = v;
    if ($(id).selectedIndex === -1) $(id).selectedIndex = 0;
  }
  markFilters();
  const id = q.get('alert');
  alerts.open = id && /^\d+$/.test(id) ? id : null;
  return loads[view] ? view : 'alerts';
}

function markFilters() {
  for (const f of document.querySelectorAll('.filters :is(select, input)')) f.classList.toggle('on', f.value !== '' && f.id !== 'd-state');
  const n = $('filters').querySelectorAll('.on').length;
  $('f-toggle').textContent = n ? `Filters (${n})` : 'Filters';
}
$('f-toggle').addEventListener('click', e => {
  const open = $('filters').classList.toggle('shown');
  e.currentTarget.setAttribute('aria-expanded', open);
});
function filtered() {
  markFilters(); remember(); reload();
  act('chart', loadChart());
}

let typing = 0;
$('filters').addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(filtered, 300); });
$('filters').addEventListener('submit', e => e.preventDefault());
$('filters').addEventListener('reset', () => setTimeout(() => { filtered(); drawChart(); }));
$('d-filters').addEventListener('input', () => { markFilters(); dead.rows.clear(); dead.done = false; act('dead', loadDead()); });
$('d-filters').addEventListener('submit', e => e.preventDefault());
$('d-filters').addEventListener('reset', () => setTimeout(() => { markFilters(); dead.rows.clear(); dead.done = false; act('dead', loadDead()); }));
$('chart-span').addEventListener('change', () => { chart.focus = 0; remember(); act('chart', loadChart()); });
$('nav').addEventListener('click', e => { const b = e.target.closest('button'); if (b) show(b.dataset.view); });
$('fresh').addEventListener('click', () => {
  if (alerts.gap) { reload(); return; }
  scroller().scrollTop = 0;
  const first = alertGrid.body.firstChild;
  if (first) alertGrid.pick(first, false);
  scroller().scrollTop = 0;
  seenFresh();
});
$('look').addEventListener('change', e => {
  if (e.target.value) document.documentElement.dataset.look = e.target.value; else delete document.documentElement.dataset.look;
});
$('every').addEventListener('change', () => { beat.fails = 0; schedule(0); });

/* The list's end loads more before it is reached */
new IntersectionObserver(seen => {
  if (seen.some(s => s.isIntersecting) && state.view === 'alerts') older();
}, { rootMargin: '400px' }).observe($('alert-more'));
for (const target of [$('list'), window]) target.addEventListener('scroll', () => { if (state.view === 'alerts') seenFresh(); }, { passive: true });

/* The refresh: one at a time, not while the tab is hidden, slower while it fails */
const beat = { timer: 0, fails: 0, slow: 0, on: false };
function schedule(wait) {
  clearTimeout(beat.timer);
  const every = +$('every').value * 1000;
  if (every) beat.timer = setTimeout(tick, wait === undefined ? Math.min(every * 2 ** beat.fails, 60000) : wait);
}
async function tick() {
  if (document.hidden || beat.on) return schedule();
  beat.on = true;
  const ok = await act(state.view, loads[state.view]());
  if (ok && Date.now() - beat.slow > 15000) {
    beat.slow = Date.now();
    if (state.view !== 'rules') await act('rules', loadRules());
    if (state.view !== 'streams') await act('streams', loadStreams());
  }
  if (ok && state.view === 'alerts' && Date.now() - chart.at > Math.min(SPANS[$('chart-span').value][0] * 500, 30000)) await act('chart', loadChart());
  beat.fails = ok ? 0 : Math.min(beat.fails + 1, 5);
  beat.on = false;
  schedule();
}
document.addEventListener('visibilitychange', () => { if (!document.hidden) schedule(0); });

document.addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector('dialog[open]')) return;
  if (e.key === 'Escape' && state.view === 'alerts' && alerts.open !== null) { e.preventDefault(); closeAlert(); return; }
  if (!state.single || e.target.closest('input, select, textarea')) return;
  const view = { 1: 'alerts', 2: 'rules', 3: 'dead', 4: 'streams' }[e.key];
  const row = e.target.closest('#alert-grid tr') || (e.target.closest('#detail') && alerts.open ? alertGrid.nodes.get(alerts.open)?.tr : null);
  if (view) show(view);
  else if (e.key === '/') { const f = document.querySelector(`#${state.view} .filters select`); if (f) f.focus(); else return; }
  else if (e.key === '?') $('help').showModal();
  else if (e.key === 't' && state.view === 'alerts') $('fresh').click();
  else if ((e.key === 'c' || e.key === 'd') && row) openOrDecide(row.fraudKey, e.key === 'c' ? 'confirmed' : 'dismissed');
  else if ((e.key === 'j' || e.key === 'k' || e.key === 'ArrowDown') && state.view === 'alerts' && (e.target === document.body || e.target === $('main'))) {
    const first = visibleRows()[0];
    if (first) alertGrid.pick(first, false); else return;
  } else return;
  e.preventDefault();
});
function openOrDecide(id, to) { if (detail && detail.id === id) decide(to); else openAlert(id, to); }

/* ---- sign in -------------------------------------------------------------------- */

function claimsOf(token) {
  const part = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), c => c.charCodeAt(0))));
}

function signIn() {
  $('sign-error').hidden = true;
  $('token').value = '';
  $('sign-out').hidden = $('sign-now').hidden = !state.token;
  if (state.token) $('sign-now').replaceChildren('Now: ', data(state.claims.role || 'no role'), state.claims.sub ? ', ' : '', data(state.claims.sub || ''),
    state.claims.exp ? `, until ${time(state.claims.exp * 1000, true)}` : '');
  $('sign').showModal();
}
function signed(token, claims) {
  state.token = token; state.claims = claims;
  $('token').value = '';
  $('who').replaceChildren(token ? data(claims.sub || claims.role || 'signed in', 60) : 'Sign in');
  if (token) $('who').title = `role ${plain(claims.role || '?')}`; else $('who').removeAttribute('title');
  if ($('sign').open) $('sign').close();
  complain(bannerOf);
  start();
}
$('who').addEventListener('click', signIn);
$('keys').addEventListener('click', () => $('help').showModal());
$('single').addEventListener('change', e => { state.single = e.target.checked; });
$('sign-close').addEventListener('click', () => $('sign').close());
$('sign-out').addEventListener('click', () => signed(null, null));
$('sign-form').addEventListener('submit', e => {
  e.preventDefault();
  const token = $('token').value.trim().replace(/^Bearer\s+/i, '');
  let claims, wrong = '';
  try { claims = claimsOf(token); } catch (x) { wrong = 'This is not a token: three parts joined by dots are expected.'; }
  if (claims && claims.exp && claims.exp * 1000 < Date.now()) wrong = `This token expired at ${time(claims.exp * 1000, true)}.`;
  if (claims && !claims.role) wrong = 'This token names no role.';
  if (wrong) { $('sign-error').textContent = wrong; $('sign-error').hidden = false; $('token').focus(); return; }
  signed(token, claims);
});

/* ---- start ---------------------------------------------------------------------- */

async function start() {
  await reload();
  if (alerts.open !== null) openAlert(alerts.open);
  if (bannerOf === 'alerts') { if (!state.token) signIn(); schedule(); return; }
  beat.slow = Date.now();
  await act('rules', loadRules());
  alertGrid.nodes.forEach(n => { n.sign = null; });
  keepPlace(showAlerts);
  await act('chart', loadChart());
  await act('streams', loadStreams());
  schedule();
}

const first = recall();
if (first !== 'alerts') show(first);
start();
})();
