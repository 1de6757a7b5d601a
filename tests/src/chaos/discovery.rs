//! A discovery service that is away, forgets, or is told lies. Brokers know each other through it alone.

use super::kills::{kill, kill_all};
use super::world::World;
use crate::cluster::{SECRET, ports};
use crate::http::Content;
use pubsub_client::peer_auth::{PEER_AUTH_HEADER, PeerSecret};
use serde_json::json;
use std::time::Duration;

/// Kills the controller, so that something has to be decided while discovery is not to be relied on.
async fn decide(world: &World) -> anyhow::Result<()> {
    kill(world, world.controller().await?, "controller").await
}

pub(super) async fn down(world: &World) -> anyhow::Result<()> {
    world.fault("kill -9 discovery", None);
    world.cluster.kill_discovery();
    decide(world).await?;
    kill_all(world, "kill -9 all brokers and start them, without discovery").await?;
    world.fault("start discovery", None);
    world.cluster.start_discovery();
    world.progress().await
}

pub(super) async fn restarted_empty(world: &World) -> anyhow::Result<()> {
    for _ in 0..3 {
        world.fault("kill -9 discovery and start it, with nothing remembered", None);
        world.cluster.kill_discovery();
        world.cluster.start_discovery();
        world.progress().await?;
    }
    decide(world).await
}

/// Tells discovery, in the brokers' names and with their signature, addresses where nobody listens, addresses of other
/// brokers, and brokers that don't exist.
async fn lie(world: &World) -> anyhow::Result<()> {
    let secret = PeerSecret::new(SECRET)?;
    let ids = world.cluster.ids();
    for id in ids.iter().copied().chain([77]) {
        let other = world.pick(&ids)?;
        let (api, peer) = if world.pick(&[0, 1])? == 0 {
            let place = world.cluster.place(other);
            (place.api_base, place.peer_base)
        } else {
            (format!("http://{}", ports::free()), format!("http://{}", ports::free()))
        };
        let body = json!({
            "broker_id": id, "api_base": api, "election_host": "127.0.0.1", "election_port": 9, "peer_base": peer,
        });
        let body = body.to_string();
        let content = Content::json(body.clone())
            .with(PEER_AUTH_HEADER, &secret.sign("POST", "/register", body.as_bytes()));
        let url = format!("{}/register", world.cluster.discovery_url());
        let answer = world.http.send("POST", &url, content).await?;
        anyhow::ensure!(answer.status == 200, "discovery does not take the lie: {answer}");
    }
    Ok(())
}

pub(super) async fn lies(world: &World) -> anyhow::Result<()> {
    world.fault("discovery is told wrong addresses of every broker, again and again", None);
    for round in 0..4 {
        for _ in 0..10 {
            lie(world).await?;
            world.lasts(Duration::from_millis(150)).await;
        }
        world.progress().await?;
        if round == 1 {
            decide(world).await?;
        }
    }
    Ok(())
}
