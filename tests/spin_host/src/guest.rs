//! One instance of the component: the services that the instance may reach, and how the instance is
//! made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::error::Context as _;
use wasmtime::{Config, Engine, Result, Store, ensure};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_http::{p2, p3};

use crate::allowed::AllowedHosts;
use crate::bindings;
use crate::calls::Calls;
use crate::key_value::KeyValue;
use crate::options::{Mount, Options};
use crate::outbound::PlainHttp;
use crate::sqlite::Sqlite;
use crate::variables::Variables;

/// The services that all instances share.
pub struct Services {
    pub calls: Calls,
    pub key_value: Arc<KeyValue>,
    pub sqlite: Sqlite,
    pub variables: Variables,
    pub allowed_hosts: Arc<AllowedHosts>,
    mounts: Vec<Mount>,
}

impl Services {
    pub fn open(options: &Options) -> Result<Self> {
        for Mount { host, .. } in &options.mounts {
            ensure!(host.is_dir(), "{} is not a directory", host.display());
        }
        let key_value = KeyValue::open(&options.state, options.value_bytes_max, options.manners)
            .context("cannot open the key-value store")?;
        let variables = Variables::new(&options.variables);
        let allowed_hosts = AllowedHosts::read(options.manifest.as_deref(), &variables)?;
        Ok(Self {
            calls: Calls::default(),
            key_value: Arc::new(key_value),
            sqlite: Sqlite::new(&options.state, options.manners),
            variables,
            allowed_hosts: Arc::new(allowed_hosts),
            mounts: options.mounts.clone(),
        })
    }
}

/// The host's data behind one instance.
pub struct Guest {
    pub services: Arc<Services>,
    pub table: ResourceTable,
    pub open_stores: u32,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: PlainHttp,
}

impl Guest {
    pub fn new(services: Arc<Services>) -> Result<Self> {
        let mut wasi = WasiCtx::builder();
        // Stdout is reserved for the line that names the host's address.
        wasi.stdout(std::io::stderr()).stderr(std::io::stderr());
        for Mount { host, guest } in &services.mounts {
            wasi.preopened_dir(host, guest, FsPerms::ReadWrite)
                .with_context(|| format!("cannot mount {}", host.display()))?;
        }
        let outbound = PlainHttp { allowed_hosts: services.allowed_hosts.clone() };
        Ok(Self {
            services,
            table: ResourceTable::new(),
            open_stores: 0,
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            outbound,
        })
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Loads and links the component, from `compiled` unless that file is older than the component.
/// Otherwise compiles the component.
pub fn load(file: &Path, compiled: Option<&Path>) -> Result<ProxyPre<Guest>> {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    let engine = Engine::new(&config)?;
    let component = match compiled {
        Some(compiled) => load_compiled(&engine, file, compiled)?,
        None => Component::from_file(&engine, file)?,
    };
    let linked = linker(&engine)?.instantiate_pre(&component)?;
    match p3::bindings::ServicePre::new(linked.clone()) {
        Ok(service) => Ok(ProxyPre::P3(service)),
        Err(_) => Ok(ProxyPre::P2(p2::bindings::ProxyPre::new(linked)?)),
    }
}

fn load_compiled(engine: &Engine, file: &Path, compiled: &Path) -> Result<Component> {
    if is_fresh(file, compiled) {
        // SAFETY: this program wrote the file and put the file in place by a rename. wasmtime
        // itself refuses a file made by another version or with another configuration.
        if let Ok(component) = unsafe { Component::deserialize_file(engine, compiled) } {
            return Ok(component);
        }
    }
    let component = Component::from_file(engine, file)?;
    let mut unfinished = PathBuf::from(compiled);
    unfinished.add_extension(std::process::id().to_string());
    std::fs::write(&unfinished, component.serialize()?)?;
    std::fs::rename(&unfinished, compiled)?;
    Ok(component)
}

fn is_fresh(file: &Path, compiled: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    matches!((modified(file), modified(compiled)), (Ok(file), Ok(compiled)) if compiled > file)
}

fn linker(engine: &Engine) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    // Rust's standard library still speaks WASI 0.2.
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    p3::add_to_linker(&mut linker)?;
    bindings::Spin::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    Ok(linker)
}

pub fn store(component: &ProxyPre<Guest>, services: Arc<Services>) -> Result<Store<Guest>> {
    let engine = match component {
        ProxyPre::P2(component) => component.engine(),
        ProxyPre::P3(component) => component.engine(),
    };
    Ok(Store::new(engine, Guest::new(services)?))
}
