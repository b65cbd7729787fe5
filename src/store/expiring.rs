//! Keys that lose their meaning by themselves.

/// A family of keys that are meaningless after a while, as told by the layer that writes them. The collector removes such keys
/// without knowing what they are.
#[derive(Clone, Copy, Debug)]
pub struct Expiring {
    /// What the keys begin with.
    pub prefix: &'static str,
    /// Whether a value has lost its meaning, at a time in milliseconds since the Unix epoch. An expired value must mean the
    /// same as no value.
    pub is_expired: fn(value: &[u8], now_ms: u64) -> bool,
}
