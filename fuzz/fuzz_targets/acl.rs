//! ACL files of Redis.
#![no_main]

use dunlin::resources::redis_shard::acl::{AclFile, require_replay_rights, rules_of, switch_user};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = require_replay_rights(text);
    let Ok(file) = AclFile::parse(text) else { return };
    assert!(file.diff_users(&file).is_empty(), "a file differs from itself");
    for user in file.users_on().take(4) {
        rules_of(text, user).expect("a valid file").expect("a user of the file");
        if let Ok(switched) = switch_user(text, user, false) {
            let switched = AclFile::parse(&switched).expect("an edited file is valid");
            assert_eq!(switched.is_user_enabled(user), Some(false));
        }
    }
});
