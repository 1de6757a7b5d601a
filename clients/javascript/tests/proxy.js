// A broker seen through a bad network: a TCP proxy that can take a request to the broker and lose the answer.

import { connect, createServer } from 'node:net';

export class Proxy {
  #server;
  #toLose = 0;
  #open = new Set();

  static async start(target) {
    const proxy = new Proxy();
    const { hostname, port } = new URL(target);
    proxy.#server = createServer((client) => {
      const broker = connect(Number(port), hostname);
      proxy.#open.add(client);
      for (const end of [client, broker]) {
        end.on('error', () => {});
        end.on('close', () => {
          client.destroy();
          broker.destroy();
          proxy.#open.delete(client);
        });
      }
      client.pipe(broker);
      broker.on('data', (data) => {
        if (proxy.#toLose > 0) {
          proxy.#toLose -= 1;
          client.destroy();
        } else {
          client.write(data);
        }
      });
    });
    await new Promise((done) => proxy.#server.listen(0, '127.0.0.1', done));
    return proxy;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** Loses the next answers: the broker has done what was asked, and nobody hears of it. */
  loseAnswers(count) {
    this.#toLose = count;
  }

  close() {
    this.#server.close();
    for (const client of this.#open) client.destroy();
  }
}
