//! What the databases are asked: no OFFSET, no trigger, and the index that is meant.

use timeline::database::sql;

use crate::setup::{Kind, Service};

#[test]
fn no_statement_has_an_offset() {
    assert!(sql::ALL.len() > 30);
    for statement in sql::ALL {
        let words: Vec<&str> = statement.text.split_whitespace().collect();
        assert!(!words.iter().any(|word| word.eq_ignore_ascii_case("offset")), "{}", statement.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_has_no_trigger_and_only_the_indexes_of_the_schema() {
    let service = Service::start(Kind::Pull).await;
    let sql = |text: &str| service.postgres.sql(&service.users_url, text);
    assert_eq!(sql("select count(*) from pg_trigger where not tgisinternal"), "0");
    let indexes = sql("select indexname from pg_indexes where schemaname = 'public' order by 1");
    let expected = [
        "counter_applied_pkey",
        "follows_pkey",
        "follows_reverse",
        "idempotency_pkey",
        "outbox_pkey",
        "queue_pkey",
        "schema_version_pkey",
        "shard_refreshes_pkey",
        "tweets_author",
        "tweets_pkey",
        "user_flags_pkey",
        "users_pkey",
    ];
    assert_eq!(indexes.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_statements_use_their_indexes() {
    let service = Service::start(Kind::Pull).await;
    let sql = |text: &str| service.postgres.sql(&service.users_url, text);
    sql("insert into users (id, name) select n, 'u' from generate_series(1, 20000) n");
    sql("insert into follows select (n * 7919) % 2000 + 1, n from generate_series(1, 20000) n on conflict do nothing");
    sql("insert into follows select n % 200 + 2, 1 from generate_series(1, 200) n on conflict do nothing");
    sql(
        "insert into tweets (id, author_id, body) select n * 4096, n % 2000 + 1, 'x' from generate_series(1, 100000) n",
    );
    sql("insert into outbox (kind, payload) select 'x', '{}' from generate_series(1, 100000)");
    sql("insert into queue (queue, payload) select 'q' || n % 10, '{}' from generate_series(1, 20000) n");
    sql("analyze");
    let newest = "9007199254740991, 0";
    for (statement, params, indexes) in [
        (sql::USERS_BY_ID, "array[1, 2, 3]", vec!["users_pkey"]),
        (sql::FOLLOWEES, "1", vec!["follows_reverse"]),
        (sql::FOLLOWEES_AMONG, "1, array[2, 3]", vec!["follows_"]),
        (sql::FOLLOWER_CHUNKS, "array[5, 6], array[0, 0], 2000", vec!["follows_pkey"]),
        (sql::FOLLOWER_RANGES, "array[5, 6], array[0, 0], array[9000, 9000]", vec!["follows_pkey"]),
        (sql::TWEETS_BY_ID, "array[4096, 8192]", vec!["tweets_pkey"]),
        (sql::DELETED_AMONG, "array[4096, 8192]", vec!["tweets_pkey"]),
        (sql::AUTHOR_PAGE, &format!("7, {newest}, 50"), vec!["tweets_author"]),
        (sql::AUTHORS_PAGE, &format!("array[7, 8, 9], {newest}, 50, 50"), vec!["tweets_author"]),
        (sql::PUBLIC_PAGE, &format!("{newest}, 50"), vec!["tweets_pkey"]),
        (sql::USERS_PAGE, &format!("{newest}, 50"), vec!["users_pkey"]),
        (sql::CLAIM_EVENTS, "500, 10", vec!["outbox_pkey"]),
        (sql::DEQUEUE, "'q3', 30, 30", vec!["queue_pkey"]),
        (sql::OLDEST_EVENT, "", vec!["outbox_pkey"]),
    ] {
        let call = if params.is_empty() { String::new() } else { format!("({params})") };
        let plan = sql(&format!("prepare s as {}; explain (costs off) execute s{call}; deallocate s", statement.text));
        for index in indexes {
            assert!(plan.contains(index), "{}: not {index}:\n{plan}", statement.name);
        }
        for table in ["tweets", "follows", "users", "queue", "outbox"] {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{}:\n{plan}", statement.name);
        }
    }
}
