//! Every statement that the service runs while it serves, by name. None has an OFFSET; pages are ranges of ids.
//!
//! The statements of users, follows, flags and counters run on the users database, those of tweets on the tweets
//! database; no statement reads both.

/// Defines the statements as constants and lists them in `ALL`, for the test that reads them.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:literal;)*) => {
        $($(#[$doc])* pub const $name: Statement = Statement { name: stringify!($name), text: $sql };)*
        /// The statements of the service.
        pub const ALL: &[Statement] = &[$($name),*];
    };
}

/// A statement.
#[derive(Debug, Clone, Copy)]
pub struct Statement {
    /// Its name, the value of `op` in `db_queries_total`.
    pub name: &'static str,
    /// The text.
    pub text: &'static str,
}

statements! {
    /// Adds a user.
    INSERT_USER = "insert into users (id, name) values (next_id(), $1) returning id";
    /// Reads users by id.
    USERS_BY_ID = "select id, name, followers_count, following_count, tweets_count from users where id = any($1)";
    /// Reads a page of users.
    USERS_PAGE = "select id, name, followers_count, following_count, tweets_count from users \
                  where id <= $1 and id > $2 order by id desc limit $3";
    /// Adds an edge, and its event with it.
    INSERT_FOLLOW = "with edge as (insert into follows (followee_id, follower_id) values ($1, $2) \
                     on conflict do nothing returning 1) \
                     insert into outbox (kind, payload) select 'follow', $3 from edge";
    /// Removes an edge, and adds its event.
    DELETE_FOLLOW = "with edge as (delete from follows where followee_id = $1 and follower_id = $2 returning 1) \
                     insert into outbox (kind, payload) select 'unfollow', $3 from edge";
    /// Returns whether an edge exists.
    FOLLOW_EXISTS = "select 1 from follows where followee_id = $1 and follower_id = $2";
    /// Lists the followees of a user.
    FOLLOWEES = "select followee_id from follows where follower_id = $1";
    /// Lists those of some authors whom a user follows.
    FOLLOWEES_AMONG = "select followee_id from follows where follower_id = $1 and followee_id = any($2)";
    /// Finds the end of the next chunk of each author's followers: their number and the last one.
    FOLLOWER_CHUNKS = "select chunk.count, chunk.last from unnest($1::bigint[], $2::bigint[]) with ordinality \
                       as asked (author, after, place) cross join lateral (select count(*) as count, \
                       max(follower_id) as last from (select follower_id from follows where followee_id = asked.author \
                       and follower_id > asked.after order by follower_id limit $3) page) chunk order by place";
    /// Lists the followers in ranges of ids, both ends included.
    FOLLOWER_RANGES = "select asked.place, follows.follower_id from unnest($1::bigint[], $2::bigint[], $3::bigint[]) \
                       with ordinality as asked (author, first, last, place) join follows \
                       on follows.followee_id = asked.author \
                       and follows.follower_id between asked.first and asked.last";
    /// Lists the authors whose tweets are merged when a timeline is read.
    FLAGGED_AUTHORS = "select user_id, pull_author, changed_at < now() - make_interval(secs => $1) from user_flags";
    /// Ends the merging of an author whose tweets are in the timelines of all followers again.
    DELETE_FLAG = "delete from user_flags where user_id = $1 and not pull_author";
    /// Flags authors who have reached the threshold.
    FLAG_AUTHORS = "insert into user_flags (user_id, pull_author) select id, true from users \
                    where id = any($1) and followers_count >= $2 on conflict (user_id) do update \
                    set pull_author = true, changed_at = now() where not user_flags.pull_author";
    /// Pushes the tweets of authors again who have fallen below the lower threshold.
    UNFLAG_AUTHORS = "update user_flags set pull_author = false, changed_at = now() where pull_author \
                      and user_id in (select id from users where id = any($1) and followers_count < $2)";
    /// Notes events as applied; returns those that were not yet.
    MARK_EVENTS = "insert into counter_applied (event_id, source) select * from unnest($1::bigint[], $2::smallint[]) \
                   on conflict do nothing returning event_id, source";
    /// Adds to the counters of users. The rows are locked in the order of their ids, so that two workers never wait for
    /// each other.
    ADD_TO_COUNTERS = "with change as (select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) \
                       as change (id, followers, following, tweets)), locked as (select users.id from users \
                       where id = any($1) order by id for update) \
                       update users set followers_count = followers_count + change.followers, \
                       following_count = following_count + change.following, \
                       tweets_count = tweets_count + change.tweets from change join locked using (id) \
                       where users.id = change.id";
    /// Requests that the timelines of shards are rebuilt; who rebuilds them already has begun too early.
    REQUEST_REFRESH = "insert into shard_refreshes (shard) select shard from unnest($1::integer[]) as shard order by shard \
                       on conflict (shard) do update set begun_by = null where shard_refreshes.begun_by is not null";
    /// Lists the shards whose timelines are to be rebuilt.
    REQUESTED_REFRESHES = "select shard from shard_refreshes";
    /// Begins to rebuild the timelines of a shard, unless somebody else does.
    BEGIN_REFRESH = "update shard_refreshes set begun_by = $2, claimed_until = clock_timestamp() + make_interval(secs => $3) \
                     where shard = $1 and (begun_by is null or claimed_until < clock_timestamp())";
    /// Extends the time that this may take.
    EXTEND_REFRESH = "update shard_refreshes set claimed_until = clock_timestamp() + make_interval(secs => $3) \
                      where shard = $1 and begun_by = $2";
    /// Ends it, unless it was requested again meanwhile.
    END_REFRESH = "delete from shard_refreshes where shard = $1 and begun_by = $2";
    /// Forgets events that cannot be delivered again any more.
    PRUNE_EVENTS = "delete from counter_applied where event_id < $1";
    /// Counts what the counters of some users must say, beside what they say.
    TRUE_COUNTERS = "select id, followers_count, following_count, tweets_count, \
                     (select count(*) from follows where followee_id = users.id), \
                     (select count(*) from follows where follower_id = users.id) \
                     from users where id > $1 order by id limit $2";

    /// Counts the tweets of some authors.
    TRUE_TWEETS = "select author_id, count(*) from tweets where author_id = any($1) and deleted_at is null \
                   group by author_id";
    /// Adds a tweet, and its event with it.
    INSERT_TWEET = "with tweet as (insert into tweets (id, author_id, body) values (next_id(), $1, $2) returning id), \
                    event as (insert into outbox (kind, payload) select 'tweet_added', \
                    json_build_object('tweet_id', id, 'author_id', $1::bigint, 'request_id', $3::text)::text from tweet) \
                    select id from tweet";
    /// Adds a tweet unless its key was used before.
    INSERT_TWEET_ONCE = "with once as (insert into idempotency (key, response) values ($4, \
                         json_build_object('id', next_id(), 'digest', $5::text)::text) on conflict do nothing \
                         returning (response::json->>'id')::bigint as id), \
                         tweet as (insert into tweets (id, author_id, body) select id, $1, $2 from once returning id), \
                         event as (insert into outbox (kind, payload) select 'tweet_added', \
                         json_build_object('tweet_id', id, 'author_id', $1::bigint, 'request_id', $3::text)::text \
                         from tweet) select id from tweet";
    /// Reads the response to the first request with a key.
    IDEMPOTENT_RESPONSE = "select response from idempotency where key = $1";
    /// Forgets keys that are no longer used.
    PRUNE_KEYS = "delete from idempotency where created_at < now() - make_interval(secs => $1)";
    /// Marks a tweet as deleted, and adds its event.
    DELETE_TWEET = "with tweet as (update tweets set deleted_at = now() where id = $1 and author_id = $2 \
                    and deleted_at is null returning id), \
                    event as (insert into outbox (kind, payload) select 'tweet_deleted', \
                    json_build_object('tweet_id', id, 'author_id', $2::bigint, 'request_id', $3::text)::text from tweet) \
                    select id from tweet";
    /// Reads the author of a tweet, also of a deleted one.
    TWEET_AUTHOR = "select author_id from tweets where id = $1";
    /// Reads tweets by id.
    TWEETS_BY_ID = "select id, author_id, body from tweets where id = any($1) and deleted_at is null";
    /// Lists those of some tweets that are deleted.
    DELETED_AMONG = "select id from tweets where id = any($1) and deleted_at is not null";
    /// Lists an author's newest tweets.
    AUTHOR_PAGE = "select id from tweets where author_id = $1 and deleted_at is null and id <= $2 and id > $3 \
                   order by id desc limit $4";
    /// Lists the newest tweets of some authors, up to `$4` of each.
    AUTHORS_PAGE = "select asked.author, tweet.id from unnest($1::bigint[]) as asked (author) cross join lateral \
                    (select id from tweets where author_id = asked.author and deleted_at is null and id <= $2 \
                    and id > $3 order by id desc limit $4) tweet order by tweet.id desc limit $5";
    /// Lists the newest tweets of all.
    PUBLIC_PAGE = "select id from tweets where id <= $1 and id > $2 and deleted_at is null order by id desc limit $3";

    /// Claims the oldest events that no relay works on.
    CLAIM_EVENTS = "with oldest as materialized (select id from outbox where claimed_until is null \
                    or claimed_until < clock_timestamp() order by id limit $1 for update skip locked) \
                    update outbox set claimed_until = clock_timestamp() + make_interval(secs => $2) \
                    where id = any(array(select id from oldest)) \
                    returning id, kind, payload, (extract(epoch from created_at) * 1000)::bigint";
    /// Removes events that were published.
    DELETE_EVENTS = "delete from outbox where id = any($1)";
    /// Returns the age of the oldest event in seconds.
    OLDEST_EVENT = "select extract(epoch from clock_timestamp() - created_at)::float8 from outbox order by id limit 1";

    /// Adds messages to the queue.
    ENQUEUE = "insert into queue (queue, payload, visible_at) select queue, payload, \
               clock_timestamp() + make_interval(secs => delay) \
               from unnest($1::text[], $2::text[], $3::float8[]) as message (queue, payload, delay)";
    /// Takes the oldest messages of a queue that no worker holds.
    DEQUEUE = "with oldest as materialized (select id from queue where queue = $1 \
               and visible_at <= clock_timestamp() order by id limit $2 for update skip locked) \
               update queue set visible_at = clock_timestamp() + make_interval(secs => $3), attempts = attempts + 1 \
               where queue = $1 and id = any(array(select id from oldest)) returning id, payload, attempts";
    /// Removes messages that were handled.
    ACK = "delete from queue where queue = $1 and id = any($2)";
    /// Makes messages visible again at once.
    RELEASE = "update queue set visible_at = clock_timestamp() where queue = $1 and id = any($2)";
    /// Moves messages to another queue.
    MOVE = "with moved as (delete from queue where queue = $1 and id = any($2) returning payload) \
            insert into queue (queue, payload) select $3, payload from moved";
    /// Counts the messages of a queue, up to `$2`.
    DEPTH = "select count(*) from (select 1 from queue where queue = $1 limit $2) counted";
}
