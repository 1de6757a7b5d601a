//! Which volumes are taken, and which are refused.

use super::*;

#[tokio::test]
async fn a_volume_is_used_by_one_process_and_one_broker() {
    let dir = TempDir::new().unwrap();
    let opened = open(config(dir.path())).unwrap();
    assert!(matches!(open(config(dir.path())), Err(OpenError::Locked { .. })));
    close(opened).await;
    let foreign = open(StoreConfig { broker_id: BrokerId(2), ..config(dir.path()) });
    assert!(
        matches!(foreign, Err(OpenError::ForeignBroker { found: BrokerId(1), expected: BrokerId(2), .. })),
        "{foreign:?}"
    );
    close(open(config(dir.path())).unwrap()).await;
}

#[tokio::test]
async fn files_of_others_and_of_the_future_are_left_alone() {
    for sql in ["CREATE TABLE records(topic TEXT)", "PRAGMA application_id=5; PRAGMA user_version=1"] {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("pubsub.sqlite");
        Connection::open(&file).unwrap().execute_batch(sql).unwrap();
        let before = std::fs::read(&file).unwrap();
        assert!(matches!(open(config(dir.path())), Err(OpenError::NotOurs { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("pubsub.sqlite"), b"certainly not a database, but a text of some length")
        .unwrap();
    assert!(matches!(open(config(dir.path())), Err(OpenError::NotOurs { .. })));

    let dir = TempDir::new().unwrap();
    close(open(config(dir.path())).unwrap()).await;
    Connection::open(dir.path().join("meta.sqlite"))
        .unwrap()
        .execute_batch("PRAGMA user_version=99")
        .unwrap();
    assert!(matches!(open(config(dir.path())), Err(OpenError::Newer { found: 99, .. })));
}

#[tokio::test]
async fn a_volume_that_lost_one_of_its_files_is_refused() {
    for name in ["pubsub.sqlite", "meta.sqlite"] {
        let dir = TempDir::new().unwrap();
        let opened = open(config(dir.path())).unwrap();
        write(&opened.store, vec![append(A, 0, vec![batch(0, 1, 1)])]).await.unwrap();
        close(opened).await;
        std::fs::remove_file(dir.path().join(name)).unwrap();
        for _ in 0..2 {
            assert!(matches!(open(config(dir.path())), Err(OpenError::Torn { .. })), "without {name}");
        }
    }
}

#[tokio::test]
async fn a_log_that_lost_its_end_or_its_start_is_refused() {
    for lost in [0, 2] {
        let dir = TempDir::new().unwrap();
        let opened = open(config(dir.path())).unwrap();
        write(&opened.store, vec![append(A, 0, vec![batch(0, 2, 1), batch(2, 2, 1)])]).await.unwrap();
        close(opened).await;
        let file = Connection::open(dir.path().join("pubsub.sqlite")).unwrap();
        file.execute("DELETE FROM batch WHERE id = ?1", [(1_i64 << 40) | lost]).unwrap();
        drop(file);
        let refused = open(config(dir.path())).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { partition: A, .. }), "{refused}");
        assert!(refused.to_string().contains("pubsub.sqlite"));
    }
}

#[tokio::test]
async fn room_is_judged_by_the_configured_threshold() {
    let dir = TempDir::new().unwrap();
    let opened = open(StoreConfig { free_bytes_min: Some(u64::MAX), ..config(dir.path()) }).unwrap();
    assert!(opened.store.storage_full());
    close(opened).await;
    let opened = open(config(dir.path())).unwrap();
    assert!(!opened.store.storage_full());
    close(opened).await;
}
