export { Admin } from './admin.js';
export { Client } from './client.js';
export { Consumer } from './consumer.js';
export { MalformedAnswer, OutcomeUnknown, PartlyPublished, PubsubError, Refused, Unavailable } from './errors.js';
export { Producer } from './producer.js';
export { partitionOfKey } from './records.js';
export { RETRY } from './retry.js';
export { Stream } from './stream.js';
export type NewRecord = import('./records.js').NewRecord;
export type ConsumedRecord = import('./records.js').ConsumedRecord;
export type Delivery = import('./records.js').Delivery;
export type ProducerOptions = import('./producer.js').ProducerOptions;
export type ConsumerOptions = import('./consumer.js').ConsumerOptions;
export type StreamOptions = import('./stream.js').StreamOptions;
export type StreamEvent = import('./stream.js').StreamEvent;
export type Settings = import('./transport.js').Settings;
export type TopicSettings = import('./admin.js').TopicSettings;
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
