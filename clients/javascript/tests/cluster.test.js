// The package against three real brokers, some of which are killed.

import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { after, before, test } from 'node:test';
import { Client, OutcomeUnknown, PartlyPublished, Refused, Unavailable, partitionOfKey } from 'pubsub-client';
import { Cluster, eventually } from './cluster.js';
import { Proxy } from './proxy.js';

/** @type {Cluster} */
let cluster;
/** @type {Client} */
let client;

before(async () => {
  cluster = await Cluster.start();
  client = new Client(cluster.urls);
});
after(() => cluster?.close());

const options = { timeout: 120_000 };
const numbers = (from, to) => Array.from({ length: to - from }, (_, index) => from + index);
const values = (from, to) => numbers(from, to).map((value) => ({ value }));

async function newTopic(partitions = 1) {
  const topic = `t-${Math.random().toString(36).slice(2)}`;
  assert.ok((await client.admin.createTopic(topic, { partitions, rf: 3 })).created);
  return topic;
}

/** Reads a topic as nobody until so many records were there, then sees that there are no more. */
async function readAll(topic, count) {
  const consumer = client.consumer(topic, { waitMs: 1_000 });
  const records = [];
  while (records.length < count) records.push(...(await consumer.poll()));
  const again = [];
  const second = client.consumer(topic, { waitMs: 200 });
  for (let batch = await second.poll(); batch.length > 0; batch = await second.poll()) again.push(...batch);
  assert.equal(again.length, records.length);
  return records;
}

const refusal = (code, status) => (error) => {
  assert.ok(error instanceof Refused, String(error));
  assert.equal(error.code, code);
  if (status) assert.equal(error.status, status);
  return true;
};

test('values, keys and headers come back as they were published', options, async () => {
  const topic = await newTopic();
  const producer = client.producer(topic);
  const published = [{ n: 1, text: 'grüße' }, [1, null], 'text', 7, true, null, new Uint8Array([0, 255])];
  for (const [number, value] of published.entries()) {
    const delivery = await producer.publish(value, { key: `k${number}`, headers: { number } });
    assert.deepEqual(delivery, { partition: 0, offset: number, retries: 0, perhapsTwice: false });
  }
  const records = await readAll(topic, published.length);
  assert.deepEqual(records.map((record) => record.value), published);
  assert.deepEqual(records.map((record) => record.key), published.map((_, number) => `k${number}`));
  assert.deepEqual(records.map((record) => record.headers), published.map((_, number) => ({ number })));
  assert.ok(records.every((record) => record.topic === topic && record.timestampMs > 1.6e12));
});

test('integers past 2^53 survive with a JSON form of the caller', options, async () => {
  const topic = await newTopic();
  const json = {
    stringify: (value) => JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `#${part}#` : part)).replace(/"#(\d+)#"/g, '$1'),
    parse: (text) => JSON.parse(text.replace(/:(\d{16,})/g, ':"$1"')),
  };
  const exact = new Client(cluster.urls, { json });
  await exact.producer(topic).publish(9007199254740993n);
  assert.equal((await exact.consumer(topic).poll())[0].value, '9007199254740993');
});

test('a value without a form in JSON is refused and the producer goes on', options, async () => {
  const producer = client.producer(await newTopic());
  for (const bad of [NaN, undefined, 1n]) await assert.rejects(producer.publish(bad), TypeError);
  assert.equal((await producer.publish(1)).offset, 0);
});

test('many records go to the partitions of their keys, in order', options, async () => {
  const topic = await newTopic(3);
  const records = numbers(0, 2_500).map((value) => ({ value, key: `k${value % 7}` }));
  const deliveries = await client.producer(topic).publishMany(records);
  assert.deepEqual(deliveries.map((delivery) => delivery.partition), records.map((record) => partitionOfKey(record.key, 3)));
  const read = await readAll(topic, records.length);
  assert.deepEqual(read.map((record) => record.value).sort((a, b) => a - b), numbers(0, 2_500));
  for (const key of new Set(read.map((record) => record.key))) {
    const own = read.filter((record) => record.key === key).map((record) => record.value);
    assert.deepEqual(own, [...own].sort((a, b) => a - b));
  }
  const plain = client.producer(topic, { idempotent: false });
  for (const key of ['a', 'b', 'grün']) assert.equal((await plain.publish(0, { key })).partition, partitionOfKey(key, 3));
});

