//! The project's own files: the layers of the code, the links of the pages, the package, its public items,
//! and the examples.
#![cfg(not(target_family = "wasm"))]

mod examples;
mod layers;
mod modules;
mod package;
mod pages;
mod public_api;
