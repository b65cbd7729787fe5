//! Receiving the bytes of a manifest, within the memory that all pushes share.

use std::sync::Arc;

use bytes::Bytes;

use crate::platform::{Body, BodyError};
use crate::registry::error::{InvalidManifest, InvalidSize};
use crate::registry::limits::{
    PUSH_MEMORY_FACTOR, PUSH_UNQUEUED_BYTES_MAX, PUSHES_MEMORY_BYTES, RECEIVING_MEMORY_BYTES,
};
use crate::registry::memory::{Memory, Share};
use crate::registry::{Error, Limits, Result};
use crate::store;

/// Receives manifests.
#[derive(Clone)]
pub(super) struct ManifestReceiver {
    limits: Arc<Limits>,
    /// The memory that the bytes of arriving manifests share.
    arriving: Arc<Memory>,
    /// The memory that manifests share that have arrived and are being pushed.
    pushes: Arc<Memory>,
}

impl ManifestReceiver {
    pub(super) fn new(limits: Arc<Limits>) -> Self {
        let (arriving, pushes) = (Memory::new(RECEIVING_MEMORY_BYTES), Memory::new(PUSHES_MEMORY_BYTES));
        Self { limits, arriving, pushes }
    }

    /// Reserves memory for everything that the push of a manifest holds beside the manifest's
    /// bytes. The bytes have already arrived, so the memory is never held while waiting for a
    /// client.
    ///
    /// # Errors
    /// [`Error::Crowded`] in a WebAssembly component when other pushes use the memory. In the
    /// native program a push waits for the memory.
    pub(super) async fn reserve_push(&self, size: u64) -> Result<Share> {
        let bytes = size.saturating_mul(PUSH_MEMORY_FACTOR);
        match size {
            0..=PUSH_UNQUEUED_BYTES_MAX => Ok(self.pushes.take(bytes, bytes)),
            _ => self.pushes.reserve(bytes).await.ok_or(Error::Crowded),
        }
    }

    /// Receives the bytes of a manifest. Memory is taken as the bytes arrive, so a client that
    /// sends no bytes holds no memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::SizeInvalid`]; [`Error::Crowded`] when other manifests use the
    /// memory; the error of a body that breaks off.
    pub(super) async fn receive(&self, mut body: Body) -> Result<(Bytes, Share)> {
        let limit_bytes = self.limits.manifest_bytes_max;
        let declared = body.length();
        if declared.is_some_and(|declared| declared > limit_bytes) {
            return Err(Error::TooLarge { limit_bytes });
        }
        let mut memory = self.arriving.take(0, 0);
        let mut bytes = Vec::new();
        while let Some(data) = body.next().await {
            let data = data.map_err(error_of)?;
            let size = (bytes.len() + data.len()) as u64;
            if size > limit_bytes {
                return Err(Error::TooLarge { limit_bytes });
            }
            if size <= PUSH_UNQUEUED_BYTES_MAX {
                memory.force_to(size);
            } else if !memory.grow_to(size) {
                return Err(Error::Crowded);
            }
            if bytes.capacity() < size as usize {
                // Double the capacity, up to the largest size that the body can have.
                let most = declared.unwrap_or(limit_bytes).max(size);
                let wanted = (bytes.capacity() as u64 * 2).clamp(size, most);
                bytes.reserve_exact(wanted as usize - bytes.len());
            }
            bytes.extend_from_slice(&data);
        }
        let received = bytes.len() as u64;
        if let Some(declared) = declared.filter(|declared| *declared != received) {
            return Err(InvalidSize::Body { received, declared }.into());
        }
        memory.shrink_to(received);
        Ok((bytes.into(), memory))
    }
}

fn error_of(error: BodyError) -> Error {
    match error {
        BodyError::TooLarge { limit_bytes } => Error::TooLarge { limit_bytes },
        BodyError::Idle { limit_seconds } => Error::BodyIdle { limit_seconds },
        BodyError::Slow(limit) => Error::BodySlow(limit),
        error @ BodyError::Source(_) => store::Error::from(error).into(),
        other => InvalidManifest::Body(other).into(),
    }
}
