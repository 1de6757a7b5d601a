export type Delivery = import('./records.js').Delivery;
export type NewRecord = import('./records.js').NewRecord;
export type Transport = import('./transport.js').Transport;
export type Reply = import('./transport.js').Reply;
export type ProducerOptions = {
    /**
     * What a broker waits for: all replicas in sync (default), the leader, or none.
     */
    acks?: 'all' | 'leader' | 'none';
    /**
     * Without one the partition is chosen by key, or in turn.
     */
    partition?: number;
    /**
     * How long the leader waits for its followers before it says that the outcome is not known.
     */
    commitTimeoutMs?: number;
    /**
     * Publishes again when the outcome of a try is not known, and has brokers store every record
     * once all the same (default). Needs `acks: 'all'`; with others it does nothing.
     */
    idempotent?: boolean;
    /**
     * For how long tries may begin.
     */
    deadlineMs?: number;
};
/** Publishes to one topic, with one request a partition under way. */
export declare class Producer {
    #private;
    /**
     * Publishes one record and waits as `acks` says. Throws OutcomeUnknown if it may or may not be published; after any other error
     * it certainly is not.
     * @param {unknown} value
     * @param {{ key?: string, headers?: Record<string, unknown> }} [more]
     * @returns {Promise<Delivery>}
     */
    publish(value: unknown, more?: {
        key?: string;
        headers?: Record<string, unknown>;
    }): Promise<Delivery>;
    /**
     * Publishes many records, in as few requests as fit; those of one key stay in order, and so does the answer. Throws
     * PartlyPublished if a request failed after another one succeeded.
     * @param {Iterable<NewRecord>} given
     * @returns {Promise<Delivery[]>}
     */
    publishMany(given: Iterable<NewRecord>): Promise<Delivery[]>;
}
