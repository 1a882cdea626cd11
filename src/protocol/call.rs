//! Requests tied to the types of their replies. Each request about shards is a type of its own; so is each request about a
//! service (`protocol::deploy`).

#[allow(clippy::wildcard_imports, reason = "the types that the requests about shards are declared with")]
use super::shard::*;
use super::{Reply, Request, shard::for_each_shard_request};

/// A request of one kind.
pub trait Call {
    /// The agent's answer, unless the request fails.
    type Reply;

    /// Its name, for errors.
    const NAME: &'static str;

    /// Returns the message that asks for it.
    fn into_request(self) -> Request;

    /// Returns the answer in a reply; `None` for the reply to another kind of request.
    fn from_reply(reply: Reply) -> Option<Self::Reply>;
}

/// Implements [`Call`] for types that are the content of one variant of both [`Request`] and [`Reply`].
macro_rules! impl_call {
    ($($variant:ident: $call:ty => $reply:ty;)*) => {$(
        impl Call for $call {
            type Reply = $reply;
            const NAME: &'static str = stringify!($variant);

            fn into_request(self) -> Request {
                Request::$variant(self)
            }

            fn from_reply(reply: Reply) -> Option<Self::Reply> {
                match reply {
                    Reply::$variant(reply) => Some(reply),
                    _ => None,
                }
            }
        }
    )*};
}

impl_call! {
    Plan: super::provision::Catalog => super::provision::CatalogPlan;
    Apply: super::provision::ApplyPlay => super::provision::PlayResult;
    Exec: super::ExecRequest => super::ExecResult;
    Lock: super::lock::LockRequest => super::lock::LockResult;
    ListLocks: super::lock::ListLocks => Vec<super::lock::LockHolder>;
}

/// Declares a type for each request about shards, with the request's name.
macro_rules! declare_shard_calls {
    ($($(#[$doc:meta])* $name:ident($content:ty) -> $reply:ty,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(pub $content);

        impl Call for $name {
            type Reply = $reply;
            const NAME: &'static str = stringify!($name);

            fn into_request(self) -> Request {
                Request::Shard(ShardRequest::$name(self.0))
            }

            fn from_reply(reply: Reply) -> Option<Self::Reply> {
                match reply {
                    Reply::Shard(ShardReply::$name(reply)) => Some(reply),
                    _ => None,
                }
            }
        }
    )*};
}

for_each_shard_request!(declare_shard_calls);
