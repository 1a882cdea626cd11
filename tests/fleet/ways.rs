//! Ways to a host, and what is found out only with a host's facts.

use crate::hosts::fleet;
use crate::project::Project;

#[test]
fn a_host_is_reached_over_another_one() {
    let Some(fleet) = fleet() else { return };
    let mut project = Project::new(&fleet);
    project.host("redis-02").insert("jump".to_owned(), "redis-01".into());
    project.write();
    let way = "printf '%s\\n' \"${SSH_CONNECTION%% *}\"";
    let from = |project: &Project| {
        let output = project.dunlin(&["exec", "redis-02", "--", "sh", "-c", way]).ends(0);
        output.stdout.trim_start_matches("redis-02: ").trim().to_owned()
    };
    let jumped = project.hosts["hosts"]["redis-01"]["address"].as_str().unwrap().to_owned();
    // sudo leaves no SSH_CONNECTION: as the login user, who sees where the connection came from.
    project.host("redis-02").insert("become".to_owned(), false.into());
    project.write();
    assert_eq!(from(&project), jumped, "the connection did not come from the host that was to be jumped over");

    // The host on the way is checked as any other: a wrong key there stops both.
    let other = project.host("redis-03")["host_key"].clone();
    project.host("redis-01").insert("host_key".to_owned(), other);
    project.write();
    let refused = project.dunlin(&["exec", "redis-02", "--", "true"]).ends(4);
    let hint = "replace host_key under [hosts.redis-01]";
    refused.complains(&["redis-02: the way there leads over redis-01: its host key is not the pinned one", hint]);
}

#[test]
fn a_template_with_an_undefined_variable_changes_no_host() {
    let Some(fleet) = fleet() else { return };
    let path = "/srv/dunlin-undefined*";
    fleet.clear(path);
    let project = Project::new(&fleet);
    std::fs::write(project.path("templates/undefined.conf"), "fine\nport {{ no_such_port }}\n").unwrap();
    project.play(
        "redis",
        "[[play.step]]\nfile = { dest = \"/srv/dunlin-undefined-1\", content = \"text\" }\n\
         [[play.step]]\ntemplate = { src = \"undefined.conf\", dest = \"/srv/dunlin-undefined-2\" }\n",
    );
    let refused = project.provision(&["--yes"]).ends(1);
    let found = "redis-01, redis-02, redis-03; no host was changed";
    let refused = refused.complains(&["no_such_port", "templates/undefined.conf:2:9", found]);
    assert_eq!(refused.stderr.matches("error: variable").count(), 1, "one mistake is told once:\n{}", refused.stderr);
    assert_eq!(fleet.root("redis-01", &format!("ls {path} 2>/dev/null || true")), "", "a host was changed");
}
