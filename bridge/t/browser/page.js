/*
 * What a person does with the alerts page, done by a Chromium without a
 * screen.  Prints TAP lines that 501_page.pl takes over.
 *
 *	node page.js FOLDER < settings
 *
 * FOLDER has node_modules/playwright-core and chromium; the settings are JSON.
 */
'use strict';
const folder = process.argv[2];
const { chromium } = require(`${folder}/node_modules/playwright-core`);
const set = JSON.parse(require('fs').readFileSync(0, 'utf8'));

const ok = (good, name, ...more) => {
	console.log(`${good ? 'ok' : 'not ok'} - ${name}`);
	if (!good) for (const m of more) console.log(`# ${JSON.stringify(m)}`);
	return good;
};
const is = (got, want, name) => ok(JSON.stringify(got) === JSON.stringify(want), name, { got, want });

/* Asks the gateway as somebody, beside the page */
async function ask(path, body, token) {
	const answer = await fetch(set.url + path, {
		method: body ? 'POST' : 'GET', body: body && JSON.stringify(body),
		headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token || set.tokens.analyst}` },
	});
	const text = await answer.text();
	if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`);
	return text ? JSON.parse(text) : null;
}
const insert = n => ask('/rpc/test_payments', { n });

let browser;
const trouble = [], foreign = [];

async function open(options, hash = '') {
	const context = await browser.newContext({ viewport: { width: 1360, height: 820 }, timezoneId: 'UTC', ...options });
	context.setDefaultTimeout(120000);
	await context.addInitScript(() => {
		window.refused = [];
		document.addEventListener('securitypolicyviolation', e => window.refused.push(`${e.violatedDirective} ${e.blockedURI}`));
	});
	const page = await context.newPage();
	page.on('console', m => {
		/* a refused request is the browser's own remark, not the page's */
		if (m.type() === 'error' && !/Failed to load resource.*40[013]/.test(m.text())) trouble.push(m.text());
	});
	page.on('pageerror', e => trouble.push(e.stack || e.message));
	page.on('dialog', d => { trouble.push(`dialog: ${d.message()}`); d.dismiss(); });
	page.pending = new Set();
	page.on('request', r => page.pending.add(r));
	page.on('requestfinished', r => page.pending.delete(r));
	page.on('requestfailed', r => page.pending.delete(r));
	page.on('request', r => { if (!r.url().startsWith(set.url) && !r.url().startsWith('data:')) foreign.push(r.url()); });
	await page.goto(`${set.url}/rpc/page${hash}`);
	return page;
}

/* Until the page has done what it was about: what it puts off (a filter that is
   being typed) is begun, every request has been answered, and the answers are
   shown */
async function quiet(page) {
	for (let calm = 0; calm < 3;) {
		await page.evaluate(ms => new Promise(done => setTimeout(done, ms)), calm ? 100 : 350);
		calm = page.pending.size ? 0 : calm + 1;
	}
}

async function signIn(page, token) {
	if (!await page.locator('#sign[open]').count()) {
		await page.waitForFunction(() => document.querySelector('#sign[open]'));
	}
	await page.fill('#token', token);
	await page.press('#token', 'Tab');
	await page.keyboard.press('Enter');
	await page.waitForSelector('#alert-grid tbody tr, #banner:not([hidden])', { state: 'attached' });
	await page.waitForFunction(() => document.getElementById('health').textContent || !document.getElementById('banner').hidden);
	/* quiet: the test says when to look again */
	await every(page, '0');
}
const every = (page, seconds) => page.evaluate(v => {
	const box = document.getElementById('every');
	box.value = v;
	box.dispatchEvent(new Event('change'));
}, seconds);
const ids = page => page.$$eval('#alert-grid tbody tr', rows => rows.map(r => r.fraudKey));
/* One round of the refresh, finished */
async function refresh(page) {
	const head = page.waitForResponse(r => r.url().includes('/alerts?') && r.url().includes('select='));
	await every(page, '2');
	await head;
	await every(page, '0');
	await quiet(page);
}
const intruders = page => page.evaluate(() => ({
	pwned: window.pwned, refused: window.refused,
	elements: [...document.querySelectorAll('script, style, img, iframe, object, embed, base, b[onmouseover], a[href^="javascript"], form')]
		.map(e => e.tagName + (e.id ? '#' + e.id : '')).sort(),
	handlers: [...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => /^on/i.test(a.name) || (a.name === 'style' && e.tagName !== 'COL')))
		.map(e => e.tagName),
}));
const clean = { pwned: undefined, refused: [], elements: ['FORM', 'FORM#d-filters', 'FORM#filters', 'FORM#sign-form', 'SCRIPT', 'STYLE'], handlers: [] };
const wide = page => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
const shot = (page, name) => set.shots ? page.screenshot({ path: `${set.shots}/${name}.png`, caret: 'initial' }) : null;