test('of many records it is told which were published', options, async () => {
  const topic = await newTopic(2);
  const keys = [0, 1].map((partition) => numbers(0, 99).map(String).find((key) => partitionOfKey(key, 2) === partition));
  const records = [{ value: 'small', key: keys[0] }, { value: 'x'.repeat(1 << 20), key: keys[1] }];
  await assert.rejects(client.producer(topic).publishMany(records), (error) => {
    assert.ok(error instanceof PartlyPublished);
    assert.equal(error.deliveries[0]?.offset, 0);
    assert.equal(error.deliveries[1], undefined);
    return refusal('RECORD_TOO_LARGE')(error.cause);
  });
});

test('a lost answer is told as unknown unless the producer is idempotent', options, async () => {
  const topic = await newTopic();
  const proxy = await Proxy.start(cluster.url(1));
  try {
    const through = new Client(proxy.url);
    const plain = through.producer(topic, { idempotent: false });
    await plain.publish('first');
    proxy.loseAnswers(1);
    await assert.rejects(plain.publish('perhaps'), (error) => error instanceof OutcomeUnknown && error.requestId !== '');
    const once = through.producer(topic);
    await once.publish('second');
    proxy.loseAnswers(2);
    const delivery = await once.publish('once');
    assert.deepEqual([delivery.retries, delivery.perhapsTwice], [2, false]);
    assert.equal((await once.publish('third')).offset, delivery.offset + 1);
  } finally {
    proxy.close();
  }
  const read = await readAll(topic, 5);
  assert.deepEqual(read.map((record) => record.value), ['first', 'perhaps', 'second', 'once', 'third']);
});

test('after an unknown outcome an idempotent producer goes on', options, async () => {
  const topic = await newTopic();
  const proxy = await Proxy.start(cluster.url(1));
  try {
    const producer = new Client(proxy.url).producer(topic, { deadlineMs: 500 });
    await producer.publish(0);
    proxy.loseAnswers(1_000);
    await assert.rejects(producer.publish(1), OutcomeUnknown);
    proxy.loseAnswers(0);
    await producer.publish(2);
  } finally {
    proxy.close();
  }
  assert.deepEqual((await readAll(topic, 3)).map((record) => record.value), [0, 1, 2]);
});

test('without a broker nothing was done, and it is said', options, async () => {
  const server = createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  const nowhere = new Client(`127.0.0.1:${port}`, { retry: { firstMs: 20, capMs: 50, deadlineMs: 300 } });
  await assert.rejects(nowhere.producer('t', { partition: 0 }).publish(1), (error) => error instanceof Unavailable && error.tries > 1);
});

test('no record is lost or there twice when brokers are killed', options, async () => {
  const topic = await newTopic(2);
  const total = 400;
  const killAt = [100, 250];
  const received = [];
  const consumer = new Client(cluster.urls).consumer(topic, { group: `g-${topic}`, consumer: 'c', waitMs: 1_000 });
  const reading = (async () => {
    for await (const record of consumer) {
      received.push(record.value);
      if (received.length >= total) break;
    }
    await consumer.commit();
    await consumer.close();
  })();
  const producer = client.producer(topic);
  for (const number of numbers(0, total)) {
    await producer.publish(number);
    if (killAt.includes(number)) await cluster.kill((await client.admin.topic(topic)).leader);
    if (killAt.includes(number - 50)) await cluster.heal();
  }
  await reading;
  const sorted = (list) => [...list].sort((a, b) => a - b);
  assert.deepEqual(sorted(received), numbers(0, total), 'the consumer lost or repeated records');
  assert.deepEqual(sorted((await readAll(topic, total)).map((record) => record.value)), numbers(0, total));
  await cluster.heal();
});

