//! The RabbitMQ server on a host, through `rabbitmqctl`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;
use serde_json::Value;

use crate::process::Program;
use crate::resources::{HostView, ReadOutcome};

/// The program itself: Debian's wrapper of the same name gives arguments to a shell.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// The user of the server, who can read its cookie, and the user's home.
const SERVER_USER: &str = "rabbitmq";
const SERVER_HOME: &str = "/var/lib/rabbitmq";
/// Time limit of one call; a start of the program alone takes some seconds.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The longest name.
const MAX_NAME_BYTES: usize = 255;

/// Returns all that the server defines, as `rabbitmqctl export_definitions` has it. The server may not be there yet
/// while earlier steps are pending. The answer is kept for later steps of the same plan.
///
/// # Errors
/// Returns an error if the server does not answer and no earlier step can change that.
pub(super) fn read_definitions(view: &mut HostView) -> Result<ReadOutcome<Value>> {
    const QUESTION: &str = "rabbitmq definitions";
    if let Some(answer) = view.service_answer(QUESTION) {
        return Ok(ReadOutcome::Known(answer.clone()));
    }
    let output = program(&["export_definitions", "-"]).output();
    let has_answered = output.as_ref().is_ok_and(|output| output.status.success());
    if !has_answered && view.has_pending_steps() {
        return Ok(ReadOutcome::UnknownUntilApply("RabbitMQ answers only after an earlier step".to_owned()));
    }
    let output = output?;
    if !output.status.success() {
        bail!("RabbitMQ does not answer: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let answer: Value = serde_json::from_slice(&output.stdout).context("reading the definitions of RabbitMQ")?;
    view.keep_service_answer(QUESTION, answer.clone());
    Ok(ReadOutcome::Known(answer))
}

/// Returns the entries of one kind (`users`, `vhosts`, `permissions`, `policies`) whose fields have the given values.
pub(super) fn find_entries<'a>(definitions: &'a Value, kind: &str, fields: &[(&str, &str)]) -> Vec<&'a Value> {
    let is_wanted = |entry: &&Value| fields.iter().all(|(field, value)| entry[*field] == **value);
    definitions[kind].as_array().map(|entries| entries.iter().filter(is_wanted).collect()).unwrap_or_default()
}

/// Refuses a step whose virtual host does not exist and is not made by an earlier step.
///
/// # Errors
/// Returns an error if there is no such virtual host.
pub(super) fn require_vhost(view: &HostView, definitions: &Value, vhost: &str) -> Result<()> {
    let exists = match view.predicted_object(&vhost_object(vhost)) {
        Some(predicted) => predicted.is_some(),
        None => !find_entries(definitions, "vhosts", &[("name", vhost)]).is_empty(),
    };
    if exists {
        return Ok(());
    }
    bail!("there is no virtual host {vhost}; a `rabbitmq_vhost` step before this one can create it")
}

/// Returns the name under which the state of a virtual host is predicted.
pub(super) fn vhost_object(vhost: &str) -> String {
    format!("rabbitmq vhost {vhost}")
}

/// Runs a command.
///
/// # Errors
/// Returns the error of the program.
pub(super) fn run(args: &[&str]) -> Result<()> {
    program(args).run().map(drop)
}

/// Runs a command that reads a password from its standard input: every user can read arguments.
///
/// # Errors
/// Returns an error without the program's output if it fails.
pub(super) fn run_with_password(args: &[&str], password: &str) -> Result<()> {
    // no options: the wrapper of RabbitMQ 4 counts the arguments, and connects the input only without a password among
    // them
    let program = program_with(args).hide_output(&format!("rabbitmqctl {}", args.join(" ")));
    program.input(password.as_bytes().to_vec()).run().map(drop)
}

fn program(args: &[&str]) -> Program<'static> {
    program_with(&[&["-q"], args].concat())
}

fn program_with(args: &[&str]) -> Program<'static> {
    let mut argv: Vec<&str> = if geteuid().is_root() { vec!["runuser", "-u", SERVER_USER, "--"] } else { Vec::new() };
    argv.push(PROGRAM);
    argv.extend(args);
    // Erlang 27 of Debian 13 ends with a crash in a folder that its user cannot read, as /root is
    Program::new(argv[0]).args(&argv[1..]).env("HOME", SERVER_HOME).folder(Path::new("/")).timeout(TIMEOUT)
}

/// Refuses a name that a program could take for an option, and an empty one.
///
/// # Errors
/// Returns a description of the problem that begins with the key.
pub(super) fn check_name(key: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.starts_with('-') || name.chars().any(char::is_control) {
        return Err(format!(
            "{key} must have 1 to {MAX_NAME_BYTES} bytes, no control characters, and no `-` in front, not {name:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_found_by_their_fields() {
        let definitions = json!({ "permissions": [
            { "user": "a", "vhost": "/", "read": "x" }, { "user": "b", "vhost": "/", "read": "y" },
        ] });
        let found = find_entries(&definitions, "permissions", &[("user", "b"), ("vhost", "/")]);
        assert_eq!(found, [&definitions["permissions"][1]]);
        assert!(find_entries(&definitions, "users", &[]).is_empty());
    }

    #[test]
    fn predicted_vhosts_count() {
        let definitions = json!({ "vhosts": [{ "name": "/" }] });
        let mut view = HostView::current();
        assert!(require_vhost(&view, &definitions, "/").is_ok());
        assert!(require_vhost(&view, &definitions, "app").is_err());
        view.predict_object(&vhost_object("app"), Some(json!({})));
        view.predict_object(&vhost_object("/"), None);
        assert!(require_vhost(&view, &definitions, "app").is_ok());
        assert!(require_vhost(&view, &definitions, "/").is_err());
    }
}
