//! The code of docs/guides/rust.md: publishes some orders and reads them as a member of a group.
//!
//! `cargo run -p pubsub-client --example guide -- http://127.0.0.1:8081`

use pubsub_client::Client;
use pubsub_client::consumer::{ConsumeError, ConsumerConfig};
use pubsub_client::producer::{ProducerConfig, PublishError};
use pubsub_client::record::NewRecord;
use pubsub_core::wire::admin::CreateTopicRequest;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut brokers: Vec<String> = std::env::args().skip(1).collect();
    if brokers.is_empty() {
        brokers.push("http://127.0.0.1:8081".to_owned());
    }
    run(&brokers).await
}

/// Does everything that the guide shows, in its order.
///
/// # Errors
/// Whatever a call ends with.
#[allow(unreachable_pub, reason = "a test runs it too")]
pub async fn run(brokers: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(brokers)?;
    let topic = CreateTopicRequest {
        name: "rust-orders".to_owned(),
        partitions: Some(2),
        replication_factor: Some(3),
        ..CreateTopicRequest::default()
    };
    client.admin().create_topic(&topic).await?;

    let producer = client.producer("rust-orders");
    let order = NewRecord::json(&json!({"item": "book", "count": 1}))?.key("customer-7");
    match producer.publish(&order).await {
        Ok(delivery) => {
            eprintln!("partition {}, offset {}", delivery.placed.partition, delivery.placed.offset);
        }
        Err(PublishError::Unknown(error)) => eprintln!("perhaps published: {error}"),
        Err(error) => return Err(error.into()),
    }

    let batches = client.batch_producer("rust-orders", ProducerConfig::default());
    let mut tickets = Vec::new();
    for number in 0..1_000 {
        tickets.push(batches.send(NewRecord::json(&number)?).await?);
    }
    for ticket in tickets {
        ticket.await?;
    }
    batches.close().await;

    let mut consumer = client.consumer(ConsumerConfig::group("rust-orders", "billing", "worker-1")).await?;
    let mut handled = 0;
    while handled < 1_001 {
        let batch = consumer.poll().await?;
        for record in &batch.records {
            eprintln!("{}/{}: {}", record.partition, record.offset, record.value);
            handled += 1;
        }
        match consumer.commit().await {
            Ok(()) => {}
            Err(ConsumeError::Fenced { partition }) => {
                eprintln!("partition {partition} has another consumer now, which reads these records again");
            }
            Err(error) => return Err(error.into()),
        }
    }
    consumer.leave().await?;
    Ok(())
}
