//! Breaks clusters of real processes by schedule, and checks what they promised. See `docs/operations.md`.

use anyhow::Context;
use clap::Parser;
use pubsub_tests::chaos::schedules::named;
use pubsub_tests::chaos::{Options, run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::watch;

/// Breaks clusters of real processes on this machine by named schedules, and checks that they kept their promises.
#[derive(Debug, Parser)]
#[command(name = "pubsub-chaos", version)]
struct Args {
    /// Begin runs until this time is over, e.g. 90s or 20m. Schedules named are each run once at least.
    #[arg(long, default_value = "20m", value_parser = duration)]
    duration: Duration,
    /// What chance decides is decided by this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these schedules, comma-separated [default: all but kill-each-role].
    #[arg(long, value_delimiter = ',')]
    schedule: Vec<String>,
    /// How often kill-each-role kills each role, by each signal.
    #[arg(long, default_value_t = 50)]
    times: usize,
    /// Directory for the report, in Markdown and JSON.
    #[arg(long, default_value = "docs/reports")]
    report: PathBuf,
    /// Directory for data and logs of runs that broke a rule [default: pubsub-chaos among temporary files].
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, factor) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 =
        number.parse().map_err(|_| "use a number of seconds or minutes: 90s, 20m".to_owned())?;
    Ok(Duration::from_secs(number * factor))
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let wanted: Vec<String> = args.schedule.into_iter().filter(|name| !name.is_empty()).collect();
    let set = if wanted.is_empty() { "all".to_owned() } else { wanted.join("+") };
    let options = Options {
        duration: args.duration,
        seed: args.seed,
        schedules: named(&wanted)?,
        times: args.times,
        keep: args.keep.unwrap_or_else(|| std::env::temp_dir().join("pubsub-chaos")),
    };
    let (interrupt, interrupted) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("interrupted: healing, checking and reporting; once more ends at once");
            interrupt.send_replace(true);
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        }
        // Keeps the sender: without it everything would look interrupted.
        std::future::pending::<()>().await;
    });
    let report = run(&options, interrupted).await?;
    std::fs::create_dir_all(&args.report).context("make the directory of reports")?;
    let base = args.report.join(format!("chaos-{set}-{}", options.seed));
    std::fs::write(base.with_extension("md"), report.markdown()).context("write the report")?;
    std::fs::write(base.with_extension("json"), serde_json::to_vec_pretty(&report)?)
        .context("write the report")?;
    let broken = report.violations();
    eprintln!("{} runs, {broken} broken rules; report: {}.md", report.runs.len(), base.display());
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
