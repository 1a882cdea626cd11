//! ACL files as Redis 7.0 reads them.

use proptest::prelude::*;

use super::*;

const TEXT: &str = "user default off resetpass ~* &* +@all\nuser s017 on #ab ~* resetchannels -@all +@read +ping\n";

fn parse(text: &str) -> AclFile {
    AclFile::parse(text).unwrap()
}

fn message(text: &str) -> String {
    AclFile::parse(text).unwrap_err().to_string()
}

#[test]
fn turning_a_user_leaves_the_rest() {
    let off = switch_user(TEXT, "s017", false).unwrap();
    assert_eq!(parse(&off).is_user_enabled("s017"), Some(false));
    assert_eq!(switch_user(&off, "s017", true).unwrap(), TEXT);
    assert_eq!(switch_user(&off, "s017", false).unwrap(), off);
    assert_eq!(parse(&off).diff_users(&parse(TEXT)), [("s017".to_owned(), "is off")]);
    assert_eq!(parse(TEXT).users_on().collect::<Vec<_>>(), ["s017"]);
}

#[test]
fn lines_in_any_form_are_turned() {
    for (line, off) in [
        ("  user s017 on nopass ~* +@read", "  user s017 off nopass ~* +@read"),
        ("\tuser s017  nopass  ON ~*\r", "\tuser s017 off  nopass  ~*\r"),
        ("user s017", "user s017 off"),
        ("user s017 on reset on ~*", "user s017 reset off ~*"),
        ("user s017 on (~a* +get) ( %R~b on-x )", ""),
        ("user s017 on (~a* +get) ( %R~b  +set )", "user s017 off (~a* +get) ( %R~b  +set )"),
    ] {
        let text = format!("\n{line}\n\nuser other on nopass allkeys");
        match switch_user(&text, "s017", false) {
            Ok(edited) => assert_eq!(edited, format!("\n{off}\n\nuser other on nopass allkeys")),
            Err(error) => assert_eq!((error.to_string().as_str(), off), ("line 2: rule 3 is not an ACL rule", "")),
        }
    }
}

#[test]
fn an_edit_without_its_user_is_an_error() {
    assert_eq!(switch_user(TEXT, "s018", false), Err(AclError::NoUser("s018".to_owned())));
    assert_eq!(switch_user("", "s018", true).unwrap_err().to_string(), "no line defines the user s018");
}

#[test]
fn forms_of_the_same_rules_are_equal() {
    let saved = "user default off sanitize-payload resetchannels allchannels allkeys ALLCOMMANDS\n\
                 user s017 on nopass sanitize-payload #ab allkeys resetchannels +@read +PING\n";
    assert_eq!(parse(saved).diff_users(&parse(TEXT)), []);
    let hash = crate::plan::Digest::of_bytes(b"word");
    assert_eq!(parse("user a >word"), parse(&format!("user a #{}", hash.as_str())));
    assert_eq!(parse("user a >word <word"), parse("user a"));
    assert_eq!(parse("user a on nopass ~* +@all (~b +get) reset"), parse("user a"));
    assert_eq!(parse("user a (~b +get) clearselectors"), parse("user a"));
    assert_eq!(parse("user a %RW~b"), parse("user a ~b"));
    assert_ne!(parse("user a %R~b"), parse("user a ~b"));
    assert_eq!(parse("user a nopass resetpass"), parse("user a"));
    assert_eq!(parse("user a on").diff_users(&parse("user a on (+get)")), [("a".to_owned(), "has other selectors")]);
}

#[test]
fn what_redis_refuses_is_refused_with_its_line() {
    assert!(message("# users\nuser a on").starts_with("line 1: a line must start with `user`"));
    assert!(message("\n\nUSER a on").starts_with("line 3: a line must start with `user`"));
    assert!(message("user").starts_with("line 1: "));
    assert!(message("user  a on").contains("one space"));
    assert!(message("user a\ton").contains("not by tabs"));
    assert!(message("user a on (~b +get").contains("not closed"));
    assert!(message("user a on\nuser a off").starts_with("line 2: the user a is defined twice"));
    assert!(message("user a on ~* ~b").contains("follows `~*`"));
    assert_eq!(message("user a on word"), "line 1: rule 2 is not an ACL rule");
}

