//! What `meta.sqlite` keeps.

use super::*;
use pubsub_core::control::Event;
use pubsub_core::control::image::{Image, ImageHash};
use pubsub_core::ids::{ClusterId, Voter};
use pubsub_core::limits::EVENTS_MAX;
use std::collections::BTreeMap;

fn voter(id: u32) -> Voter {
    Voter { id: BrokerId(id), storage_id: StorageId(Uuid::from_u128(u128::from(id))) }
}

fn image(epoch: u64, version: u64) -> Arc<Image> {
    Arc::new(Image {
        cluster_id: ClusterId(Uuid::from_u128(9)),
        at: At { epoch: ControllerEpoch(epoch), version },
        hash: ImageHash([7; 32]),
        feature_level: 1,
        voters: BTreeMap::new(),
        brokers: BTreeMap::new(),
        topics: BTreeMap::new(),
        tombstones: BTreeMap::from([(TopicId(Uuid::from_u128(1)), 3)]),
    })
}

#[tokio::test]
async fn a_promise_survives_a_crash_and_is_never_taken_back() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(config(dir.path())).unwrap();
    let mut hard = opened.hard.clone();
    assert_eq!((hard.boot, hard.broker_id, hard.epoch), (1, BrokerId(1), ControllerEpoch(0)));
    hard.cluster_id = Some(ClusterId(Uuid::from_u128(9)));
    hard.epoch = ControllerEpoch(4);
    hard.voted_for = Some(voter(3));
    hard.accepted = Some(image(4, 2));
    opened.meta.persist(&hard).unwrap();
    hard.committed = At { epoch: ControllerEpoch(4), version: 2 };
    opened.meta.persist(&hard).unwrap();

    let crashed = copy_of(dir.path());
    let again = open(config(crashed.path())).unwrap();
    assert_eq!(again.hard, Hard { boot: 2, ..hard.clone() });
    close(again).await;

    let backwards: [fn(&mut Hard); 7] = [
        |hard| hard.voted_for = Some(Voter { storage_id: StorageId(Uuid::from_u128(99)), ..voter(3) }),
        |hard| hard.epoch = ControllerEpoch(3),
        |hard| hard.voted_for = Some(voter(2)),
        |hard| hard.accepted = Some(image(4, 1)),
        |hard| hard.accepted = None,
        |hard| hard.committed = At::default(),
        |hard| hard.cluster_id = Some(ClusterId(Uuid::from_u128(8))),
    ];
    for spoil in backwards {
        let mut bad = hard.clone();
        spoil(&mut bad);
        assert!(matches!(opened.meta.persist(&bad), Err(StoreError::Regress { .. })), "{bad:?}");
    }
    assert_eq!(*opened.meta.hard(), hard);
    close(opened).await;
}

#[tokio::test]
async fn a_promise_passes_to_the_winner_of_its_epoch() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(config(dir.path())).unwrap();
    let mut hard = opened.hard.clone();
    hard.cluster_id = Some(ClusterId(Uuid::from_u128(9)));
    hard.epoch = ControllerEpoch(2);
    hard.voted_for = Some(voter(1));
    hard.accepted = Some(image(1, 32));
    opened.meta.persist(&hard).unwrap();
    let forgotten = Hard { voted_for: None, ..hard.clone() };
    assert!(matches!(opened.meta.persist(&forgotten), Err(StoreError::Regress { .. })));
    // The own candidacy lost: the image of the one who won arrives.
    hard.voted_for = Some(voter(5));
    hard.accepted = Some(image(2, 33));
    opened.meta.persist(&hard).unwrap();
    let rival = Hard { voted_for: Some(voter(4)), accepted: Some(image(2, 34)), ..hard.clone() };
    assert!(matches!(opened.meta.persist(&rival), Err(StoreError::Regress { .. })), "one winner an epoch");
    close(opened).await;
}

#[tokio::test]
async fn a_damaged_image_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(config(dir.path())).unwrap();
    let hard = Hard { accepted: Some(image(1, 1)), ..opened.hard.clone() };
    opened.meta.persist(&hard).unwrap();
    close(opened).await;
    let file = Connection::open(dir.path().join("meta.sqlite")).unwrap();
    file.execute("UPDATE accepted SET image = CAST(replace(CAST(image AS TEXT), '3', '4') AS BLOB)", [])
        .unwrap();
    drop(file);
    assert!(matches!(open(config(dir.path())), Err(OpenError::Meta { .. })));
}

