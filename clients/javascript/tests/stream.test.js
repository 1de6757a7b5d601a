// Streams of server-sent events against three real brokers.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Client, Refused } from 'pubsub-client';
import { Cluster, eventually } from './cluster.js';

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
const numbers = (count) => Array.from({ length: count }, (_, index) => index);
const keyed = (count) => numbers(count).map((value) => ({ value, key: String(value) }));
const sorted = (list) => [...list].sort((a, b) => a - b);

async function newTopic(partitions = 1) {
  const topic = `t-${Math.random().toString(36).slice(2)}`;
  assert.ok((await client.admin.createTopic(topic, { partitions, rf: 3 })).created);
  return topic;
}

/** Returns the values of the next records. */
async function take(stream, count) {
  const found = [];
  for await (const record of stream) {
    found.push(record.value);
    if (found.length === count) break;
  }
  return found;
}

test('records come as they are published, and a stream is resumed anywhere', options, async () => {
  const topic = await newTopic(2);
  await client.producer(topic).publishMany(keyed(20));
  const stream = new Client(cluster.url(1)).stream(topic);
  const first = await take(stream, 7);
  const { lastEventId } = stream;
  assert.match(lastEventId, /^0:-?\d+,1:-?\d+$/);
  // The same stream goes on behind its last event.
  const second = await take(stream, 3);
  await stream.close();
  const again = new Client(cluster.url(2)).stream(topic, { lastEventId });
  assert.deepEqual(sorted([...first, ...(await take(again, 13))]), numbers(20), 'another broker goes on behind the event');
  assert.equal(new Set([...first, ...second]).size, 10);
});

test('a stream survives its broker without a gap or a repeated record', options, async () => {
  const topic = await newTopic(2);
  const total = 300;
  const received = [];
  const brokers = new Set();
  const stream = new Client(cluster.urls).stream(topic, { group: `g-${topic}`, consumer: 'c' });
  const reading = (async () => {
    for await (const record of stream) {
      received.push(record.value);
      brokers.add(stream.broker);
      if (received.length >= total) break;
    }
    await stream.commit();
    await stream.close();
  })();
  const producer = client.producer(topic);
  for (const number of numbers(total)) {
    await producer.publish(number);
    if (number === 100) {
      await eventually('the stream has begun', () => brokers.size > 0);
      await cluster.kill(cluster.idOf(stream.broker));
    }
  }
  await reading;
  assert.deepEqual(sorted(received), numbers(total));
  assert.ok(brokers.size > 1);
  const { partitions } = await client.admin.group(`g-${topic}`);
  assert.deepEqual(partitions.map((partition) => partition.lag), [0, 0]);
  await cluster.heal();
});

test('two streams share a group', options, async () => {
  const topic = await newTopic(2);
  const received = [];
  const assigned = {};
  const streams = ['one', 'two'].map((consumer) => client.stream(topic, { group: `g-${topic}`, consumer, commit: 'manual' }));
  const loops = streams.map(async (stream, index) => {
    for await (const event of stream.events()) {
      if (event.kind === 'rebalance') assigned[index] = event.data.partitions.map((part) => part.partition ?? part);
      if (!event.record) continue;
      received.push(event.record.value);
      await stream.commit(event.record);
    }
  });
  await eventually('both have a partition', () => Object.keys(assigned).length === 2 && sorted(Object.values(assigned).flat()).join() === '0,1');
  await client.producer(topic).publishMany(keyed(50));
  await eventually('all is read', () => received.length >= 50);
  await eventually('all is committed', async () => {
    const { partitions } = await client.admin.group(`g-${topic}`);
    return partitions.length === 2 && partitions.every((partition) => partition.lag === 0);
  });
  await Promise.all(streams.map((stream) => stream.close()));
  await Promise.all(loops);
  assert.deepEqual(sorted(received), numbers(50));
});

test('a second stream of the same consumer ends the first', options, async () => {
  const topic = await newTopic();
  await client.producer(topic).publishMany(keyed(3));
  const reader = { group: `g-${topic}`, consumer: 'c', commit: 'manual' };
  const first = client.stream(topic, reader).events();
  assert.equal((await first.next()).value.kind, 'rebalance');
  assert.deepEqual(await take(client.stream(topic, reader), 3), [0, 1, 2]);
  await assert.rejects(
    async () => {
      for (let event = await first.next(); !event.done; event = await first.next());
    },
    (error) => error instanceof Refused && error.code === 'MEMBER_FENCED',
  );
});

test('closing ends a loop that waits', options, async () => {
  const topic = await newTopic();
  const stream = client.stream(topic, { group: `g-${topic}`, consumer: 'c' });
  const loop = take(stream, 1);
  await eventually('the stream is open', () => stream.broker !== '');
  await stream.close();
  assert.deepEqual(await loop, []);
  await eventually('the group was left', async () => {
    try {
      return (await client.admin.group(`g-${topic}`)).members.length === 0;
    } catch (error) {
      return error instanceof Refused && error.code === 'GROUP_NOT_FOUND';
    }
  });
});

test('a stream of no topic is refused', options, async () => {
  await assert.rejects(take(client.stream('missing'), 1), (error) => error instanceof Refused && error.code === 'TOPIC_NOT_FOUND');
  assert.throws(() => client.stream('missing', { group: 'g' }), TypeError);
});