test('a consumer learns the other brokers and goes on at one of them', options, async () => {
  const topic = await newTopic();
  await client.producer(topic).publishMany(values(0, 10));
  const consumer = new Client(cluster.url(2)).consumer(topic, { group: `g-${topic}`, consumer: 'c', waitMs: 1_000 });
  assert.deepEqual((await consumer.poll()).map((record) => record.value), numbers(0, 10));
  await consumer.commit();
  assert.deepEqual(consumer.brokers.sort(), cluster.urls.sort());
  await cluster.kill(2);
  await client.producer(topic).publishMany(values(10, 20));
  const found = [];
  while (found.length < 10) found.push(...(await consumer.poll()).map((record) => record.value));
  assert.deepEqual(found, numbers(10, 20));
  await consumer.close();
  await cluster.heal();
});

test('what was committed is where the next consumer begins', options, async () => {
  const topic = await newTopic();
  const group = `g-${topic}`;
  await client.producer(topic).publishMany(values(0, 10));
  const one = client.consumer(topic, { group, consumer: 'one', autoCommit: false });
  for await (const record of one) {
    if (record.value === 4) {
      await one.commit(record);
      break;
    }
  }
  await one.close();
  const two = client.consumer(topic, { group, consumer: 'two' });
  const work = async () => {
    for await (const record of two) {
      if (record.value === 8) throw new RangeError('the work on record 8 failed');
    }
  };
  await assert.rejects(work(), RangeError);
  await two.close();
  const { partitions, members } = await client.admin.group(group);
  assert.equal(partitions[0].committed, 7, 'the record at hand does not count as finished');
  assert.deepEqual(members, []);
});

test('closing ends a loop that waits', options, async () => {
  const topic = await newTopic();
  const consumer = client.consumer(topic, { group: `g-${topic}`, consumer: 'c' });
  const loop = (async () => {
    for await (const record of consumer) assert.fail(`there is no record ${record.offset}`);
  })();
  await eventually('the consumer has joined', () => consumer.partitions.length === 1);
  await consumer.close();
  await loop;
});

test('a consumer that takes longer for a batch than its session stays a member', options, async () => {
  const topic = await newTopic();
  const group = `g-${topic}`;
  await client.producer(topic).publishMany(values(0, 14));
  const consumer = client.consumer(topic, { group, consumer: 'slow' });
  const handled = [];
  for await (const record of consumer) {
    await new Promise((done) => setTimeout(done, 900));
    handled.push(record.value);
    if (record.value === 12) {
      await assert.rejects(client.consumer(topic, { group, consumer: 'other' }).poll(), refusal('GROUP_BUSY'));
    }
    if (record.value === 13) break;
  }
  await consumer.commit();
  await consumer.close();
  assert.deepEqual(handled, numbers(0, 14));
  assert.equal((await client.admin.group(group)).partitions[0].committed, 13);
});

test('a consumer begins where it is told', options, async () => {
  const topic = await newTopic();
  await client.producer(topic).publishMany(values(0, 10));
  assert.equal((await client.consumer(topic, { start: 7 }).poll())[0].value, 7);
  assert.equal((await client.consumer(topic, { start: 'earliest' }).poll())[0].value, 0);
  const latest = client.consumer(topic, { start: 'latest', waitMs: 200 });
  assert.deepEqual(await latest.poll(), []);
  await client.producer(topic).publish(10);
  assert.deepEqual((await latest.poll()).map((record) => record.value), [10]);
  latest.seek(0, 3);
  assert.equal((await latest.poll())[0].value, 3);
});

