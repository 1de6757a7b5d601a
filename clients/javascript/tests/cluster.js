// A cluster of real programs on loopback, with the means to break it. The programs end when their standard input does, so none
// outlives this process however it ends.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, mkdtempSync, openSync, readFileSync, closeSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The checkout; the tests may lie elsewhere, beside the installed package. */
export const ROOT = process.env.PUBSUB_ROOT ?? resolve(fileURLToPath(new URL('../../..', import.meta.url)));
/** Below the ports that the system gives to outgoing connections: one of those must not take a stopped broker's place. */
const [PORT_FIRST, PORT_LAST] = [20_000, 31_999];
const READY_DEADLINE_MS = 60_000;

/** Returns the path of the `pubsub` program, which is all of them. */
export function program() {
  const target = process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target');
  const found = process.env.PUBSUB_PROGRAM ?? join(target, 'debug', 'pubsub');
  try {
    accessSync(found, constants.X_OK);
  } catch {
    throw new Error(`${found} is not there: build it with \`cargo build -p pubsub-cli\`, or name it in PUBSUB_PROGRAM`);
  }
  return found;
}

const given = new Set();

/** Returns a port that nobody listens on, never the same one twice. */
async function freePort() {
  for (let tries = 0; tries < 1_000; tries += 1) {
    const port = PORT_FIRST + Math.floor(Math.random() * (PORT_LAST - PORT_FIRST));
    if (given.has(port)) continue;
    const server = createServer();
    const free = await new Promise((done) => {
      server.once('error', () => done(false));
      server.listen(port, '127.0.0.1', () => server.close(() => done(true)));
    });
    if (!free) continue;
    given.add(port);
    return port;
  }
  throw new Error('no free port');
}

/** Waits until a check returns something. */
export async function eventually(what, check, deadlineMs = 30_000) {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** Discovery and some brokers, with ids from 1. */
export class Cluster {
  directory = mkdtempSync(join(tmpdir(), 'pubsub-javascript-'));
  #ports = new Map();
  #discoveryPort = 0;
  #running = new Map();

  static async start(brokers = 3) {
    const cluster = new Cluster();
    try {
      cluster.#discoveryPort = await freePort();
      for (let id = 1; id <= brokers; id += 1) cluster.#ports.set(id, { http: await freePort(), peer: await freePort() });
      cluster.#spawn('discovery', 'run-discovery', { DISCOVERY_PORT: String(cluster.#discoveryPort) });
      for (const id of cluster.#ports.keys()) cluster.start(id);
      await cluster.ready();
    } catch (error) {
      await cluster.close();
      throw error;
    }
    return cluster;
  }

  url(id) {
    return `http://127.0.0.1:${this.#ports.get(id).http}`;
  }

  get urls() {
    return [...this.#ports.keys()].map((id) => this.url(id));
  }

  /** Returns the id of the broker at an address. */
  idOf(url) {
    return [...this.#ports.keys()].find((id) => this.url(id) === url);
  }

  #spawn(name, command, environment) {
    const log = openSync(join(this.directory, `${name}.log`), 'a');
    const common = {
      PATH: process.env.PATH,
      DISCOVERY_HOST: '127.0.0.1',
      DISCOVERY_URL: `http://127.0.0.1:${this.#discoveryPort}`,
      GENESIS_VOTERS: [...this.#ports.keys()].join(','),
      PUBSUB_CLUSTER_SECRET: 'loopback-cluster-secret-for-tests-only',
    };
    const options = { env: { ...common, ...environment }, cwd: this.directory, stdio: ['pipe', log, log], detached: true };
    const child = spawn(program(), [command, '--stop-on-stdin-eof'], options);
    // Writing to a child that was killed fails; nothing is written.
    child.stdin.on('error', () => {});
    closeSync(log);
    this.#running.set(name, child);
  }

  /** Starts a broker that does not run. */
  start(id) {
    const { http, peer } = this.#ports.get(id);
    this.#spawn(`broker-${id}`, 'run-broker', {
      BROKER_ID: String(id),
      BROKER_HTTP_HOST: '127.0.0.1',
      BROKER_HTTP_PORT: String(http),
      BROKER_API_BASE: this.url(id),
      ELECTION_HOST: '127.0.0.1',
      ELECTION_PORT: String(peer),
      PUBSUB_DATA_DIR: join(this.directory, `broker-${id}`),
    });
  }

  /** Kills a broker at once (SIGKILL). */
  kill(id) {
    return this.#end(`broker-${id}`);
  }

  async #end(name) {
    const child = this.#running.get(name);
    this.#running.delete(name);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  /** Starts every broker that does not run, and waits until all are ready. */
  async heal() {
    for (const id of this.#ports.keys()) if (!this.#running.has(`broker-${id}`)) this.start(id);
    await this.ready();
  }

  /** Waits until every broker is ready and counts all others as active. */
  async ready() {
    for (const id of this.#ports.keys()) {
      await eventually(`broker ${id} is ready\n${this.log(id)}`, () => this.#isReady(id), READY_DEADLINE_MS);
    }
  }

  async #isReady(id) {
    const child = this.#running.get(`broker-${id}`);
    if (child.exitCode !== null) throw new Error(`broker ${id} ended\n${this.log(id)}`);
    try {
      const ready = await fetch(`${this.url(id)}/readyz`);
      const { brokers } = await (await fetch(`${this.url(id)}/admin/brokers`)).json();
      return ready.ok && brokers.filter((broker) => broker.state === 'active').length === this.#ports.size;
    } catch {
      return false;
    }
  }

  /** Returns the end of a broker's log. */
  log(id) {
    return readFileSync(join(this.directory, `broker-${id}.log`), 'utf8').split('\n').slice(-40).join('\n');
  }

  /** Ends everything and removes its files. */
  async close() {
    for (const name of [...this.#running.keys()]) await this.#end(name);
    rmSync(this.directory, { recursive: true, force: true });
  }
}
