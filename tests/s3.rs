//! The S3 stores over real S3 servers: the contract, and what S3 alone can get wrong.
#![cfg(not(target_family = "wasm"))]

#[path = "support/s3_server.rs"]
mod s3_server;

use std::sync::Arc;

use eyot::store::s3::{PART_BYTES_MIN, S3};
use eyot::store::{BlobStore, Body, KeyValue, contract};

use s3_server::{Kind, S3Server};

fn on(kind: Kind, test: impl AsyncFnOnce(&S3Server)) {
    let server = S3Server::start(kind);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        ready(&server).await;
        test(&server).await;
    });
}

/// Waits until the server is up in earnest, and the bucket is there.
async fn ready(server: &S3Server) {
    let keys = server.open().key_value();
    for _ in 0..200 {
        if keys.list("", None, 1).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the S3 server gets no bucket");
}

async fn keep_contract(s3: &S3) {
    let keys: Arc<dyn KeyValue> = Arc::new(s3.key_value());
    for (name, clause) in contract::KEY_VALUE {
        eprintln!("key-value: {name}");
        clause(keys.clone()).await;
    }
    let blobs: Arc<dyn BlobStore> = Arc::new(s3.blob_store());
    for (name, clause) in contract::BLOB_STORE {
        let begin = std::time::Instant::now();
        clause(blobs.clone()).await;
        eprintln!("blob store: {name} in {} ms", begin.elapsed().as_millis());
    }
}

#[test]
fn seaweedfs_keeps_the_contract() {
    on(Kind::SeaweedFs, async |server| keep_contract(&server.open()).await);
}

/// What is left of R2's character: parts of one size.
#[test]
fn equal_parts_keep_the_contract() {
    on(Kind::SeaweedFs, async |server| {
        let mut settings = server.settings();
        (settings.equal_parts, settings.part_bytes) = (true, PART_BYTES_MIN);
        keep_contract(&s3_server::open(settings)).await;
    });
}
