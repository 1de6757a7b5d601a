// Publish to and consume from a Pubsub cluster, from Node and from browsers.

export { Admin } from './admin.js';
export { Client } from './client.js';
export { Consumer } from './consumer.js';
export { MalformedAnswer, OutcomeUnknown, PartlyPublished, PubsubError, Refused, Unavailable } from './errors.js';
export { Producer } from './producer.js';
export { partitionOfKey } from './records.js';
export { RETRY } from './retry.js';
export { Stream } from './stream.js';

/**
 * @typedef {import('./records.js').NewRecord} NewRecord
 * @typedef {import('./records.js').ConsumedRecord} ConsumedRecord
 * @typedef {import('./records.js').Delivery} Delivery
 * @typedef {import('./producer.js').ProducerOptions} ProducerOptions
 * @typedef {import('./consumer.js').ConsumerOptions} ConsumerOptions
 * @typedef {import('./stream.js').StreamOptions} StreamOptions
 * @typedef {import('./stream.js').StreamEvent} StreamEvent
 * @typedef {import('./transport.js').Settings} Settings
 * @typedef {import('./admin.js').TopicSettings} TopicSettings
 */