test('two consumers share a group, and nothing is read twice or not at all', options, async () => {
  const topic = await newTopic(4);
  const group = `g-${topic}`;
  const received = { one: [], two: [] };
  const consumers = Object.keys(received).map((consumer) => client.consumer(topic, { group, consumer, standby: true, waitMs: 500 }));
  let stop = false;
  const loops = consumers.map(async (consumer, index) => {
    while (!stop) Object.values(received)[index].push(...(await consumer.poll()).map((record) => record.value));
    await consumer.poll();
    await consumer.close();
  });
  try {
    await eventually('both have two partitions', () => consumers.every((consumer) => consumer.partitions.length === 2));
    assert.deepEqual(consumers.flatMap((consumer) => consumer.partitions).sort(), [0, 1, 2, 3]);
    await client.producer(topic).publishMany(numbers(0, 1_000).map((value) => ({ value, key: String(value) })));
    await eventually('all is read', () => received.one.length + received.two.length >= 1_000);
  } finally {
    stop = true;
    await Promise.all(loops);
  }
  assert.deepEqual([...received.one, ...received.two].sort((a, b) => a - b), numbers(0, 1_000));
  assert.ok(received.one.length > 0 && received.two.length > 0);
  const { partitions } = await client.admin.group(group);
  assert.deepEqual(partitions.map((partition) => partition.lag), [0, 0, 0, 0]);
});

test('problems of brokers carry their code', options, async () => {
  const topic = await newTopic();
  const group = `g-${topic}`;
  const { admin } = client;
  await assert.rejects(client.producer('missing').publish(1), refusal('TOPIC_NOT_FOUND', 404));
  await assert.rejects(client.consumer('missing').poll(), refusal('TOPIC_NOT_FOUND'));
  await assert.rejects(client.producer(topic, { partition: 7 }).publish(1), refusal('PARTITION_NOT_FOUND'));
  await assert.rejects(client.producer(topic).publish('x'.repeat(1 << 20)), refusal('RECORD_TOO_LARGE', 413));
  await assert.rejects(admin.createTopic(topic, { partitions: 2, rf: 3 }), refusal('TOPIC_EXISTS', 409));
  await assert.rejects(admin.createTopic('no/such name'), (error) => refusal('VALIDATION_FAILED', 422)(error) && error.detail.includes('name'));
  await client.producer(topic).publish(1);
  await assert.rejects(admin.deleteTopic(topic, { ifEmpty: true }), refusal('TOPIC_NOT_EMPTY'));
  await assert.rejects(admin.group('missing'), refusal('GROUP_NOT_FOUND'));
  const consumer = client.consumer(topic, { group, consumer: 'one', autoCommit: false });
  await consumer.poll();
  await assert.rejects(client.consumer(topic, { group, consumer: 'two' }).poll(), refusal('GROUP_BUSY', 409));
  await assert.rejects(admin.deleteGroup(group), refusal('GROUP_NOT_EMPTY'));
  await assert.rejects(consumer.commit({ partition: 0, offset: 99 }), refusal('OFFSET_OUT_OF_RANGE'));
  const other = client.consumer(topic, { group, consumer: 'one', autoCommit: false });
  await other.poll();
  await other.close();
  await assert.rejects(consumer.commit(), refusal('MEMBER_FENCED', 409));
  assert.throws(() => client.consumer(topic, { group }), TypeError);
});

test('topics and groups are managed', options, async () => {
  const { admin } = client;
  const topic = await newTopic(2);
  assert.equal((await admin.createTopic(topic, { partitions: 2, rf: 3 })).created, false);
  assert.ok((await admin.topics()).some((described) => described.name === topic));
  assert.equal((await admin.topic(topic)).partition_count, 2);
  assert.equal((await admin.alterTopic(topic, { retention_ms: 60_000 })).config.retention_ms, 60_000);
  assert.equal((await admin.replicas(topic)).replicas.length, 3);
  assert.deepEqual((await admin.brokers()).map((broker) => broker.broker_id), [1, 2, 3]);
  assert.ok([1, 2, 3].includes((await admin.controller()).leader_id));
  await client.producer(topic).publishMany(values(0, 4));
  const group = `g-${topic}`;
  const consumer = client.consumer(topic, { group, consumer: 'c' });
  await consumer.poll();
  assert.equal((await admin.group(group)).members[0].consumer_id, 'c');
  await consumer.commit();
  await consumer.close();
  assert.ok((await admin.groups()).includes(group));
  assert.equal((await admin.deleteGroup(group)).status, 'ok');
  assert.equal((await admin.deleteTopic(topic)).status, 'ok');
  await assert.rejects(admin.topic(topic), refusal('TOPIC_NOT_FOUND'));
});
