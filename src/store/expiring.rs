//! Keys that lose their meaning by themselves.

/// A family of keys that lose their meaning after a while, declared by the layer that writes the
/// keys. The collector removes expired keys without knowing their purpose.
#[derive(Clone, Copy, Debug)]
pub struct Expiring {
    /// The prefix of the keys.
    pub prefix: &'static str,
    /// Whether a value has lost its meaning, at a time in milliseconds since the Unix epoch. An
    /// expired value must mean the same as no value.
    pub is_expired: fn(value: &[u8], now_ms: u64) -> bool,
    /// Whether a value has a meaning only while a tag exists. The rest of such a key after the
    /// prefix names the tag, as `<repository>!<tag>`. `None` for keys that belong to no tag.
    pub needs_tag: Option<fn(value: &[u8]) -> bool>,
}
