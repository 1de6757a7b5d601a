//! Watching every broker from outside: who says to be controller, and which metadata it shows.

use super::{Stage, Stop};
use crate::cluster::leader_answer;
use crate::history::History;
use crate::history::check::{Rule, Violation};
use crate::http::{Content, Http};
use serde_json::Value;
use std::time::Duration;

/// Time between two looks at one broker.
const BETWEEN: Duration = Duration::from_millis(50);
/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Watches one broker until told to stop.
pub async fn watch(stage: Stage, broker: u32, stop: Stop) -> History {
    let http = Http::new();
    let mut history = History::default();
    // Which process showed which metadata last.
    let mut last: Option<(u32, (u64, u64))> = None;
    while !stop.stopped() {
        let url = stage.cluster.url(broker);
        if let Ok((_, epoch, true)) = leader_answer(&http, &url).await {
            history.claims.insert((epoch, broker));
        }
        let process = stage.cluster.run_of(broker);
        let shown = metadata(&http, &url).await;
        if let (Some(process), Some(shown)) = (process, shown)
            && stage.cluster.run_of(broker) == Some(process)
        {
            if let Some((_, before)) = last.filter(|(of, before)| *of == process && *before > shown) {
                let what = format!(
                    "broker {broker} showed version {}.{} and at {} ms {}.{}",
                    before.0,
                    before.1,
                    stage.clock.now(),
                    shown.0,
                    shown.1
                );
                history.noticed.push(Violation::of(Rule::MetadataGoesForward, what));
            }
            last = Some((process, shown));
        }
        tokio::time::sleep(BETWEEN).await;
    }
    history
}

async fn metadata(http: &Http, url: &str) -> Option<(u64, u64)> {
    let answer = http.try_send("GET", &format!("{url}/metadata"), Content::default(), PATIENCE).await.ok()?;
    let body: Value = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200)?;
    Some((body["controller_epoch"].as_u64()?, body["version"].as_u64()?))
}