async function signing() {
	const page = await open({});
	await page.waitForSelector('#sign[open]');
	ok(true, 'without a token the page asks for one');
	is((await ids(page)).length, 0, 'and shows nothing');
	for (const [token, words] of [['nonsense', /not a token/], [set.tokens.expired, /expired/], [set.tokens.roleless, /no role/]]) {
		await page.fill('#token', token);
		await page.click('#sign-form .primary');
		ok(words.test(await page.textContent('#sign-error')), `a useless token is named: ${words.source}`);
	}
	await signIn(page, set.tokens.analyst);
	ok((await ids(page)).length > 0, 'with a token the alerts are there');
	await page.selectOption('#f-status', 'open');
	await quiet(page);
	const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]));
	ok(!kept.includes(set.tokens.analyst.slice(0, 20)), 'the token is kept in memory only', kept);
	await page.reload();
	await page.waitForSelector('#sign[open]');
	is(await page.inputValue('#f-status'), 'open', 'a reload keeps the filters and forgets the token');
	await page.context().close();

	const reader = await open({});
	await signIn(reader, set.tokens.wrong);
	ok(/Not allowed|refused/.test(await reader.textContent('#banner')), 'a token with a wrong signature is refused aloud', await reader.textContent('#banner'));
	await reader.context().close();
}

async function hostile() {
	const page = await open({});
	await signIn(page, set.tokens.analyst);
	await page.selectOption('#f-table', set.hostile.table);
	await page.waitForFunction(n => document.querySelectorAll('#alert-grid tbody tr').length === n, set.hostile.count);
	const text = await page.textContent('#alert-grid tbody');
	for (const t of set.hostile.inList) ok(text.includes(t), `the list shows it as text: ${t.slice(0, 30)}`);
	ok(await page.locator('#alert-grid .ctl', { hasText: 'U+202E' }).count() > 0, 'a character that turns the direction is made visible');
	ok(await wide(page) <= 0, 'very long values do not widen the page');
	await shot(page, 'hostile-list');
	await page.locator('#alert-grid tbody tr').first().click();
	await page.waitForSelector('#detail .rule .code');
	await page.waitForSelector('#detail .pairs dd');
	const detail = await page.textContent('#detail');
	for (const t of set.hostile.inDetail) ok(detail.includes(t), `the alert shows it as text: ${t.slice(0, 30)}`);
	ok(await wide(page) <= 0, 'nor do they in the alert');
	const inside = await page.evaluate(() => { const d = document.getElementById('detail'); return d.scrollWidth - d.clientWidth; });
	ok(inside <= 1, 'nor the alert itself', inside);
	await shot(page, 'hostile-detail');
	is(await intruders(page), clean, 'nothing of it became markup, script or style');
	const note = set.hostile.note;
	await page.fill('#note', note);
	await page.click('#detail [data-to=dismissed]');
	await page.waitForFunction(n => document.querySelector('#detail .decided').textContent.includes(n), note);
	ok((await page.textContent('#detail .decided')).includes(set.hostile.sub), 'a hostile note and reviewer come back as text');
	await page.keyboard.press('Escape');

	await page.selectOption('#f-table', '');
	await page.selectOption('#f-rule', set.hostile.rule);
	await page.waitForFunction(n => document.querySelectorAll('#alert-grid tbody tr').length === n, set.hostile.count);
	ok(true, 'a rule whose name has quotes, braces and commas filters');
	ok(+(await page.textContent('#chart-total')) >= 0, 'and the chart follows');

	await page.click('nav [data-view=rules]');
	await page.waitForSelector('#rule-grid tbody tr');
	ok((await page.textContent('#rule-grid')).includes(set.hostile.rule), 'the rules show it as text');
	await shot(page, 'hostile-rules');
	await page.click('nav [data-view=dead]');
	await page.waitForSelector('#dead-grid tbody tr');
	const dead = await page.textContent('#dead-grid');
	for (const t of set.hostile.inDead) ok(dead.includes(t), `the dead letters show it as text: ${t.slice(0, 30)}`);
	await shot(page, 'hostile-dead');
	await page.click('nav [data-view=streams]');
	await page.waitForSelector('#source-grid tbody tr');
	const streams = await page.textContent('#streams');
	for (const t of set.hostile.inStreams) ok(streams.includes(t), `the streams show it as text: ${t.slice(0, 30)}`);
	await shot(page, 'hostile-streams');
	is(await intruders(page), clean, 'nothing of that became markup either');
	ok(await wide(page) <= 0, 'no view is wider than the window');
	await page.context().close();
}

