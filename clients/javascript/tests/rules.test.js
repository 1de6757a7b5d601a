// What needs no cluster: choosing partitions and brokers, waiting, reading streams, telling outcomes apart.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { Refused, partitionOfKey } from 'pubsub-client';

// Parts that the package does not offer, of the very package that is tested.
const home = dirname(createRequire(import.meta.url).resolve('pubsub-client'));
const part = (name) => import(pathToFileURL(join(home, name)).href);
const { BROKERS_MAX, BrokerBook, baseUrl, brokerList } = await part('brokers.js');
const { EventParser } = await part('events.js');
const { crc32c, fromWire, toWire } = await part('records.js');
const { Backoff, ceiling } = await part('retry.js');
const { JSON_FORM, judge, randomId } = await part('transport.js');

test('keys have the partition that brokers give them', () => {
  // The published check value of CRC-32C over these nine digits.
  assert.equal(crc32c(new TextEncoder().encode('123456789')), 0xe3069283);
  assert.equal(partitionOfKey('123456789', 2 ** 32 - 1), 0xac7081cc);
  assert.equal(partitionOfKey('123456789', 8), 4);
  assert.equal(partitionOfKey('anything', 1), 0);
});

test('addresses are taken as people write them', () => {
  assert.equal(baseUrl('http://127.0.0.1:8081/'), 'http://127.0.0.1:8081');
  assert.equal(baseUrl('broker-0.pubsub:8081'), 'http://broker-0.pubsub:8081');
  assert.deepEqual(brokerList('a:1, b:2,c:3'), ['http://a:1', 'http://b:2', 'http://c:3']);
  for (const bad of ['', 'ftp://a', 'http://', 'http://a:99999', 'http://a?x=1', 'a b:1']) {
    assert.throws(() => baseUrl(bad), TypeError, bad);
  }
  assert.throws(() => brokerList(' , '), TypeError);
});

test('the same broker is asked until it fails', () => {
  const book = new BrokerBook(['a:1', 'b:1', 'c:1']);
  assert.equal(book.pick(0), 'http://a:1');
  assert.equal(book.pick(0), 'http://a:1');
  book.failed('http://a:1', 0);
  assert.equal(book.pick(0), 'http://b:1');
  assert.equal(book.pick(60_000), 'http://b:1', 'a broker that came back is not returned to for its own sake');
});

test('with every broker down the one that failed first is tried first', () => {
  const book = new BrokerBook(['a:1', 'b:1']);
  book.failed('http://a:1', 0);
  book.failed('http://b:1', 10);
  assert.equal(book.pick(20), 'http://a:1');
  book.failed('http://a:1', 20);
  assert.equal(book.pick(30), 'http://b:1');
});

test('learned brokers come last, once each, and not without bound', () => {
  const book = new BrokerBook(['a:1']);
  book.learn(['http://b:1', 'http://a:1', 'no address?', 'http://b:1/']);
  assert.deepEqual(book.urls, ['http://a:1', 'http://b:1']);
  book.learn(Array.from({ length: 1_000 }, (_, port) => `c:${port + 1}`));
  assert.equal(book.size, BROKERS_MAX);
});

test('waits double up to the cap and end at the deadline', () => {
  const policy = { firstMs: 100, capMs: 1_000, deadlineMs: 10_000 };
  assert.deepEqual([0, 1, 2, 3, 4].map((retry) => ceiling(policy, retry)), [100, 200, 400, 800, 1_000]);
  assert.equal(ceiling(policy, 1e9), 1_000);
  const backoff = new Backoff(policy);
  for (let retry = 0; retry < 8; retry += 1) {
    const wait = backoff.nextWait();
    assert.ok(wait >= ceiling(policy, retry) / 2 && wait <= ceiling(policy, retry), `retry ${retry} waits ${wait}`);
  }
  assert.ok(backoff.nextWait(3_000) >= 3_000);
  assert.equal(backoff.nextWait(11_000), undefined);
});

test('an event stream is cut from any pieces', () => {
  const text = 'id: 0:5,1:-1\n\n: alive\r\n\r\nevent: record\nid: 0:6,1:-1\ndata: {"ü":\ndata: 1}\n\nretry: 500\n\n';
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 7, bytes.length]) {
    const parser = new EventParser();
    const found = [];
    for (let at = 0; at < bytes.length; at += size) found.push(...parser.feed(bytes.subarray(at, at + size)));
    assert.deepEqual(found, [
      { event: '', data: '', id: '0:5,1:-1' },
      { event: 'record', data: '{"ü":\n1}', id: '0:6,1:-1' },
      { event: '', data: '', retryMs: 500 },
    ]);
  }
});

test('an answer says whether anything was done', () => {
  for (const [status, problem, verdict] of [
    [503, {}, 'again'],
    [504, {}, 'unknown'],
    [504, { ambiguous: true }, 'unknown'],
    [504, { ambiguous: false }, 'again'],
    [503, { ambiguous: true }, 'unknown'],
    [500, {}, 'unknown'],
    [500, { ambiguous: false }, 'no'],
    [507, {}, 'no'],
    [429, {}, 'slow'],
    [404, { code: 'TOPIC_NOT_FOUND' }, 'no'],
    [409, { code: 'OUT_OF_ORDER' }, 'again'],
    [409, { code: 'MEMBER_FENCED', ambiguous: true }, 'unknown'],
  ]) {
    assert.equal(judge(status, problem), verdict, `${status} ${JSON.stringify(problem)}`);
  }
});

test('a refusal carries the code and names the fields', () => {
  const detail = [{ type: 'missing', loc: ['body', 'value'], msg: 'add it' }];
  const error = new Refused('b', { code: 'VALIDATION_FAILED', status: 422, detail });
  assert.equal(error.message, 'body.value: add it (VALIDATION_FAILED)');
  assert.deepEqual([error.name, error.code, error.status], ['Refused', 'VALIDATION_FAILED', 422]);
});

test('values without a form in JSON are refused, bytes have one', () => {
  assert.throws(() => JSON_FORM.stringify({ value: NaN }), TypeError);
  assert.throws(() => toWire({ value: undefined }), TypeError);
  const bytes = new Uint8Array([0, 255, 7]);
  const read = fromWire('t', { partition: 0, offset: 0, ts_ms: 1, key: null, headers: {}, ...toWire({ value: bytes }) });
  assert.deepEqual(read.value, bytes);
});

test('ids are UUIDs also without help of the platform', () => {
  const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  assert.match(randomId(), uuid);
  const own = Object.getOwnPropertyDescriptor(globalThis, 'crypto');
  Object.defineProperty(globalThis, 'crypto', { value: undefined, configurable: true, writable: true });
  try {
    assert.match(randomId(), uuid);
    assert.notEqual(randomId(), randomId());
  } finally {
    if (own) Object.defineProperty(globalThis, 'crypto', own);
    else delete globalThis.crypto;
  }
});
