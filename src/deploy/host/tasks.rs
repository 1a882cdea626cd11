//! Runs the tasks of a release and keeps their records.
//!
//! The start of an attempt is written before the command runs, and its end after it: an attempt without an end is one
//! whose result is unknown. A command continues when its agent dies, with its own lock, so that no second one starts
//! beside it.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Answer;
use super::activate::{config_meta, has_content, write_config};
use super::command::BindMount;
use super::layout::ServiceLayout;
use super::releases::{self, StoredRelease};
use super::state::DeployState;
use super::switch::Switch;
use crate::host_fs;
use crate::lock::file_lock::{Access, try_lock};
use crate::protocol::deploy::{DesiredState, Rejection, ReleaseTarget, ReleaseTask, TaskRecord, TaskRun, TaskStatus};
use crate::resources::atomic_file;

/// Records an attempt, or its result.
pub(super) fn record_task(layout: &ServiceLayout, record: &TaskRecord) -> Answer<()> {
    let mut state = DeployState::read(layout)?;
    if let Some(existing) = state.task_record(&record.name, &record.version)
        && existing.status == TaskStatus::Completed
        && record.status != TaskStatus::Completed
    {
        return Ok(Err(Rejection::Refused(format!(
            "task {} of release {} was completed by {}",
            existing.name, existing.version, existing.runner
        ))));
    }
    state.record_task(record.clone());
    state.write(layout)?;
    Ok(Ok(()))
}

/// Runs a task whose attempt is recorded as started by this run.
pub(super) fn run_task(switch: &Switch<'_>, target: &ReleaseTarget, task: &ReleaseTask, run: &str) -> Answer<TaskRun> {
    let mut state = DeployState::read(switch.layout)?;
    let version = &target.version;
    let record = match state.task_record(&task.name, version) {
        Some(record) if record.status == TaskStatus::Completed => {
            return Ok(Ok(TaskRun { ran: false, failure: None }));
        }
        Some(record) if record.status == TaskStatus::Started && record.run == run => record.clone(),
        _ => {
            return Ok(Err(Rejection::Refused(format!(
                "task {} of release {version} is not recorded as started by this run",
                task.name
            ))));
        }
    };
    let Some(desired) = releases::read_desired(switch.layout, target)? else {
        return Ok(Err(Rejection::Refused(format!("release {version} is not staged on this host"))));
    };
    if switch.sink.is_cancelled() {
        return Ok(Err(Rejection::Cancelled));
    }
    let Some(lock) = lock_tasks(switch.layout)? else {
        return Ok(Err(Rejection::Refused(
            "a process of an earlier task of the service still runs on this host; wait until it ends".to_owned(),
        )));
    };
    let failure = execute_task(switch, &desired, task, lock).unwrap_or_else(|error| Some(format!("{error:#}")));
    let status = if failure.is_none() { TaskStatus::Completed } else { TaskStatus::Failed };
    state.record_task(TaskRecord { status, ..record });
    state.write(switch.layout)?;
    Ok(Ok(TaskRun { ran: true, failure }))
}

/// Takes the lock that a task's processes hold; `None` while a process of an earlier one has it.
fn lock_tasks(layout: &ServiceLayout) -> Result<Option<File>> {
    let file = layout.open_task_lock()?;
    let is_locked = try_lock(&file, Access::Exclusive).context("locking the tasks of the service")?;
    Ok(is_locked.then_some(file))
}

/// Runs the command with the configuration of its release; returns why it failed.
fn execute_task(switch: &Switch<'_>, desired: &DesiredState, task: &ReleaseTask, lock: File) -> Result<Option<String>> {
    let timeout = Duration::from_millis(task.timeout_ms);
    let mut overlay = ConfigOverlay::create(switch.layout, desired)?;
    let completed =
        switch.with_command_context(desired, |context| context.run_task(&task.argv, timeout, &overlay.mounts, lock))?;
    overlay.remove_copies()?;
    if completed.is_success() {
        overlay.added_files.clear();
    }
    overlay.remove_added_files()?;
    Ok((!completed.is_success()).then(|| completed.describe()))
}

/// The configuration of a release that does not serve yet, as a task sees it.
///
/// A file that the host does not have is put in its place. A file that the host has with other content stays as it is:
/// the task sees a copy with the new content in its place.
struct ConfigOverlay {
    folder: PathBuf,
    mounts: Vec<BindMount>,
    added_files: Vec<PathBuf>,
}

impl ConfigOverlay {
    fn create(layout: &ServiceLayout, desired: &DesiredState) -> Result<Self> {
        let folder = layout.records_dir().join("task-config");
        host_fs::remove_tree(&folder)?;
        host_fs::ensure_folder(&folder, 0o700)?;
        let mut overlay = Self { folder, mounts: Vec::new(), added_files: Vec::new() };
        let stored = StoredRelease::read(layout, &desired.manifest.version)?;
        let stored = stored.with_context(|| format!("release {} is missing", desired.manifest.version))?;
        for (number, config) in desired.config.configs.iter().enumerate() {
            let bytes = stored.read_text(&config.digest)?;
            if !config.dest.try_exists().with_context(|| config.dest.display().to_string())? {
                write_config(config, &bytes)?;
                overlay.added_files.push(config.dest.clone());
                continue;
            }
            if !has_content(&config.dest, &bytes)? {
                let copy = overlay.folder.join(number.to_string());
                atomic_file::write_file(&copy, &bytes, &config_meta(config))?;
                overlay.mounts.push(BindMount { source: copy, target: config.dest.clone() });
            }
        }
        ensure!(
            overlay.mounts.is_empty() || rustix::process::geteuid().is_root(),
            "a task that runs before the switch sees the new configuration only if the agent runs as root"
        );
        Ok(overlay)
    }

    fn remove_copies(&self) -> Result<()> {
        Ok(host_fs::remove_tree(&self.folder)?)
    }

    fn remove_added_files(&self) -> Result<()> {
        Ok(self.added_files.iter().try_for_each(|path| host_fs::remove_file(path))?)
    }
}
