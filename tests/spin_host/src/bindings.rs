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
    },
});

pub use spin::key_value::key_value;
pub use spin::sqlite::sqlite;
pub use spin::variables::variables;
