//! Batches on disk that are sealed, or damaged.

use super::*;

#[tokio::test]
async fn sealed_batches_open_only_with_their_key() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    write(&opened.store, vec![append(A, 0, vec![batch(0, 2, 1)])]).await.unwrap();
    close(opened).await;

    let opened = open(with_key(dir.path(), KEY_1)).unwrap();
    assert!(opened.store.is_sealing());
    write(&opened.store, vec![append(A, 0, vec![batch(2, 2, 1), batch(4, 1, 1)])]).await.unwrap();
    assert_eq!(
        opened.store.read(A, 0, 9, usize::MAX).await.unwrap(),
        [batch(0, 2, 1), batch(2, 2, 1), batch(4, 1, 1)]
    );
    assert_eq!(opened.store.plaintext_batches().await.unwrap(), 1);
    close(opened).await;
    let file = std::fs::read(dir.path().join("pubsub.sqlite")).unwrap();
    let holds = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
    assert!(holds(b"{\"at\":1}") && !holds(b"{\"at\":2}"), "only what was written before the key is legible");

    let without = open(config(dir.path())).unwrap_err().to_string();
    assert!(without.contains(&key(KEY_1).id().to_string()) && without.contains("given: none"), "{without}");
    let wrong = open(with_key(dir.path(), KEY_2)).unwrap_err().to_string();
    assert!(
        wrong.contains(&key(KEY_1).id().to_string()) && wrong.contains(&key(KEY_2).id().to_string()),
        "{wrong}"
    );
    assert!(!wrong.contains(KEY_1) && !wrong.contains(KEY_2));

    let rotated = StoreConfig { keys_old: vec![key(KEY_1)], ..with_key(dir.path(), KEY_2) };
    let opened = open(rotated).unwrap();
    write(&opened.store, vec![append(A, 0, vec![batch(5, 1, 1)])]).await.unwrap();
    assert_eq!(
        spans(&opened.store.read(A, 0, 9, usize::MAX).await.unwrap()),
        [(0, 2), (2, 4), (4, 5), (5, 6)]
    );
    write(&opened.store, vec![bare(A, 5, 6)]).await.unwrap();
    close(opened).await;
    // Nothing needs the older key any more.
    close(open(with_key(dir.path(), KEY_2)).unwrap()).await;
}

#[tokio::test]
async fn a_flipped_byte_is_never_served() {
    for (seal, at) in [(false, 8), (false, 20), (false, 36), (false, 90), (true, 3), (true, 30), (true, 120)]
    {
        let dir = TempDir::new().unwrap();
        let config = if seal { with_key(dir.path(), KEY_1) } else { config(dir.path()) };
        let opened = open(config.clone()).unwrap();
        write(&opened.store, vec![append(A, 0, vec![batch(0, 2, 1), batch(2, 2, 1), batch(4, 2, 1)])])
            .await
            .unwrap();
        close(opened).await;
        flip(dir.path(), 2, at);
        let opened = open(config.clone()).unwrap();
        assert_eq!(spans(&opened.store.read(A, 0, 6, usize::MAX).await.unwrap()), [(0, 2)]);
        let damaged = opened.store.read(A, 2, 6, usize::MAX).await;
        let expected = matches!(&damaged, Err(StoreError::Corrupt { partition: A, base_offset: 2, .. }));
        assert!(expected, "byte {at}, sealed {seal}: {damaged:?}");
        assert_eq!(spans(&opened.store.read(A, 4, 6, usize::MAX).await.unwrap()), [(4, 6)]);
        close(opened).await;
        flip(dir.path(), 4, at);
        assert!(matches!(open(config), Err(OpenError::Damaged { partition: A, .. })));
    }
}

/// Flips a byte of the stored batch at `base` of the file's first log.
fn flip(dir: &Path, base: i64, at: usize) {
    let file = Connection::open(dir.join("pubsub.sqlite")).unwrap();
    let id = (1 << 40) | base;
    let mut data: Vec<u8> =
        file.query_row("SELECT data FROM batch WHERE id = ?1", [id], |row| row.get(0)).unwrap();
    data[at] ^= 1;
    file.execute("UPDATE batch SET data = ?1 WHERE id = ?2", rusqlite::params![data, id]).unwrap();
}

#[tokio::test]
async fn a_sealed_batch_in_another_place_does_not_open() {
    let dir = TempDir::new().unwrap();
    let opened = open(with_key(dir.path(), KEY_1)).unwrap();
    write(
        &opened.store,
        vec![append(A, 0, vec![batch(0, 1, 1)]), append(B, 0, vec![batch(0, 1, 1), batch(1, 1, 1)])],
    )
    .await
    .unwrap();
    close(opened).await;
    let file = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
    let sql = "UPDATE batch SET data = (SELECT data FROM batch WHERE id = 1 << 40) WHERE id = 2 << 40";
    assert_eq!(file.execute(sql, []).unwrap(), 1);
    drop(file);
    let opened = open(with_key(dir.path(), KEY_1)).unwrap();
    assert_eq!(opened.store.read(A, 0, 1, 1).await.unwrap(), [batch(0, 1, 1)]);
    assert!(matches!(
        opened.store.read(B, 0, 1, 1).await,
        Err(StoreError::Corrupt { partition: B, base_offset: 0, .. })
    ));
    close(opened).await;
}

#[tokio::test]
async fn no_two_batches_are_sealed_with_the_same_key_and_nonce() {
    let dir = TempDir::new().unwrap();
    let mut base = 0;
    for _ in 0..3 {
        let opened = open(with_key(dir.path(), KEY_1)).unwrap();
        write(
            &opened.store,
            vec![append(A, 0, (base..base + 20).map(|offset| batch(offset, 1, 1)).collect())],
        )
        .await
        .unwrap();
        base += 20;
        close(opened).await;
    }
    let file = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
    let sql = "SELECT count(DISTINCT hex(k.salt) || hex(substr(b.data, 1, 12))) FROM batch b JOIN key k ON k.seal = b.seal";
    let pairs: i64 = file.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(pairs, 60);
}
