//! Spin's interfaces as Rust traits, generated from `wit/`.

wasmtime::component::bindgen!({
    path: "wit",
    world: "spin",
    imports: {
        default: trappable,
    },
    with: {
        "spin:key-value/key-value.store": crate::key_value::OpenStore,
        "spin:sqlite/sqlite.connection": crate::sqlite::OpenConnection,
        "wasi:keyvalue/store.bucket": crate::wasi_key_value::OpenBucket,
    },
});

pub use spin::key_value::key_value;
pub use spin::sqlite::sqlite;
pub use spin::variables::variables;
pub use wasi::config::store as wasi_config;
pub use wasi::keyvalue::store as wasi_key_value;