#[tokio::test]
async fn the_newest_events_are_kept() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(config(dir.path())).unwrap();
    let none = opened.events.newest(10).await.unwrap();
    assert_eq!((none.events.len(), none.oldest, none.newest), (0, 1, 0));
    let fenced = |broker| Event::BrokerFenced { broker: BrokerId(broker) };
    let most = u32::try_from(EVENTS_MAX).unwrap();
    let events: Vec<_> = (1..=most + 10).map(fenced).collect();
    let newest = opened.meta.append_events(5, &events[..20]).unwrap();
    assert_eq!(newest, 20);
    opened.meta.append_events(5, &events[20..]).unwrap();
    let kept = opened.events.after(0, 2 * most).await.unwrap();
    assert_eq!((kept.events.len(), kept.oldest, kept.newest), (10_000, 11, 10_010));
    assert_eq!((kept.events[0].id, &kept.events[0].event), (11, &fenced(11)));
    let ids = |page: EventPage| page.events.iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(opened.events.after(10_008, 1).await.unwrap()), [10_009]);
    assert_eq!(ids(opened.events.newest(2).await.unwrap()), [10_009, 10_010]);
    assert_eq!(opened.events.after(10_010, 5).await.unwrap().end, 10_010);
    let made_up = opened.events.after(20_000, 5).await.unwrap();
    assert_eq!((made_up.events.len(), made_up.newest), (0, 10_010));
    let hard = Hard { epoch: ControllerEpoch(1), ..opened.hard.clone() };
    opened.meta.persist(&hard).unwrap();
    close(opened).await;
}

#[tokio::test]
async fn the_ballast_lies_beside_the_promises() {
    let dir = TempDir::new().unwrap();
    close(open(config(dir.path())).unwrap()).await;
    assert_eq!(std::fs::metadata(dir.path().join("meta.ballast")).unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn a_full_disk_takes_the_ballast_and_keeps_the_last_promise() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(config(dir.path())).unwrap();
    let first = Hard { epoch: ControllerEpoch(1), ..opened.hard.clone() };
    opened.meta.persist(&first).unwrap();
    opened.meta.limit_pages(1);
    let mut large = Image::clone(&image(2, 1));
    large.tombstones = (0..2_000).map(|id| (TopicId(Uuid::from_u128(id)), 1)).collect();
    let second = Hard { epoch: ControllerEpoch(2), accepted: Some(Arc::new(large)), ..first.clone() };
    let refused = opened.meta.persist(&second);
    assert!(matches!(refused, Err(StoreError::Sqlite(_))), "{refused:?}");
    assert!(!dir.path().join("meta.ballast").exists());
    let event = Event::ElectionStarted;
    assert!(
        matches!(opened.meta.append_events(1, &[event]), Err(StoreError::DiskFull)),
        "room is for promises"
    );
    opened.meta.limit_pages(100_000);
    opened.meta.persist(&second).unwrap();
    opened.meta.room_again();
    assert!(dir.path().join("meta.ballast").exists());
    assert!(opened.meta.append_events(1, &[Event::ElectionStarted]).is_ok());
    close(opened).await;
    let again = open(config(dir.path())).unwrap();
    assert_eq!(again.hard, Hard { boot: 2, ..second });
    assert!(dir.path().join("meta.ballast").exists());
    close(again).await;
}

#[tokio::test]
async fn promises_on_a_full_disk_need_no_more_room_than_one() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(config(dir.path())).unwrap();
    let log = || std::fs::metadata(dir.path().join("meta.sqlite-wal")).unwrap().len();
    opened.meta.limit_pages(1);
    let mut large = Image::clone(&image(1, 1));
    large.tombstones = (0..2_000).map(|id| (TopicId(Uuid::from_u128(id)), 1)).collect();
    let large = Hard { epoch: ControllerEpoch(1), accepted: Some(Arc::new(large)), ..opened.hard.clone() };
    assert!(opened.meta.persist(&large).is_err());
    opened.meta.limit_pages(100_000);
    opened.meta.persist(&large).unwrap();
    let before = log();
    for epoch in 2..52 {
        opened.meta.persist(&Hard { epoch: ControllerEpoch(epoch), ..large.clone() }).unwrap();
    }
    assert_eq!(log(), before, "the log is written from its start again");
    close(opened).await;
}
