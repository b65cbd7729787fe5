//! The project's own files: the layers of the code, and the links of the pages.
#![cfg(not(target_family = "wasm"))]

mod layers;
mod modules;
mod pages;
