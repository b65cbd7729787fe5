//! Runs tasks on one thread in an order that follows from a seed, with a clock that moves only
//! here.
//!
//! Every storage call waits at a *gate*. Each step opens one gate, and the gate's task runs until
//! its next gate. So each interleaving of storage calls happens for some seed. Concurrent calls of
//! one task wait at a gate each.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use eyot::platform::Platform;
use eyot::store::faulty::Dice;

/// The maximum duration of a storage call, in ms: less than the collection's allowance.
const CALL_MS_MAX: u64 = 15_000;
/// The probability per step, in thousandths, that a task is frozen.
const FREEZES_PER_MILLE: u32 = 15;
const FREEZE_STEPS_MAX: usize = 600;
const CLOCK_MOVES_PER_MILLE: u32 = 100;

pub type TaskId = usize;
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The clock and the randomness of a simulation.
pub struct SimulatedPlatform {
    now_ms: AtomicU64,
    dice: Mutex<Dice>,
}

impl Platform for SimulatedPlatform {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn random(&self) -> [u8; 16] {
        let mut dice = self.dice.lock().unwrap();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&dice.roll().to_le_bytes());
        bytes[8..].copy_from_slice(&dice.roll().to_le_bytes());
        bytes
    }
}

/// The history of a simulation: always a hash, and the lines if requested.
pub struct Trace {
    hasher: DefaultHasher,
    lines: Option<Vec<String>>,
}

impl Trace {
    fn note(&mut self, task: TaskId, now_ms: u64, what: &str, of: &str) {
        (task, now_ms, what, of).hash(&mut self.hasher);
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{now_ms:>9} ms  task {task:>2}  {what} {of}"));
        }
    }
}

struct Waiting {
    task: TaskId,
    since_ms: u64,
    not_before_ms: u64,
    /// Whether the task waits for a storage call, whose duration is limited.
    is_call: bool,
    what: &'static str,
    of: String,
    waker: Waker,
}

struct State {
    dice: Dice,
    trace: Trace,
    waiting: BTreeMap<u64, Waiting>,
    next_gate: u64,
    running: TaskId,
    step: u64,
    /// The step until which each frozen task waits.
    frozen: BTreeMap<TaskId, u64>,
    failure: Option<String>,
}

/// The interface between tasks and the executor.
#[derive(Clone)]
pub struct Scheduler {
    pub platform: Arc<SimulatedPlatform>,
    state: Arc<Mutex<State>>,
}

