export type Json = Record<string, any>;
export type TopicSettings = {
    partitions?: number;
    replication_factor?: number;
    min_isr?: number;
    retention_ms?: number | null;
    retention_bytes?: number | null;
    compact?: boolean;
    max_record_bytes?: number | null;
    unclean_election?: boolean;
    owner?: unknown;
};
/** @typedef {Record<string, any>} Json */
/**
 * Settings of a topic.
 * @typedef {object} TopicSettings
 * @property {number} [partitions]
 * @property {number} [replication_factor]
 * @property {number} [min_isr]
 * @property {number | null} [retention_ms]
 * @property {number | null} [retention_bytes]
 * @property {boolean} [compact]
 * @property {number | null} [max_record_bytes]
 * @property {boolean} [unclean_election]
 * @property {unknown} [owner]
 */
/** The admin calls. Any broker takes them; it passes on what only the controller can do. All can be repeated. */
export declare class Admin {
    #private;
    /**
     * Creates a topic and waits until its replicas are in sync; one of the same shape may be there (`created`). `rf` is short for
     * `replication_factor`. Throws `TOPIC_EXISTS` for another shape.
     * @param {string} name
     * @param {TopicSettings & { rf?: number }} [settings]
     * @returns {Promise<Json>}
     */
    createTopic(name: string, settings?: TopicSettings & {
        rf?: number;
    }): Promise<Json>;
    /**
     * Returns all topics in order of name; internal ones only if asked for.
     * @param {{ internal?: boolean }} [which]
     * @returns {Promise<Json[]>}
     */
    topics({ internal }?: {
        internal?: boolean;
    }): Promise<Json[]>;
    /** Describes one topic. @param {string} name @returns {Promise<Json>} */
    topic(name: string): Promise<Json>;
    /** Changes settings of a topic. @param {string} name @param {TopicSettings} settings @returns {Promise<Json>} */
    alterTopic(name: string, settings: TopicSettings): Promise<Json>;
    /**
     * Deletes a topic and its records; with `ifEmpty` only one without records (`TOPIC_NOT_EMPTY` otherwise).
     * @param {string} name
     * @param {{ ifEmpty?: boolean }} [guard]
     * @returns {Promise<Json>}
     */
    deleteTopic(name: string, { ifEmpty }?: {
        ifEmpty?: boolean;
    }): Promise<Json>;
    /** Returns who holds a topic. @param {string} topic @returns {Promise<Json>} */
    replicas(topic: string): Promise<Json>;
    /** Returns the registered brokers. @returns {Promise<Json[]>} */
    brokers(): Promise<Json[]>;
    /** Returns who controls the cluster, as the answering broker sees it. @returns {Promise<Json>} */
    controller(): Promise<Json>;
    /** Returns the names of the consumer groups. @returns {Promise<string[]>} */
    groups(): Promise<string[]>;
    /** Describes one group: members, positions, lag. @param {string} group @returns {Promise<Json>} */
    group(group: string): Promise<Json>;
    /** Deletes a group without members, and its positions. @param {string} group @returns {Promise<Json>} */
    deleteGroup(group: string): Promise<Json>;
}
