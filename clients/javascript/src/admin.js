// Looking at a cluster and managing it: topics, brokers, groups. Answers are the JSON objects of the API.

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
export class Admin {
  #transport;

  /** @internal @param {import('./transport.js').Transport} transport */
  constructor(transport) {
    this.#transport = transport;
  }

  /**
   * Creates a topic and waits until its replicas are in sync; one of the same shape may be there (`created`). `rf` is short for
   * `replication_factor`. Throws `TOPIC_EXISTS` for another shape.
   * @param {string} name
   * @param {TopicSettings & { rf?: number }} [settings]
   * @returns {Promise<Json>}
   */
  createTopic(name, settings = {}) {
    return this.#call('POST', '/admin/topics', { wait: 'ready' }, { name, ...settings });
  }

  /**
   * Returns all topics in order of name; internal ones only if asked for.
   * @param {{ internal?: boolean }} [which]
   * @returns {Promise<Json[]>}
   */
  async topics({ internal } = {}) {
    return (await this.#call('GET', '/admin/topics', { internal })).topics;
  }

  /** Describes one topic. @param {string} name @returns {Promise<Json>} */
  topic(name) {
    return this.#call('GET', `/admin/topics/${encodeURIComponent(name)}`);
  }

  /** Changes settings of a topic. @param {string} name @param {TopicSettings} settings @returns {Promise<Json>} */
  alterTopic(name, settings) {
    return this.#call('PATCH', `/admin/topics/${encodeURIComponent(name)}`, {}, settings);
  }

  /**
   * Deletes a topic and its records; with `ifEmpty` only one without records (`TOPIC_NOT_EMPTY` otherwise).
   * @param {string} name
   * @param {{ ifEmpty?: boolean }} [guard]
   * @returns {Promise<Json>}
   */
  deleteTopic(name, { ifEmpty } = {}) {
    return this.#call('DELETE', `/admin/topics/${encodeURIComponent(name)}`, { if_empty: ifEmpty });
  }

  /** Returns who holds a topic. @param {string} topic @returns {Promise<Json>} */
  replicas(topic) {
    return this.#call('GET', `/replicas/${encodeURIComponent(topic)}`);
  }

  /** Returns the registered brokers. @returns {Promise<Json[]>} */
  async brokers() {
    return (await this.#call('GET', '/admin/brokers')).brokers;
  }

  /** Returns who controls the cluster, as the answering broker sees it. @returns {Promise<Json>} */
  controller() {
    return this.#call('GET', '/admin/leader');
  }

  /** Returns the names of the consumer groups. @returns {Promise<string[]>} */
  async groups() {
    return (await this.#call('GET', '/groups')).groups.map((/** @type {Json} */ group) => group.group_id);
  }

  /** Describes one group: members, positions, lag. @param {string} group @returns {Promise<Json>} */
  group(group) {
    return this.#call('GET', `/groups/${encodeURIComponent(group)}`);
  }

  /** Deletes a group without members, and its positions. @param {string} group @returns {Promise<Json>} */
  deleteGroup(group) {
    return this.#call('DELETE', `/groups/${encodeURIComponent(group)}`);
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {Record<string, string | boolean | undefined>} [query]
   * @param {unknown} [body]
   * @returns {Promise<Json>}
   */
  #call(method, path, query, body) {
    return this.#transport.json({ method, path, query, body });
  }
}
