//! Simulates many concurrent clients and collectors over failing stores, in an order that follows
//! from a seed. The test asserts that acknowledged content is never lost and that no garbage is
//! left. A fifth of the seeds also have an upstream, pulls through the cache, and evictions.
//!
//! `EYOT_SIM_SEED=<seed>` runs one seed and prints its events; `EYOT_SIM_SEEDS=<number>` sets the
//! number of seeds, and `EYOT_SIM_FIRST=<seed>` the first seed.
#![cfg(not(target_family = "wasm"))]

mod check;
mod clients;
mod contents;
mod executor;
mod model;
mod stores;
mod upstream;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use executor::{Executor, TaskId};
use world::World;

const SEEDS: u64 = 10_000;
/// More steps than any seed needs. A simulation that has not ended by then is stuck.
const STEPS_MAX: u64 = 100_000;
/// The maximum number of collection steps by one collector before another collector replaces it.
const COLLECT_STEPS_MAX: usize = 40;

struct Story {
    hash: u64,
    steps: u64,
    failure: Option<String>,
    lines: Vec<String>,
}

fn run(seed: u64, traced: bool) -> Story {
    let world = World::new(seed, traced);
    let failure = play(&world).err();
    Story {
        hash: world.scheduler.hash(),
        steps: world.scheduler.step(),
        failure,
        lines: [vec![format!("{:?}", world.setting)], world.scheduler.take_lines()].concat(),
    }
}

fn play(world: &World) -> Result<(), String> {
    let (setting, scheduler) = (&world.setting, &world.scheduler);
    if world.cache.is_some() {
        upstream::push_before(world);
    }
    let mut executor = Executor::new(scheduler.clone());
    let mut clients: Vec<TaskId> =
        (0..setting.clients).map(|_| executor.spawn(clients::client(world.clone()))).collect();
    let mut collectors: Vec<TaskId> = Vec::new();
    loop {
        clients.retain(|task| executor.is_running(*task));
        collectors.retain(|task| executor.is_running(*task));
        if clients.is_empty() {
            world.faults.set_chance(0);
        } else {
            while collectors.len() < setting.collectors {
                let steps = 1 + scheduler.below(COLLECT_STEPS_MAX);
                collectors.push(executor.spawn(clients::collector(world.clone(), steps)));
            }
        }
        if scheduler.dice(|dice| dice.per_mille(setting.crashes_per_mille)) {
            // Crash collectors more often than clients: crashed collectors are replaced.
            let crashing = if scheduler.below(3) == 0 { &clients } else { &collectors };
            if !crashing.is_empty() {
                executor.crash(crashing[scheduler.below(crashing.len())]);
                continue;
            }
        }
        world.model.lock().unwrap().at_step(scheduler.step());
        let Some(step) = executor.step() else { break };
        check::after(world, &step)?;
        if let Some(failure) = scheduler.failure() {
            return Err(failure);
        }
        if scheduler.step() > STEPS_MAX {
            return Err("it does not end".into());
        }
    }
    scheduler.note("quiet", "");
    check::quiet(world)?;
    if let Some(cache) = &world.cache {
        upstream::comes_through(world, cache)?;
        check::quiet(world)?;
    }
    check::collected(world)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    if let Some(seed) = number("EYOT_SIM_SEED") {
        let story = run(seed, true);
        story.lines.iter().for_each(|line| println!("{line}"));
        assert_eq!(story.failure, None, "seed {seed}");
        return;
    }
    let (first, seeds) = (number("EYOT_SIM_FIRST").unwrap_or(0), number("EYOT_SIM_SEEDS").unwrap_or(SEEDS));
    let (next, steps) = (AtomicU64::new(first), AtomicU64::new(0));
    let failures: Mutex<Vec<(u64, String)>> = Mutex::default();
    let failures_wanted = number("EYOT_SIM_FAILURES").unwrap_or(1) as usize;
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds || failures.lock().unwrap().len() >= failures_wanted {
                return;
            }
            let story = run(seed, false);
            steps.fetch_add(story.steps, Ordering::Relaxed);
            if let Some(why) = story.failure {
                failures.lock().unwrap().push((seed, why));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(8));
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let run_seeds = next.load(Ordering::Relaxed).min(first + seeds) - first;
    println!("{run_seeds} seeds, {} storage calls", steps.load(Ordering::Relaxed));
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    for (seed, why) in &failures {
        println!("seed {seed} (EYOT_SIM_SEED={seed} cargo test --test simulation -- --nocapture): {why}");
    }
    if let Some((seed, why)) = failures.first() {
        let lines = run(*seed, true).lines;
        lines.iter().skip(lines.len().saturating_sub(200)).for_each(|line| println!("{line}"));
        panic!("seed {seed}: {why}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        let [one, other] = [run(seed, false), run(seed, true)];
        assert_eq!((one.hash, one.steps), (other.hash, other.steps), "seed {seed}");
        assert_ne!(one.hash, run(seed + 1, false).hash);
    }
}
