//! Runs every check of the models, or those named; `--trace NAME` prints how one rule set is refuted.
#![allow(clippy::print_stdout)]

use pubsub_model::checks::{self, Check};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let mut all = checks::all();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run(&all),
        ["--trace", name] => match all.iter().find(|check| check.name == name) {
            Some(check) => {
                println!("{}", check.trace());
                ExitCode::SUCCESS
            }
            None => usage(&all),
        },
        ref names if names.iter().all(|name| all.iter().any(|check| check.name == *name)) => {
            all.retain(|check| names.contains(&check.name));
            run(&all)
        }
        _ => usage(&all),
    }
}

fn run(all: &[Check]) -> ExitCode {
    let passed = all.iter().filter(|check| check.run(|line| println!("{line}"))).count();
    println!("{passed} of {} checks as expected", all.len());
    if passed == all.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage(all: &[Check]) -> ExitCode {
    let names: Vec<_> = all.iter().map(|check| check.name).collect();
    println!("usage: pubsub-model [NAME ...] [--trace NAME]\nnames: {}", names.join(" "));
    ExitCode::from(2)
}
