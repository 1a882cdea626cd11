//! The requests under way: a thread each, and the flag that asks it to stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Result;

use super::contents::{Asking, Contents};
use super::line::Line;
use crate::deploy;
use crate::lock::Lock;
use crate::process::Program;
use crate::provision::host as provision;
use crate::rebalance;
use crate::wire::{Event, ExecDone, FromAgent, Reply, Request, Sink, Stream, shard};

/// What outlives one request on this channel.
#[derive(Default)]
struct Kept {
    contents: Contents,
    planned: Mutex<Option<provision::Planned>>,
    deploys: deploy::host::Host,
    lock: Lock,
}

/// All requests of this channel.
pub struct Requests {
    line: Arc<Line>,
    kept: Arc<Kept>,
    flags: Mutex<HashMap<u64, Arc<AtomicBool>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Requests {
    /// None yet.
    pub fn new(line: Arc<Line>) -> Self {
        Self { line, kept: Arc::default(), flags: Mutex::default(), threads: Mutex::default() }
    }

    /// The contents that arrived.
    pub fn contents(&self) -> &Contents {
        &self.kept.contents
    }

    /// Starts a request in a thread of its own.
    pub fn start(&self, id: u64, request: Request) {
        let stop = Arc::new(AtomicBool::new(false));
        self.flags.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&stop));
        let (line, kept) = (Arc::clone(&self.line), Arc::clone(&self.kept));
        let thread = std::thread::spawn(move || {
            let watch = Watch { id, line: &line, stop: &stop };
            let asking = Asking { id, contents: &kept.contents, line: &line };
            let reply = answer(request, &kept, &asking, &watch)
                .unwrap_or_else(|error| Reply::Failed { error: format!("{error:#}") });
            line.send(&FromAgent::Reply { id, reply });
        });
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// Notes for others that the controller is gone.
    pub fn ending(&self) {
        self.kept.lock.ending();
    }

    /// Asks a request to stop.
    pub fn cancel(&self, id: u64) {
        if let Some(stop) = self.flags.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            stop.store(true, Ordering::SeqCst);
        }
    }

    /// Waits for all of them.
    pub fn finish(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic was already printed by its thread.
            thread.join().ok();
        }
    }
}

fn answer(request: Request, kept: &Kept, blobs: &Asking<'_>, sink: &Watch<'_>) -> Result<Reply> {
    let planned = || kept.planned.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(match request {
        Request::Plan(catalogue) => {
            let plan = provision::plan(catalogue, blobs)?;
            let rows = plan.rows().to_vec();
            *planned() = Some(plan);
            Reply::Planned(crate::wire::provision::Planned { rows })
        }
        Request::Apply(apply) => {
            let plan = planned();
            let plan = plan.as_ref().ok_or_else(|| anyhow::anyhow!("nothing was planned on this channel"))?;
            Reply::Applied(provision::apply(plan, &apply, blobs, sink)?)
        }
        Request::Exec(command) => run(&command.argv, sink)?,
        Request::Lock(take) => Reply::Lock(kept.lock.take(&take)?),
        Request::Locks => Reply::Locks(kept.lock.holders()?),
        Request::Deploy(request) => {
            use crate::resources::Blobs as _;
            blobs.prefetch(&kept.deploys.missing(&request)?)?;
            Reply::Deploy(kept.deploys.handle(&request, blobs, sink)?)
        }
        Request::Shard(shard::Request::Begin(_)) if !kept.lock.is_exclusive() => {
            anyhow::bail!("shards are moved under the host's lock only")
        }
        Request::Shard(request) => Reply::Shard(rebalance::host::handle(request, blobs, sink)?),
    })
}

fn run(argv: &[String], sink: &Watch<'_>) -> Result<Reply> {
    let (program, arguments) = argv.split_first().ok_or_else(|| anyhow::anyhow!("no command"))?;
    let status =
        Program::new(program).args(arguments).cancel_when(&|| sink.cancelled()).stream(&mut |is_error, text| {
            let stream = if is_error { Stream::Err } else { Stream::Out };
            sink.emit(Event::Output { stream, text });
        })?;
    Ok(Reply::Exec(ExecDone { status }))
}

/// One request's events and its stop flag.
struct Watch<'a> {
    id: u64,
    line: &'a Line,
    stop: &'a AtomicBool,
}

impl Sink for Watch<'_> {
    fn emit(&self, event: Event) {
        self.line.send(&FromAgent::Event { id: self.id, event });
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.line.is_closed()
    }
}
