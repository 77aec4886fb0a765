//! Load and abuse, with figures: `cargo bench --bench abuse [NAME…]`. Prints a table in Markdown.
//!
//! The names are `idle`, `stalled`, `storm`, `slow`, `flood`, `flood-bytes`, `topics` and `held`, or one of its attacks, such as
//! `held-searches`; all of them take thirteen minutes. Each runs the real server in a process of its own, on a fresh disk store,
//! with the flags' defaults unless stated otherwise. A scenario fails if an event is lost, repeated or out of order, or a
//! response is wrong; it does not fail for its figures.

mod common;
mod flood;
mod held;
mod idle;
mod slow;
mod stalled;
mod storm;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, unused_macros)] // Shared with tests, each of which uses a part.
mod support;
mod topics;

use flood::Flood;
use support::{DEADLINE, within};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_selected = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    let files = common::raise_open_files();
    assert!(files >= 17_000, "15,000 connections take as many open files, and {files} are allowed (ulimit -Hn)");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    println!("{}\n", common::machine());
    println!("| what | how it went | memory before, at most, after (MiB) |\n|---|---|---|");
    let run = |name: &str, abuse: &dyn Fn() -> common::Row| {
        if is_selected(name) {
            println!("{}", abuse());
        }
    };
    run("idle", &|| runtime.block_on(idle::run()));
    run("stalled", &|| runtime.block_on(stalled::run()));
    run("storm", &|| runtime.block_on(storm::run()));
    run("slow", &|| runtime.block_on(slow::run()));
    run("flood", &|| runtime.block_on(flood::run(Flood::Events)));
    run("flood-bytes", &|| runtime.block_on(flood::run(Flood::Bytes)));
    run("topics", &|| runtime.block_on(topics::run()));
    let attacks = |name: &str| is_selected("held") || is_selected(&format!("held-{name}"));
    runtime.block_on(held::run(attacks, |row| println!("{row}")));
}