async function filtering() {
	const page = await open({});
	await signIn(page, set.tokens.analyst);
	const count = async () => {
		await quiet(page);
		for (let had = -1, now = (await ids(page)).length; now !== had; had = now, now = (await ids(page)).length) {
			await page.evaluate(() => { document.getElementById('list').scrollTop = 1e9; });
			await quiet(page);
		}
		return ids(page);
	};
	const all = await count();
	is(all.length, set.counts.all, 'scrolling loads every alert, page by page');
	ok(all.every((id, i) => !i || BigInt(all[i - 1]) > BigInt(id)), 'newest first, none twice');
	await page.selectOption('#f-table', 'public.payments');
	is((await count()).length, set.counts.table, 'filter by table');
	await page.fill('#f-score', '1.5');
	is((await count()).length, set.counts.score, 'and by score');
	await page.fill('#f-score', '');
	await page.selectOption('#f-rule', 'not_home');
	is((await count()).length, set.counts.rule, 'and by rule');
	await page.selectOption('#f-rule', '');
	await page.selectOption('#f-status', 'confirmed');
	is((await count()).length, set.counts.status, 'and by status');
	await page.click('#f-reset');
	// as a browser writes a time itself: whole minutes without their seconds
	await page.fill('#f-since', set.counts.since.replace(/:00$/, ''));
	await page.fill('#f-until', set.counts.until.replace(/:00$/, ''));
	is((await count()).length, set.counts.time, 'and by time');
	await page.click('#f-reset');
	await quiet(page);
	const total = set.counts.day;
	is(+(await page.textContent('#chart-total')).replace(/\D/g, ''), total, 'the chart counts the frauds of its span');
	const bar = await page.$$eval('#bars .hit', hits => {
		const n = hits.map(h => +h.getAttribute('aria-label').match(/: (\d+) frauds/)[1]);
		const i = n.findIndex(x => x > 0 && x < 60);
		return { i, n: n[i], sum: n.reduce((a, b) => a + b, 0) };
	});
	is(bar.sum, total, 'and its bars add up');
	await page.locator('#bars .hit').nth(bar.i).click();
	is((await count()).length, bar.n, 'a bar filters the list by its time');
	await page.locator('#bars .hit').nth(bar.i).click();
	is((await count()).length, set.counts.all, 'and again takes the filter away');
	await page.context().close();
}

