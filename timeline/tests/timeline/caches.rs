//! The client of memcached against a real server.

use timeline::cache::Memcached as MemcachedClient;

use crate::servers::Memcached;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_finds_nothing_does_not_stop_the_use_of_the_server() {
    let server = Memcached::start();
    let client = MemcachedClient::new(&[server.address()]);
    let keys = ["t:1".to_owned(), "t:2".to_owned()];
    assert!(client.get_many(&keys).await.is_empty());
    // A server that fails is left alone for a second; this one has not failed.
    client.set("t:2", "two").await;
    assert_eq!(client.get_many(&keys).await.get("t:2").map(String::as_str), Some("two"));
    client.delete("t:2").await;
    assert!(client.get_many(&keys).await.is_empty());
}
