//! Reads a topic as a member of a group, committing after each batch.
//!
//! `cargo run -p pubsub-client --example consume -- demo-topic http://127.0.0.1:8081`

use pubsub_client::Client;
use pubsub_client::consumer::{ConsumeError, ConsumerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let topic = args.next().unwrap_or_else(|| "demo-topic".to_owned());
    let mut brokers: Vec<String> = args.collect();
    if brokers.is_empty() {
        brokers.push("http://127.0.0.1:8081".to_owned());
    }
    let client = Client::new(&brokers)?;
    let mut consumer = client.consumer(ConsumerConfig::group(&topic, "example", "consumer-1")).await?;
    loop {
        let batch = consumer.poll().await?;
        for record in &batch.records {
            eprintln!("{}/{}: {}", record.partition, record.offset, record.value);
        }
        match consumer.commit().await {
            Ok(()) => {}
            // Another consumer has the partition now and reads these records again.
            Err(ConsumeError::Fenced { partition }) => eprintln!("lost partition {partition}"),
            Err(error) => return Err(error.into()),
        }
    }
}