impl Scheduler {
    pub fn new(seed: u64, traced: bool) -> Self {
        let platform =
            SimulatedPlatform { now_ms: AtomicU64::new(1_000_000_000), dice: Mutex::new(Dice::new(seed ^ 0x5eed)) };
        let state = State {
            dice: Dice::new(seed),
            trace: Trace { hasher: DefaultHasher::new(), lines: traced.then(Vec::new) },
            waiting: BTreeMap::new(),
            next_gate: 0,
            running: 0,
            step: 0,
            frozen: BTreeMap::new(),
            failure: None,
        };
        Self { platform: Arc::new(platform), state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn dice<T>(&self, use_it: impl FnOnce(&mut Dice) -> T) -> T {
        use_it(&mut self.state().dice)
    }

    pub fn below(&self, end: usize) -> usize {
        self.dice(|dice| dice.below(end))
    }

    pub fn step(&self) -> u64 {
        self.state().step
    }

    pub fn hash(&self) -> u64 {
        self.state().trace.hasher.finish()
    }

    pub fn is_traced(&self) -> bool {
        self.state().trace.lines.is_some()
    }

    pub fn take_lines(&self) -> Vec<String> {
        self.state().trace.lines.take().unwrap_or_default()
    }

    /// Records an event that is not a storage call.
    pub fn note(&self, what: &str, of: &str) {
        let now_ms = self.platform.now_ms();
        let mut state = self.state();
        let task = state.running;
        state.trace.note(task, now_ms, what, of);
    }

    /// Records a line for the reader that does not count for the hash.
    pub fn remark(&self, what: &str) {
        let mut state = self.state();
        let task = state.running;
        if let Some(lines) = &mut state.trace.lines {
            lines.push(format!("                 task {task:>2}    {what}"));
        }
    }

    /// Records a failure. The first failure ends the simulation.
    pub fn fail(&self, why: String) {
        self.state().failure.get_or_insert(why);
    }

    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    pub fn pass_ms(&self, ms: u64) {
        self.platform.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// A gate at which a storage call waits until the executor opens it.
    pub fn gate(&self, what: &'static str, of: &str) -> Gate {
        Gate { scheduler: self.clone(), id: None, until_ms: 0, what, of: of.to_owned(), is_call: true }
    }

    /// A gate that the executor opens after `ms` at the earliest.
    pub fn sleep(&self, ms: u64) -> Gate {
        let until_ms = self.platform.now_ms() + ms;
        Gate { scheduler: self.clone(), id: None, until_ms, what: "wakes up", of: String::new(), is_call: false }
    }
}

pub struct Gate {
    scheduler: Scheduler,
    id: Option<u64>,
    until_ms: u64,
    what: &'static str,
    of: String,
    is_call: bool,
}

impl Future for Gate {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let scheduler = self.scheduler.clone();
        let mut state = scheduler.state();
        match self.id {
            Some(id) if state.waiting.contains_key(&id) => Poll::Pending,
            Some(_) => Poll::Ready(()),
            None => {
                let id = state.next_gate;
                state.next_gate += 1;
                let waiting = Waiting {
                    task: state.running,
                    since_ms: scheduler.platform.now_ms(),
                    not_before_ms: self.until_ms,
                    is_call: self.is_call,
                    what: self.what,
                    of: std::mem::take(&mut self.of),
                    waker: context.waker().clone(),
                };
                state.waiting.insert(id, waiting);
                self.id = Some(id);
                Poll::Pending
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.scheduler.state().waiting.remove(&id);
        }
    }
}

/// Runs the tasks, one gate per step.
pub struct Executor {
    pub scheduler: Scheduler,
    tasks: BTreeMap<TaskId, Task>,
    next_task: TaskId,
}

/// The storage call of a step.
pub struct Step {
    pub what: &'static str,
    pub of: String,
}

impl Executor {
    pub fn new(scheduler: Scheduler) -> Self {
        Self { scheduler, tasks: BTreeMap::new(), next_task: 1 }
    }

    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> TaskId {
        let id = self.next_task;
        self.next_task += 1;
        self.tasks.insert(id, Box::pin(task));
        self.poll(id);
        id
    }

    pub fn is_running(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// Ends a task between two storage calls, as a crash of its process does.
    pub fn crash(&mut self, task: TaskId) {
        if let Some(dying) = self.tasks.remove(&task) {
            self.scheduler.state().running = task;
            self.scheduler.note("CRASHES", "");
            drop(dying);
        }
    }

    fn poll(&mut self, id: TaskId) {
        self.scheduler.state().running = id;
        let task = self.tasks.get_mut(&id).unwrap();
        if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.tasks.remove(&id);
        }
    }

    /// Opens one gate. The clock moves now and then, but never so far that a storage call would
    /// exceed its maximum duration. `None`: no task waits.
    pub fn step(&mut self) -> Option<Step> {
        let id = self.choose()?;
        let mut state = self.scheduler.state();
        let waiting = state.waiting.remove(&id).unwrap();
        let now_ms = self.scheduler.platform.now_ms();
        state.trace.note(waiting.task, now_ms, waiting.what, &waiting.of);
        state.step += 1;
        drop(state);
        waiting.waker.wake();
        self.poll(waiting.task);
        Some(Step { what: waiting.what, of: waiting.of })
    }

    fn choose(&mut self) -> Option<u64> {
        let scheduler = self.scheduler.clone();
        let mut state = scheduler.state();
        let state = &mut *state;
        if state.dice.per_mille(FREEZES_PER_MILLE)
            && let Some(task) = pick(&mut state.dice, self.tasks.keys().copied().collect())
        {
            let until = state.step + state.dice.below(FREEZE_STEPS_MAX) as u64;
            state.frozen.insert(task, until);
        }
        if state.dice.per_mille(CLOCK_MOVES_PER_MILLE) {
            let ms = [1, 100, 1_000, 10_000][state.dice.below(4)];
            scheduler.move_clock(state, ms);
        }
        loop {
            if state.waiting.is_empty() {
                return None;
            }
            let now_ms = scheduler.platform.now_ms();
            let step = state.step;
            state.frozen.retain(|_, until| *until > step);
            let ready = |waiting: &&u64| state.waiting[*waiting].not_before_ms <= now_ms;
            let ready: Vec<u64> = state.waiting.keys().filter(ready).copied().collect();
            let awake = ready.iter().filter(|id| !state.frozen.contains_key(&state.waiting[*id].task));
            let awake: Vec<u64> = awake.copied().collect();
            // A frozen task continues only if no other task is ready.
            if let Some(id) = pick(&mut state.dice, awake).or_else(|| pick(&mut state.dice, ready)) {
                return Some(id);
            }
            let next_ms = state.waiting.values().map(|waiting| waiting.not_before_ms).min()?;
            scheduler.move_clock(state, next_ms - now_ms);
        }
    }
}

impl Scheduler {
    fn move_clock(&self, state: &State, ms: u64) {
        let calls = state.waiting.values().filter(|waiting| waiting.is_call);
        let now_ms = self.platform.now_ms();
        let latest_ms = calls.map(|call| call.since_ms + CALL_MS_MAX).min().unwrap_or(u64::MAX);
        self.pass_ms(ms.min(latest_ms.saturating_sub(now_ms)));
    }
}

fn pick<T: Copy>(dice: &mut Dice, of: Vec<T>) -> Option<T> {
    if of.is_empty() { None } else { Some(of[dice.below(of.len())]) }
}