async function reviewing() {
	const page = await open({});
	await signIn(page, set.tokens.analyst);
	await page.selectOption('#f-table', 'public.payments');
	await quiet(page);
	/* by keyboard alone from here */
	await page.locator('#main').focus();
	await page.keyboard.press('j');
	const first = await page.evaluate(() => document.activeElement.fraudKey);
	await page.keyboard.press('j');
	const second = await page.evaluate(() => document.activeElement.fraudKey);
	ok(first && second && first !== second, 'j goes down the list', first, second);
	await page.keyboard.press('ArrowUp');
	is(await page.evaluate(() => document.activeElement.fraudKey), first, 'the arrow goes up');
	await page.keyboard.press('Enter');
	await page.waitForSelector('#detail .rule .code');
	is((await page.textContent('#detail h2')), `Alert ${first}`, 'Enter opens the alert');
	const why = await page.textContent('#detail .rule');
	ok(why.includes('amount > 500') && why.includes('version 1') && why.includes('now version 2'),
		'it explains by the rule as it was when it fired', why);
	ok((await page.textContent('#detail')).includes(set.bigId), 'numbers keep all of their digits');
	await page.keyboard.press('c');
	is(await page.evaluate(() => document.activeElement.id), 'note', 'c goes to the note');
	await page.keyboard.type('called: "not me" <b>');
	await insert(1);
	await refresh(page);
	is(await page.inputValue('#note'), 'called: "not me" <b>', 'a refresh leaves the note being written');
	await page.keyboard.press('Control+Enter');
	await page.waitForSelector('#detail header .status.confirmed');
	ok(true, 'Ctrl+Enter confirms');
	is(await page.locator('#alert-grid tr[aria-selected=true] .status').textContent(), 'confirmed', 'the list follows');
	await page.keyboard.press('Escape');
	is(await page.evaluate(() => document.activeElement.fraudKey), first, 'Escape goes back to the row');
	is(await page.locator('#detail').isVisible(), false, 'and closes the alert');
	await page.keyboard.press('?');
	ok(await page.locator('#help[open]').count() === 1, '? shows the keys');
	await page.keyboard.press('Escape');
	for (const [key, view] of [['2', 'rules'], ['3', 'dead'], ['4', 'streams'], ['1', 'alerts']]) {
		await page.keyboard.press(key);
		ok(await page.locator(`#${view}`).isVisible(), `${key} shows ${view}`);
	}
	await page.context().close();
	console.log(`# confirmed ${first}`);

	const reader = await open({});
	await signIn(reader, set.tokens.reader);
	await reader.locator('#alert-grid tbody tr').nth(3).click();
	await reader.click('#detail [data-to=confirmed]');
	await reader.waitForSelector('#detail .error');
	ok(/permission denied/.test(await reader.textContent('#detail .error')), 'a reader who reviews is told that he may not');
	await reader.context().close();
}

