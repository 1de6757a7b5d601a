import { Admin } from './admin.js';
import { Consumer } from './consumer.js';
import { Producer } from './producer.js';
import { Stream } from './stream.js';
/** A client of one cluster. One broker's address is enough: the others are learned. It holds nothing that must be closed. */
export declare class Client {
    #private;
    /**
     * @param {string | Iterable<string>} brokers
     * @param {Partial<import('./transport.js').Settings>} [settings]
     */
    constructor(brokers: string | Iterable<string>, settings?: Partial<import('./transport.js').Settings>);
    /** The admin calls. */
    get admin(): Admin;
    /** The brokers known now. */
    get brokers(): string[];
    /**
     * Returns a producer of a topic. Nothing is sent yet.
     * @param {string} topic
     * @param {import('./producer.js').ProducerOptions} [options]
     */
    producer(topic: string, options?: import('./producer.js').ProducerOptions): Producer;
    /**
     * Returns a consumer of a topic. It joins its group with the first poll.
     * @param {string} topic
     * @param {import('./consumer.js').ConsumerOptions} [options]
     */
    consumer(topic: string, options?: import('./consumer.js').ConsumerOptions): Consumer;
    /**
     * Returns a stream of server-sent events. It opens with the first record.
     * @param {string} topic
     * @param {import('./stream.js').StreamOptions} [options]
     */
    stream(topic: string, options?: import('./stream.js').StreamOptions): Stream;
}
