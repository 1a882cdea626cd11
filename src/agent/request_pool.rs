//! Runs requests: one thread per request, and a flag that asks it to stop.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::audit::{AuditLog, AuditSink, RunOrigin, change_of_deploy, change_of_shard, describe_failure, record_reply};
use super::blob_store::{BlobFetcher, BlobStore};
use super::frame_sender::FrameSender;
use crate::deploy;
use crate::lock::HostLock;
use crate::process::{OnAgentDeath, Program, end_guarded_programs, share_files_with_guards};
use crate::protocol::lock::{ListLocks, LockRequest, LockResult};
use crate::protocol::{
    AgentMessage, Event, ExecRequest, ExecResult, OutputStream, ProgressSink, Reply, Request, shard,
};
use crate::provision::host as provision;
use crate::rebalance;

/// Maximum number of requests that run at the same time.
const MAX_REQUESTS: usize = 256;

/// State shared by the requests on this channel.
#[derive(Default)]
struct SessionState {
    blob_store: BlobStore,
    last_plan: Mutex<Option<provision::PreparedCatalog>>,
    deploy_agent: deploy::host::DeployAgent,
    host_lock: HostLock,
    audit_log: AuditLog,
    /// A request was asked to stop, or was running when the controller went away.
    is_interrupted: AtomicBool,
}

/// Holds all requests of this channel.
pub struct RequestPool {
    sender: Arc<FrameSender>,
    session: Arc<SessionState>,
    running: Mutex<HashMap<u64, RunningRequest>>,
}