async function refreshing() {
	const page = await open({});
	await signIn(page, set.tokens.analyst);
	await quiet(page);
	await insert(2);
	await refresh(page);
	is(await page.evaluate(() => document.getElementById('list').scrollTop), 0, 'at the top new alerts simply appear');
	await page.evaluate(() => { document.getElementById('list').scrollTop = 900; });
	await quiet(page);
	const place = () => page.evaluate(() => {
		const top = document.getElementById('list').getBoundingClientRect().top + 30;
		const row = [...document.querySelectorAll('#alert-grid tbody tr')].find(r => r.getBoundingClientRect().bottom > top);
		return [row.fraudKey, Math.round(row.getBoundingClientRect().top)];
	});
	const before = await place(), rows = (await ids(page)).length;
	await insert(7);
	await refresh(page);
	is((await ids(page)).length, rows + 7, 'new alerts are in the list');
	const after = await place();
	ok(after[0] === before[0] && Math.abs(after[1] - before[1]) <= 1, 'and the reader is where he was', before, after);
	is(await page.textContent('#fresh'), '7 new \u2191', 'he is told how many there are');
	await shot(page, 'fresh');
	await page.click('#fresh');
	is(await page.evaluate(() => document.getElementById('list').scrollTop), 0, 'one click and he sees them');
	ok(await page.locator('#fresh').isHidden(), 'and the notice is gone');

	await page.locator('#alert-grid tbody tr').nth(5).click();
	await page.waitForSelector('#detail h2');
	const held = await page.evaluate(() => { const r = document.querySelector('tr[aria-selected=true]'); return [r.fraudKey, Math.round(r.getBoundingClientRect().top)]; });
	await insert(4);
	await refresh(page);
	const still = await page.evaluate(() => { const r = document.querySelector('tr[aria-selected=true]'); return [r.fraudKey, Math.round(r.getBoundingClientRect().top)]; });
	ok(still[0] === held[0] && Math.abs(still[1] - held[1]) <= 1, 'an open alert stays where it is while others arrive', held, still);
	await ask('/rpc/review_alert', { id: held[0], status: 'dismissed', note: 'by a colleague' });
	await refresh(page);
	ok((await page.textContent('#detail .decided')).includes('by a colleague'), 'a colleague\'s decision shows by itself');
	await page.keyboard.press('Escape');
	await insert(130);
	await refresh(page);
	ok(/Many new/.test(await page.textContent('#fresh')), 'more than a refresh can bring is said, not shown in part');
	await page.click('#fresh');
	await quiet(page);
	const now = await ids(page), newest = await ask('/alerts?select=id&limit=60');
	is(now.slice(0, 60), newest.map(r => String(r.id)), 'and one click shows the newest');

	await page.route('**/alerts?*', r => r.abort());
	await every(page, '2');
	await page.waitForSelector('#banner:not([hidden])');
	ok(/does not answer/.test(await page.textContent('#banner')), 'a server that is away is said');
	await page.unroute('**/alerts?*');
	await page.waitForSelector('#banner', { state: 'hidden' });
	ok(true, 'and the page goes on when it is back');
	trouble.splice(0, trouble.length, ...trouble.filter(t => !/ERR_FAILED/.test(t)));
	await page.context().close();
}

async function operating() {
	const page = await open({}, '#dead');
	await signIn(page, set.tokens.operator);
	await page.click('nav [data-view=dead]');
	await page.waitForSelector('#dead-grid tbody tr');
	is(await page.locator('#dead-grid tbody tr').count(), 60, 'dead letters come by pages');
	ok((await page.textContent('#dead-grid')).includes(set.hostile.value), 'an operator sees the record');
	await page.click('#dead-more button');
	await page.waitForFunction(n => document.querySelectorAll('#dead-grid tbody tr').length === n, set.counts.dead);
	ok(true, 'older ones follow');
	await page.locator('#dead-grid tbody tr').first().locator('button').click();
	await page.waitForSelector('#dead-grid tbody tr:first-child :text("asked for")');
	ok(true, 'Replay hands one back to the bridge');
	is(await intruders(page), clean, 'the record became no markup');
	await shot(page, 'dead-operator');
	await page.context().close();

	const analyst = await open({});
	await signIn(analyst, set.tokens.analyst);
	await analyst.click('nav [data-view=dead]');
	await analyst.waitForSelector('#dead-grid tbody tr');
	ok(!(await analyst.textContent('#dead-grid')).includes(set.hostile.value), 'an analyst does not see the record');
	await analyst.locator('#dead-grid tbody tr').nth(1).locator('button').click();
	await analyst.waitForSelector('#banner:not([hidden])');
	ok(/Not allowed/.test(await analyst.textContent('#banner')), 'nor may he replay it', await analyst.textContent('#banner'));
	await analyst.context().close();
}