#[test]
fn a_default_user_without_the_rights_to_replay_is_found() {
    let missing = |rules: &str| parse(&format!("user default {rules}")).missing_replay_rights().join(" ");
    for rules in [
        "off resetpass ~* &* +@all",
        "on nopass ALLKEYS allchannels allcommands",
        "off -@all +@all ~a %RW~* &*",
        "off (~* &* +@all)",
    ] {
        assert_eq!(missing(rules), "", "{rules}");
    }
    for (rules, lacks) in [
        ("off resetchannels -@all", "~* &* +@all"),
        ("off +@all", "~* &*"),
        ("off resetchannels ~* +@all", "&*"),
        ("off ~* &* +@all -@dangerous", "+@all"),
        ("off ~* &* +@all -flushall +flushall", "+@all"),
        ("off ~* &* +@all reset", "~* &* +@all"),
        ("off ~* &* +@all resetkeys", "~*"),
        ("off (~* &* +@all) clearselectors", "~* &* +@all"),
        ("off %R~* %W~* &* +@all", "~*"),
        ("off ~* &* +@all db=0", "alldbs"),
    ] {
        assert_eq!(missing(rules), lacks, "{rules}");
    }
    // Redis then has its own default user, which may do everything.
    assert_eq!(require_replay_rights("user a on nopass"), Ok(()));
    let error = require_replay_rights("\nuser default off -@all\n").unwrap_err().to_string();
    assert!(error.starts_with("line 2: the user default lacks ~* &* +@all"), "{error}");
    assert!(error.contains(DEFAULT_USER_LINE), "{error}");
    assert_eq!(require_replay_rights(DEFAULT_USER_LINE), Ok(()));
}

/// A user's rules, without `on` and `off`.
fn any_rules() -> impl Strategy<Value = String> {
    let rule = prop::sample::select(vec![
        "reset",
        "nopass",
        "resetpass",
        ">pw",
        "#ab",
        "~a*",
        "%R~b",
        "resetkeys",
        "&c",
        "resetchannels",
        "+@read",
        "-@all",
        "+@all",
        "allcommands",
        "(~x +get)",
        "( +set  ~y )",
        "clearselectors",
        "sanitize-payload",
        "",
        "ON",
        "off",
        "\ton",
    ]);
    prop::collection::vec(rule, 0..9).prop_map(|rules| rules.iter().map(|rule| format!(" {rule}")).collect())
}

proptest! {
    #[test]
    fn an_edit_changes_one_users_state_and_nothing_else(
        lines in prop::collection::vec(("[ \t]{0,3}", any_rules(), "[ \t]{0,2}(\r?\n)(\n)?"), 1..5),
        on: bool,
        which: prop::sample::Index,
    ) {
        let user = |index: usize| format!("u{index}");
        let text: String =
            lines.iter().enumerate().map(|(n, (indent, rules, end))| format!("{indent}user {}{rules}{end}", user(n))).collect();
        let which = which.index(lines.len());
        let edited = switch_user(&text, &user(which), on).unwrap();
        let (before, after) = (parse(&text), parse(&edited));
        prop_assert_eq!(after.is_user_enabled(&user(which)), Some(on));
        prop_assert!(before.diff_users(&after).iter().all(|(name, _)| *name == user(which)));
        let untouched = |text: &str| {
            text.lines().filter(|line| !line.contains(&user(which))).map(str::to_owned).collect::<Vec<_>>()
        };
        prop_assert_eq!(untouched(&text), untouched(&edited));
        prop_assert_eq!(switch_user(&edited, &user(which), on), Ok(edited.clone()));
    }
}
