// The front: a client of one cluster.

import { Admin } from './admin.js';
import { BrokerBook, brokerList } from './brokers.js';
import { Consumer } from './consumer.js';
import { Producer } from './producer.js';
import { Stream } from './stream.js';
import { SETTINGS, Transport } from './transport.js';

/** A client of one cluster. One broker's address is enough: the others are learned. It holds nothing that must be closed. */
export class Client {
  #transport;

  /**
   * @param {string | Iterable<string>} brokers
   * @param {Partial<import('./transport.js').Settings>} [settings]
   */
  constructor(brokers, settings = {}) {
    this.#transport = new Transport(new BrokerBook(brokerList(brokers)), { ...SETTINGS, ...settings });
  }

  /** The admin calls. */
  get admin() {
    return new Admin(this.#transport);
  }

  /** The brokers known now. */
  get brokers() {
    return this.#transport.book.urls;
  }

  /**
   * Returns a producer of a topic. Nothing is sent yet.
   * @param {string} topic
   * @param {import('./producer.js').ProducerOptions} [options]
   */
  producer(topic, options = {}) {
    return new Producer(this.#transport.fork(), topic, options);
  }

  /**
   * Returns a consumer of a topic. It joins its group with the first poll.
   * @param {string} topic
   * @param {import('./consumer.js').ConsumerOptions} [options]
   */
  consumer(topic, options = {}) {
    return new Consumer(this.#transport.fork(), topic, options);
  }

  /**
   * Returns a stream of server-sent events. It opens with the first record.
   * @param {string} topic
   * @param {import('./stream.js').StreamOptions} [options]
   */
  stream(topic, options = {}) {
    return new Stream(this.#transport.fork(), topic, options);
  }
}
