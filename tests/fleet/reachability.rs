//! Ways to a host, and what is found out only with a host's facts.

use crate::hosts::lock_fleet;
use crate::project::FleetProject;

#[test]
fn hosts_are_reached_through_a_jump_host() {
    let Some(fleet) = lock_fleet() else { return };
    let mut project = FleetProject::with_fleet(&fleet);
    project.host_table("redis-02").insert("jump".to_owned(), "redis-01".into());
    project.write_files();
    let way = "printf '%s\\n' \"${SSH_CONNECTION%% *}\"";
    let from = |project: &FleetProject| {
        let output = project.run_dunlin(&["exec", "redis-02", "--", "sh", "-c", way]).assert_status(0);
        output.stdout.trim_start_matches("redis-02: ").trim().to_owned()
    };
    let jumped = project.hosts["hosts"]["redis-01"]["address"].as_str().unwrap().to_owned();
    // sudo leaves no SSH_CONNECTION: as the login user, who sees where the connection came from.
    project.host_table("redis-02").insert("become".to_owned(), false.into());
    project.write_files();
    assert_eq!(from(&project), jumped, "the connection did not come from the host that was to be jumped over");

    // The host on the way is checked as any other: a wrong key there stops both.
    let other = project.host_table("redis-03")["host_key"].clone();
    project.host_table("redis-01").insert("host_key".to_owned(), other);
    project.write_files();
    let refused = project.run_dunlin(&["exec", "redis-02", "--", "true"]).assert_status(4);
    refused.assert_snapshot("fleet-host-key-of-a-jump-host");
}

#[test]
fn undefined_template_variables_change_no_host() {
    let Some(fleet) = lock_fleet() else { return };
    let path = "/srv/dunlin-undefined*";
    fleet.remove_paths(path);
    let project = FleetProject::with_fleet(&fleet);
    std::fs::write(project.file_path("templates/undefined.conf"), "fine\nport {{ no_such_port }}\n").unwrap();
    project.write_play(
        "redis",
        "[[play.step]]\nfile = { dest = \"/srv/dunlin-undefined-1\", content = \"text\" }\n\
         [[play.step]]\ntemplate = { src = \"undefined.conf\", dest = \"/srv/dunlin-undefined-2\" }\n",
    );
    let refused = project.run_provision(&["--yes"]).assert_status(1);
    // One mistake is reported once.
    refused.assert_snapshot("fleet-undefined-variable");
    assert_eq!(fleet.run_as_root("redis-01", &format!("ls {path} 2>/dev/null || true")), "", "a host was changed");
}
