//! Imports: images from elsewhere, pushed into a registry.
//!
//! A [`Source`] is a place that holds images: a folder, an archive, a bucket, another registry
//! ([`open()`], [`open_bucket`], [`Remote`]). [`import`] pushes what a source holds as a
//! client would: blobs first, then the manifests that an index names, then the manifest itself, then
//! its tags. Content that the registry has already is not read from the source, so a second import
//! goes on where the first one ended.
//! The registry checks every digest, and takes pushes and collections of others meanwhile.
//!
//! Only the native program imports. Every host removes the facts of imports that have expired.

mod facts;

#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod archive;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod blobs;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod bucket;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod distribution;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod docker_archive;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod error;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod exported_site;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod files;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod folder;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod importer;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod layouts;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod limits;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod manifests;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod open;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod options;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod reference;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod remote;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod report;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod skopeo_folder;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod source;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
mod static_tree;

#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub use {
    error::{Error, Result},
    importer::import,
    open::{open, open_bucket},
    options::{Options, Target, TargetError},
    remote::{Remote, RemoteAddress},
    report::{Problem, Progress, Report, Step},
    source::{FoundBlob, FoundManifest, Source},
};

use crate::store::Expiring;

/// The keys of this layer that a collection may remove when they have expired.
pub const EXPIRING: [Expiring; 1] = [facts::UPLOADS];
