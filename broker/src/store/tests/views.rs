//! What people see with a plain `sqlite3`: no function of ours is registered on these connections.

use super::*;

fn rows(file: &Connection, sql: &str) -> Vec<String> {
    let mut statement = file.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut found = statement.query([]).unwrap();
    let mut lines = Vec::new();
    while let Some(row) = found.next().unwrap() {
        let cell = |index: usize| match row.get_ref(index).unwrap() {
            rusqlite::types::ValueRef::Null => "NULL".to_owned(),
            rusqlite::types::ValueRef::Integer(value) => value.to_string(),
            rusqlite::types::ValueRef::Real(value) => value.to_string(),
            rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            rusqlite::types::ValueRef::Blob(bytes) => format!("{bytes:?}"),
        };
        lines.push((0..columns).map(cell).collect::<Vec<_>>().join("|"));
    }
    lines
}

async fn volume(dir: &Path) -> Opened {
    let opened = open(config(dir)).unwrap();
    let long = vec![b'x'; 70_000];
    let mut mixed = BatchBuilder::new();
    mixed.push(Some("schlüssel".as_bytes()), br#"{"h":"v"}"#, ValueKind::Json, br#"{"n":1}"#);
    mixed.push(None, b"", ValueKind::Bytes, &[0, 255, 7]);
    mixed.push(Some(b""), b"", ValueKind::None, b"");
    mixed.push(Some(&long), b"", ValueKind::Json, b"true");
    let mixed = mixed.build(2, LeaderEpoch(5), 1_700_000_000_123).unwrap();
    let first = ReplicaWrite { high_watermark: 3, ..append(A, 0, vec![batch(0, 2, 1), mixed]) };
    write(&opened.store, vec![first, append(B, 0, vec![batch(0, 1, 1)])]).await.unwrap();
    write(&opened.store, vec![bare_at(A, 1, 6, 3)]).await.unwrap();
    let name = TopicName::try_from("orders").unwrap();
    opened.store.name_topics(vec![(A.topic, name)]).await.unwrap();
    write(&opened.store, vec![bare_at(A, 1, 6, 3)]).await.unwrap();
    opened
}

fn bare_at(
    partition: TopicPartition,
    log_start: Offset,
    log_end: Offset,
    high_watermark: Offset,
) -> ReplicaWrite {
    ReplicaWrite { high_watermark, ..bare(partition, log_start, log_end) }
}

#[tokio::test]
async fn topics_partitions_and_batches_are_listed() {
    let dir = TempDir::new().unwrap();
    let opened = volume(dir.path()).await;
    let file = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
    assert_eq!(
        rows(&file, "SELECT topic, topic_id, partitions, records FROM v_topics ORDER BY topic_id"),
        [
            "orders|00000000-0000-0000-0000-00000000000a|1|5",
            "00000000-0000-0000-0000-00000000000b|00000000-0000-0000-0000-00000000000b|1|1"
        ]
    );
    let partitions =
        "SELECT topic, partition, leader_epoch, log_start, high_watermark, log_end FROM v_partitions";
    assert_eq!(rows(&file, &format!("{partitions} WHERE topic = 'orders'")), ["orders|0|1|1|3|6"]);
    let batches =
        "SELECT base_offset, end_offset, records, leader_epoch, sealed FROM v_batches WHERE topic = 'orders'";
    assert_eq!(rows(&file, batches), ["0|2|2|1|0", "2|6|4|5|0"]);
    close(opened).await;
}

#[tokio::test]
async fn records_are_legible_beside_the_running_broker() {
    let dir = TempDir::new().unwrap();
    let opened = volume(dir.path()).await;
    let file = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
    let sql = "SELECT partition, offset, leader_epoch, committed, timestamp_ms, substr(key, 1, 10), length(key), headers, kind, value
        FROM v_records WHERE topic = 'orders' ORDER BY offset";
    assert_eq!(
        rows(&file, sql),
        [
            r#"0|1|1|1|1700000000000|k|1|{}|json|{"at":1}"#,
            r#"0|2|5|1|1700000000123|schlüssel|9|{"h":"v"}|json|{"n":1}"#,
            "0|3|5|0|1700000000123|NULL|NULL|{}|bytes|[0, 255, 7]",
            "0|4|5|0|1700000000123||0|{}|none|NULL",
            "0|5|5|0|1700000000123|xxxxxxxxxx|70000|{}|json|true",
        ]
    );
    assert_eq!(rows(&file, "SELECT time FROM v_records WHERE offset = 2"), ["2023-11-14T22:13:20.123Z"]);
    assert_eq!(rows(&file, "SELECT count(*) FROM v_records"), ["6"]);
    close(opened).await;
}

#[tokio::test]
async fn sealed_batches_are_listed_but_stay_closed() {
    let dir = TempDir::new().unwrap();
    let opened = open(with_key(dir.path(), KEY_1)).unwrap();
    write(&opened.store, vec![append(A, 0, vec![batch(0, 2, 1), batch(2, 1, 1)])]).await.unwrap();
    let file = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
    assert_eq!(
        rows(&file, "SELECT offset, kind, key, headers, value FROM v_records"),
        ["0|sealed|NULL|NULL|NULL", "2|sealed|NULL|NULL|NULL"]
    );
    assert_eq!(rows(&file, "SELECT sum(sealed) FROM v_batches"), ["2"]);
    close(opened).await;
}
