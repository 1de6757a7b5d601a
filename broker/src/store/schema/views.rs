//! Views for people: they work in the plain `sqlite3` program (3.38 or newer), on a copy or beside a running broker.
//!
//! `v_records` takes the stored frames apart in SQL. Sealed batches stay closed: they appear as one row of kind `sealed`.

/// Returns the text of a UUID stored as 16 bytes in `column`.
fn uuid(column: &str) -> String {
    let part = |from: u32, count: u32| format!("substr(hex({column}), {from}, {count})");
    format!(
        "lower({} || '-' || {} || '-' || {} || '-' || {} || '-' || {})",
        part(1, 8),
        part(9, 4),
        part(13, 4),
        part(17, 4),
        part(21, 12)
    )
}

/// Returns the value of `bytes` little-endian bytes, the first at byte `at` of the hexadecimal text `hex`.
///
/// SQL has no function for it. `instr` finds a digit in `1…F` and says 0 for the digit 0, which is its value.
fn little_endian(hex: &str, at: u32, bytes: u32) -> String {
    let digit = |position: u32| format!("instr('123456789ABCDEF', substr({hex}, {position}, 1))");
    let byte = |index: u32| {
        let high = 2 * (at + index) + 1;
        format!("({} * 16 + {}) * {}", digit(high), digit(high + 1), 1_u64 << (8 * index))
    };
    format!("({})", (0..bytes).map(byte).collect::<Vec<_>>().join(" + "))
}

/// Returns the statements that make all views of `pubsub.sqlite` anew.
pub(super) fn records() -> String {
    let topic_id = uuid("p.topic_id");
    let named = "FROM part p LEFT JOIN topic_name n ON n.topic_id = p.topic_id";
    let batches = format!("{named} JOIN batch b ON b.id >= p.id << 40 AND b.id < (p.id + 1) << 40");
    format!(
        "DROP VIEW IF EXISTS v_topics; DROP VIEW IF EXISTS v_partitions;
DROP VIEW IF EXISTS v_batches; DROP VIEW IF EXISTS v_records;
CREATE VIEW v_topics AS SELECT coalesce(n.name, {topic_id}) AS topic, {topic_id} AS topic_id, count(*) AS partitions,
    sum(p.log_end - p.log_start) AS records, sum(p.bytes) AS bytes {named} GROUP BY p.topic_id;
CREATE VIEW v_partitions AS SELECT coalesce(n.name, {topic_id}) AS topic, {topic_id} AS topic_id, p.no AS \"partition\",
    p.leader_epoch, p.log_start, p.hw AS high_watermark, p.log_end, p.log_end - p.log_start AS records, p.bytes {named};
CREATE VIEW v_batches AS SELECT coalesce(n.name, {topic_id}) AS topic, p.no AS \"partition\",
    b.id & 1099511627775 AS base_offset, (b.id & 1099511627775) + b.count AS end_offset, b.count AS records, b.leader_epoch,
    b.base_ts AS base_timestamp_ms, b.max_ts AS max_timestamp_ms, length(b.data) AS bytes, b.seal IS NOT NULL AS sealed
    {batches} WHERE (b.id & 1099511627775) + b.count > p.log_start;
{}",
        v_records(&topic_id, &batches)
    )
}

/// A batch is a header of 68 bytes and frames of 21 bytes and a body. The inner query walks the frames of one batch and
/// keeps where each one is and its first 21 bytes; `json_each` makes rows of that, because no join may refer to its left side.
fn v_records(topic_id: &str, batches: &str) -> String {
    let next = format!("f.at + 4 + {}", little_endian("f.head", 0, 4));
    let length = little_endian("r.head", 0, 4);
    let offset = little_endian("r.head", 4, 4);
    let timestamp = little_endian("r.head", 8, 4);
    let kind = little_endian("r.head", 12, 1);
    let key_length = little_endian("r.head", 13, 4);
    let headers_length = little_endian("r.head", 17, 4);
    format!(
        "CREATE VIEW v_records AS
SELECT topic, \"partition\", base + offset_delta AS \"offset\", base_ts + timestamp_delta AS timestamp_ms,
    strftime('%Y-%m-%dT%H:%M:%fZ', (base_ts + timestamp_delta) / 1000.0, 'unixepoch') AS time, leader_epoch,
    base + offset_delta < hw AS committed,
    CASE WHEN kind >= 128 THEN CAST(substr(data, body, key_length) AS TEXT) END AS key,
    CASE WHEN sealed THEN NULL WHEN headers_length = 0 THEN '{{}}'
        ELSE CAST(substr(data, body + key_length, headers_length) AS TEXT) END AS headers,
    CASE WHEN sealed THEN 'sealed' WHEN kind & 3 = 1 THEN 'json' WHEN kind & 3 = 2 THEN 'bytes' ELSE 'none' END AS kind,
    CASE WHEN sealed THEN NULL
        WHEN kind & 3 = 1 THEN CAST(substr(data, body + key_length + headers_length, rest - key_length - headers_length) AS TEXT)
        WHEN kind & 3 = 2 THEN substr(data, body + key_length + headers_length, rest - key_length - headers_length)
        END AS value
FROM (SELECT r.topic, r.no AS \"partition\", r.base, r.base_ts, r.leader_epoch, r.hw, r.log_start, r.data, r.sealed,
        CASE WHEN r.sealed THEN 0 ELSE {offset} END AS offset_delta, CASE WHEN r.sealed THEN 0 ELSE {timestamp} END AS timestamp_delta,
        {kind} AS kind, {key_length} AS key_length, {headers_length} AS headers_length,
        r.at + 21 AS body, {length} - 17 AS rest, r.end_offset
    FROM (SELECT coalesce(n.name, {topic_id}) AS topic, p.no, p.hw, p.log_start, b.id & 1099511627775 AS base, b.base_ts,
            b.leader_epoch, b.data, b.seal IS NOT NULL AS sealed, (b.id & 1099511627775) + b.count AS end_offset,
            json_extract(frame.value, '$[0]') AS at, json_extract(frame.value, '$[1]') AS head
        {batches} JOIN json_each(CASE WHEN b.seal IS NOT NULL THEN '[[69, \"\"]]' ELSE (
            WITH RECURSIVE f(at, head) AS (
                SELECT 69, hex(substr(b.data, 69, 21))
                UNION ALL SELECT {next}, hex(substr(b.data, {next}, 21)) FROM f WHERE {next} <= length(b.data))
            SELECT json_group_array(json_array(f.at, f.head)) FROM f) END) frame) r)
WHERE base + offset_delta >= log_start OR (sealed AND end_offset > log_start);"
    )
}