/// A request whose thread has not been joined.
struct RunningRequest {
    cancel_flag: Arc<AtomicBool>,
    /// The request is answered, or about to be; the thread may live on for a moment.
    is_done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl RequestPool {
    /// Returns an empty pool.
    pub fn new(sender: Arc<FrameSender>) -> Self {
        Self { sender, session: Arc::default(), running: Mutex::default() }
    }

    /// Returns the received contents.
    pub fn blob_store(&self) -> &BlobStore {
        &self.session.blob_store
    }

    /// Starts a request in a thread of its own. Never sends a reply itself: the thread that reads must not wait for a
    /// controller that does not.
    ///
    /// # Errors
    /// Returns an error if too many requests run, or if the system allows no further thread.
    pub fn start_request(&self, id: u64, request: Request) -> io::Result<()> {
        let mut running = self.lock_running();
        running.retain(|_, request| !request.thread.is_finished());
        if running.len() >= MAX_REQUESTS {
            return Err(io::Error::other(format!("more than {MAX_REQUESTS} requests at the same time")));
        }
        let cancel_flag = Arc::new(AtomicBool::new(false));
        let is_done = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().spawn({
            let (sender, session) = (Arc::clone(&self.sender), Arc::clone(&self.session));
            let (cancel_flag, is_done) = (Arc::clone(&cancel_flag), Arc::clone(&is_done));
            move || {
                let sink = RequestSink { request_id: id, sender: &sender, cancel_flag: &cancel_flag };
                let fetcher = BlobFetcher { request_id: id, store: &session.blob_store, sender: &sender };
                let reply = catch_panic(|| handle_request(request, &session, &fetcher, &sink))
                    .unwrap_or_else(|error| Reply::Failed { error: format!("{error:#}") });
                is_done.store(true, Ordering::SeqCst);
                sender.send_message(&AgentMessage::Reply { id, reply });
            }
        })?;
        running.insert(id, RunningRequest { cancel_flag, is_done, thread });
        Ok(())
    }

    /// Records that the controller is gone. Programs of requests that it had asked to stop are ended: an operator who
    /// interrupts a command twice does not wait for them. Others finish, within their time limits.
    pub fn mark_controller_gone(&self) {
        let running = self.lock_running();
        if running.values().any(|request| !request.is_done.load(Ordering::SeqCst)) {
            self.session.is_interrupted.store(true, Ordering::SeqCst);
        }
        let is_cancelled = running.values().any(|request| request.cancel_flag.load(Ordering::SeqCst));
        drop(running);
        if is_cancelled {
            end_guarded_programs();
        }
        self.session.host_lock.mark_controller_gone();
    }

    /// Asks a request to stop.
    pub fn cancel_request(&self, id: u64) {
        if let Some(request) = self.lock_running().get(&id) {
            request.cancel_flag.store(true, Ordering::SeqCst);
            self.session.is_interrupted.store(true, Ordering::SeqCst);
        }
    }

    /// Notes in the audit log how the run ended, after all requests.
    pub fn end_run(&self) {
        self.session.audit_log.end_run(self.session.is_interrupted.load(Ordering::SeqCst));
    }

    /// Waits for all requests.
    pub fn join_threads(&self) {
        let running = std::mem::take(&mut *self.lock_running());
        for request in running.into_values() {
            // A thread that panicked has sent its reply.
            request.thread.join().ok();
        }
    }

    fn lock_running(&self) -> MutexGuard<'_, HashMap<u64, RunningRequest>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a request; a panic becomes an error, so that the controller does not wait for a reply that never comes.
fn catch_panic(handle: impl FnOnce() -> Result<Reply>) -> Result<Reply> {
    catch_unwind(AssertUnwindSafe(handle)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(anyhow!("internal error in the agent: {text}; its current step may be incomplete"))
    })
}

fn handle_request(
    request: Request,
    session: &SessionState,
    blobs: &BlobFetcher<'_>,
    sink: &RequestSink<'_>,
) -> Result<Reply> {
    let last_plan = || session.last_plan.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(match request {
        Request::Plan(catalog) => {
            let plan = provision::plan_catalog(catalog, blobs)?;
            let rows = plan.rows().to_vec();
            *last_plan() = Some(plan);
            Reply::Plan(crate::protocol::provision::CatalogPlan { changes: rows })
        }
        Request::Apply(apply) => {
            let plan = last_plan();
            let plan = plan.as_ref().ok_or_else(|| anyhow::anyhow!("nothing was planned on this channel"))?;
            let sink = AuditSink { sink, audit_log: &session.audit_log, plan };
            Reply::Apply(provision::apply_play(plan, &apply, blobs, &sink)?)
        }
        Request::Exec(command) => {
            let origin =
                RunOrigin { run: command.run.clone(), command: "exec".to_owned(), operator: command.operator.clone() };
            session.audit_log.begin_run(&origin)?;
            let reply = run_command(&command, sink);
            session.audit_log.record_change(&command.argv.join(" "), "exec", describe_failure(&reply).as_deref());
            reply?
        }
        Request::Lock(take) => {
            let result = session.host_lock.acquire(&take)?;
            if result == LockResult::Acquired {
                let LockRequest { run, command, operator, .. } = take;
                session.audit_log.begin_run(&RunOrigin { run, command, operator })?;
            }
            share_files_with_guards(session.host_lock.clone_files()?);
            Reply::Lock(result)
        }
        Request::ListLocks(ListLocks) => Reply::ListLocks(session.host_lock.list_holders()?),
        Request::Deploy(request) => {
            let change = change_of_deploy(&request);
            let reply = session.deploy_agent.handle_request(&request, blobs, sink).map(Reply::Deploy);
            record_reply(&session.audit_log, change, &reply);
            reply?
        }
        Request::Shard(shard::ShardRequest::StartRun(_)) if !session.host_lock.is_exclusive() => {
            anyhow::bail!("shards can be moved only under the host's lock")
        }
        Request::Shard(request) => {
            let change = change_of_shard(&request);
            let reply = rebalance::host::handle_request(request, blobs, sink).map(Reply::Shard);
            record_reply(&session.audit_log, change, &reply);
            reply?
        }
    })
}

fn run_command(command: &ExecRequest, sink: &RequestSink<'_>) -> Result<Reply> {
    let (program, arguments) = command.argv.split_first().ok_or_else(|| anyhow::anyhow!("no command"))?;
    let is_cancelled = || sink.is_cancelled();
    let program = Program::new(program).args(arguments).guarded(OnAgentDeath::Kill).cancel_when(&is_cancelled);
    let status = program.timeout(Duration::from_millis(command.timeout_ms)).stream(&mut |is_error, text| {
        let stream = if is_error { OutputStream::Err } else { OutputStream::Out };
        sink.emit(Event::Output { stream, text });
    })?;
    Ok(Reply::Exec(ExecResult { status }))
}

/// Carries one request's events and its stop flag.
struct RequestSink<'a> {
    request_id: u64,
    sender: &'a FrameSender,
    cancel_flag: &'a AtomicBool,
}

impl ProgressSink for RequestSink<'_> {
    fn emit(&self, event: Event) {
        self.sender.send_message(&AgentMessage::Event { id: self.request_id, event });
    }

    fn is_cancelled(&self) -> bool {
        self.cancel_flag.load(Ordering::SeqCst) || self.sender.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_failed_request() {
        let shard = 7;
        let error = catch_panic(|| panic!("shard {shard} has no slot")).unwrap_err().to_string();
        assert!(error.starts_with("internal error in the agent: shard 7 has no slot"), "{error}");
        let error = catch_panic(|| panic!("no slot")).unwrap_err().to_string();
        assert!(error.contains("no slot"), "{error}");
    }
}
