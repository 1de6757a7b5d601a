//! Publishes ten records one by one, then a thousand in batches.
//!
//! `cargo run -p pubsub-client --example publish -- demo-topic http://127.0.0.1:8081`

use pubsub_client::Client;
use pubsub_client::producer::ProducerConfig;
use pubsub_client::record::NewRecord;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let topic = args.next().unwrap_or_else(|| "demo-topic".to_owned());
    let mut brokers: Vec<String> = args.collect();
    if brokers.is_empty() {
        brokers.push("http://127.0.0.1:8081".to_owned());
    }
    let client = Client::new(&brokers)?;

    let producer = client.producer(&topic);
    for number in 0..10 {
        let delivery = producer.publish(&NewRecord::json(&number)?.key("example")).await?;
        eprintln!("{number} is at offset {}", delivery.placed.offset);
    }

    // A batch whose answer is lost is sent again, and stored once all the same.
    let batches = client.batch_producer(&topic, ProducerConfig::default());
    let mut tickets = Vec::new();
    for number in 0..1_000 {
        tickets.push(batches.send(NewRecord::json(&number)?).await?);
    }
    for ticket in tickets {
        ticket.await?;
    }
    batches.close().await;
    eprintln!("1000 more are published");
    Ok(())
}