/* Contrast as WCAG has it */
const contrast = (page, selector) => page.evaluate(sel => {
	const light = c => { const [r, g, b] = c.match(/[\d.]+/g).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
	const e = document.querySelector(sel);
	let ground = e;
	while (/rgba\(0, 0, 0, 0\)|transparent/.test(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
	const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(ground).backgroundColor)];
	return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}, selector);

async function looking() {
	const grounds = [];
	for (const colorScheme of ['light', 'dark']) {
		const page = await open({ colorScheme });
		await signIn(page, set.tokens.analyst);
		await page.locator('#alert-grid tbody tr').nth(2).click();
		await page.waitForSelector('#detail .rule .code');
		grounds.push(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
		for (const [selector, least] of [['#alert-grid td:last-child', 7], ['#alert-grid th', 4.5], ['#alert-grid .key', 4.5], ['#detail .rule .code', 7],
			['.legend', 4.5], ['#detail .rule mark', 7], ['#health', 4.5], ['#nav [aria-current]', 7]]) {
			const c = await contrast(page, selector);
			ok(c >= least, `${colorScheme}: ${selector} is legible (${least}:1)`, c);
		}
		await shot(page, `look-${colorScheme}`);
		await page.context().close();
	}
	ok(grounds[0] !== grounds[1], 'light and dark differ');
}

async function phoning() {
	const page = await open({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
	await signIn(page, set.tokens.analyst);
	ok(await wide(page) <= 0, 'on a phone nothing is wider than the screen', await wide(page));
	await shot(page, 'phone-list');
	await page.evaluate(() => scrollTo(0, 1500));
	await quiet(page);
	const y = await page.evaluate(() => scrollY);
	const row = await page.evaluate(() => [...document.querySelectorAll('#alert-grid tbody tr')].findIndex(r => r.getBoundingClientRect().top > 200));
	await page.locator('#alert-grid tbody tr').nth(row).tap();
	await page.waitForSelector('#detail .rule .code');
	const box = await page.locator('#detail').boundingBox();
	ok(box.width >= 359 && box.height >= 700, 'an alert fills the phone', box);
	ok(await wide(page) <= 0, 'and is not wider than it', await wide(page));
	await shot(page, 'phone-detail');
	const small = await page.$$eval('#detail button', b => b.filter(x => x.offsetParent && x.getBoundingClientRect().height < 22).length);
	is(small, 0, 'what is to be tapped is large enough');
	await page.locator('#detail .close').tap();
	await quiet(page);
	ok(Math.abs(await page.evaluate(() => scrollY) - y) < 3, 'Back is where he was', y, await page.evaluate(() => scrollY));
	await insert(5);
	const top = () => page.evaluate(i => Math.round(document.querySelector(`#alert-grid tbody`).querySelectorAll('tr')[i].getBoundingClientRect().top), row);
	const held = await page.evaluate(i => document.querySelectorAll('#alert-grid tbody tr')[i].fraudKey, row), was = await top();
	await every(page, '2');
	await page.waitForFunction(id => document.querySelectorAll('#alert-grid tbody tr')[0].fraudKey !== id, (await ids(page))[0]);
	await quiet(page);
	const is_at = await page.evaluate(id => Math.round([...document.querySelectorAll('#alert-grid tbody tr')].find(r => r.fraudKey === id).getBoundingClientRect().top), held);
	ok(Math.abs(is_at - was) <= 2, 'a refresh keeps the place on a phone, too', was, is_at);
	for (const view of ['rules', 'dead', 'streams']) {
		await page.locator(`nav [data-view=${view}]`).tap();
		await quiet(page);
		ok(await wide(page) <= 0, `${view} fits the phone`, await wide(page));
		await shot(page, `phone-${view}`);
	}
	await page.context().close();
}

(async () => {
	browser = await chromium.launch({ executablePath: `${folder}/chromium`, timeout: 60000,
		args: ['--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage', '--disable-gpu'] });
	const only = process.env.PAGE_ONLY;
	for (const part of [signing, filtering, hostile, reviewing, refreshing, operating, looking, phoning]) {
		if (only && !only.split(',').includes(part.name)) continue;
		console.log(`# ${part.name}`);
		try { await part(); } catch (e) { ok(false, `${part.name} goes through`, e.stack); }
	}
	is(trouble, [], 'the console is free of errors and of violations of the policy');
	is(foreign, [], 'no other host was asked for anything');
	await browser.close();
	console.log('# done');
})().catch(e => { ok(false, 'the browser works', e.stack); process.exit(1); });
