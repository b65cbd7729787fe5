//! Addresses of buckets on a command line.

use std::str::FromStr;

use super::settings::{PREFIX_BYTES_MAX, is_bucket, is_prefix};

const SCHEME: &str = "s3://";

/// A bucket and the beginning of the names of its objects: `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketAddress {
    /// The bucket.
    pub bucket: String,
    /// The beginning of the names: the empty text, or a text with `/` at its end.
    pub prefix: String,
}

/// A text is not the address of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address like s3://BUCKET or s3://BUCKET/PREFIX: want a bucket of letters, digits, -, . and _, and \
     a prefix of at most {PREFIX_BYTES_MAX} bytes that has neither //, ., .. as a folder nor control characters"
)]
pub struct BucketAddressError(String);

impl BucketAddress {
    /// Whether a text is meant as such an address.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(SCHEME)
    }
}

impl FromStr for BucketAddress {
    type Err = BucketAddressError;

    fn from_str(text: &str) -> Result<Self, BucketAddressError> {
        let wrong = || BucketAddressError(text.to_owned());
        let rest = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = match prefix {
            "" => String::new(),
            prefix => format!("{}/", prefix.strip_suffix('/').unwrap_or(prefix)),
        };
        if bucket.is_empty() || !is_bucket(bucket) || !is_prefix(&prefix) {
            return Err(wrong());
        }
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_with_a_slash() {
        for (text, bucket, prefix) in
            [("s3://b", "b", ""), ("s3://b/", "b", ""), ("s3://b.x/a/b", "b.x", "a/b/"), ("s3://b/a/", "b", "a/")]
        {
            let address = text.parse::<BucketAddress>().unwrap();
            assert_eq!((address.bucket.as_str(), address.prefix.as_str()), (bucket, prefix), "{text}");
        }
        for text in ["b/a", "s3://", "s3:///a", "s3://b//a", "s3://b/a//", "s3://b/../a", "s3://a b", "s3://.."] {
            assert_eq!(text.parse::<BucketAddress>(), Err(BucketAddressError(text.to_owned())));
        }
    }
}
