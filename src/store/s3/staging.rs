//! The content of a stage: the parts that S3 has, and the bytes that are too few for a part.

use serde::{Deserialize, Serialize};

use super::settings::{PART_BYTES_MAX, PART_BYTES_MIN, S3Settings};
use crate::store::{Error, Result, Stage};

/// The most parts of one upload: S3's own limit.
pub(super) const PARTS_MAX: usize = 10_000;
/// The part index from which growth is counted: the first doubling comes [`GROWTH_STEP`] parts
/// later.
const GROWTH_BEGIN: usize = 4_000;
/// The number of parts after which the part size doubles, each time: parts of 16 MiB grow so that
/// an upload can hold more than a TiB.
const GROWTH_STEP: usize = 1_000;
/// The most bytes that are kept in the stage itself, so that tiny appends make no objects.
pub(super) const TAIL_BYTES_MAX: usize = 16 * 1024;
/// The most parked objects that a stage lists.
pub(super) const PARKED_MAX: usize = 256;

/// Content that is being uploaded: the bytes of `parts`, then of `parked`, then `tail`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staging {
    /// The beginning of the names of all objects of this stage and of the stages made from it.
    pub(super) family: String,
    /// The object that the multipart upload makes, if there is an upload.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    /// The multipart upload to the object `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<String>,
    /// The ETags of the upload's parts in order. Completing the upload names these ETags, so parts
    /// of another fork never get in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<String>,
    /// Bytes parked in objects of their own, because they are too few for a part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parked: Vec<Parked>,
    /// The last bytes, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "hex::serde")]
    pub(super) tail: Vec<u8>,
    /// Names of objects that only the stage before this one needed. The next append or commit of
    /// this stage proves that this stage was saved, and so removes the objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) stale: Vec<String>,
}

/// Bytes parked in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parked {
    pub(super) object: String,
    pub(super) length: u64,
}

impl Staging {
    pub(super) fn open(stage: &Stage) -> Result<Self> {
        let foreign = |error| Error::corrupt(format!("cannot read {:?} as a stage in S3", stage.0)).because(error);
        serde_json::from_str(&stage.0).map_err(foreign)
    }

    pub(super) fn seal(&self) -> Result<Stage> {
        serde_json::to_string(self)
            .map(Stage)
            .map_err(|error| Error::corrupt("cannot encode a stage in S3").because(error))
    }

    /// Moves the names of the parked objects to `stale`, because their bytes are kept elsewhere now. If the
    /// stage has no multipart upload, the first parked object is left to the collector instead: another
    /// request may be committing an older stage with this object alone, which makes the object its
    /// location.
    pub(super) fn retire_parked(&mut self) {
        let kept = usize::from(self.upload.is_none());
        self.stale = self.parked.drain(..).skip(kept).map(|parked| parked.object).collect();
    }

    /// The number of bytes that are not in a part yet.
    pub(super) fn rest_bytes(&self) -> u64 {
        self.parked.iter().map(|parked| parked.length).sum::<u64>() + self.tail.len() as u64
    }
}

/// The rules for cutting content into parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    part_bytes: u64,
    equal: bool,
}

impl Cut {
    pub(super) fn new(settings: &S3Settings) -> Self {
        let part_bytes = settings.part_bytes.clamp(PART_BYTES_MIN, PART_BYTES_MAX);
        Self { part_bytes, equal: settings.equal_parts }
    }

    /// The size in bytes of the part with this index (from 0).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the index exceeds the limit of [`PARTS_MAX`] parts.
    pub(super) fn part_bytes(&self, index: usize) -> Result<u64> {
        if index >= PARTS_MAX {
            return Err(Error::unavailable(format!(
                "an upload to S3 has at most {PARTS_MAX} parts; raise the setting s3_part_bytes"
            )));
        }
        let doublings = if self.equal { 0 } else { index.saturating_sub(GROWTH_BEGIN) / GROWTH_STEP };
        Ok((self.part_bytes << doublings).min(PART_BYTES_MAX))
    }

    /// The least number of bytes at the end of an append that are sent as a part. Fewer bytes are
    /// parked: more may follow, and S3 refuses small parts except as the last part.
    pub(super) fn least_part_bytes(&self) -> u64 {
        if self.equal { self.part_bytes } else { PART_BYTES_MIN }
    }

    /// The limit below which the first bytes of a stage are sent in one request. An append holds
    /// that many bytes in memory anyway.
    pub(super) fn single_bytes_max(&self) -> Result<u64> {
        Ok(self.part_bytes(0)? + self.kept_back_bytes())
    }

    /// How many bytes beyond a part must be held before the part is sent. So the rest at the end is
    /// never too small for a part of its own, and no byte is sent twice.
    pub(super) fn kept_back_bytes(&self) -> u64 {
        if self.equal { 0 } else { PART_BYTES_MIN }
    }

    /// Whether content of so many bytes is streamed as the bytes arrive, in as few parts as
    /// possible. Streaming needs the length beforehand. Streamed bytes are not held for another
    /// attempt, which would cost memory.
    pub(super) fn streams(&self, bytes: u64) -> bool {
        !self.equal && bytes > self.part_bytes + PART_BYTES_MIN
    }

    /// The size in bytes of the next streamed part when `left` bytes are left.
    pub(super) fn streamed_part_bytes(left: u64) -> u64 {
        match left {
            left if left <= PART_BYTES_MAX => left,
            // The last part must not be too small.
            left => (left - PART_BYTES_MIN).min(PART_BYTES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_possible_location_is_never_retired() {
        let parked = ["x.1", "x.2"].map(|object| Parked { object: object.into(), length: 1 }).to_vec();
        let mut first = Staging { name: "x".into(), parked, ..Staging::default() };
        let mut later = Staging { upload: Some("1".into()), ..first.clone() };
        first.retire_parked();
        later.retire_parked();
        assert_eq!((first.stale, later.stale), (vec!["x.2".into()], vec!["x.1".into(), "x.2".to_owned()]));
    }

    #[test]
    fn ten_thousand_parts_hold_a_tebibyte() {
        let cut = Cut { part_bytes: 16 * MIB, equal: false };
        let sizes: Vec<u64> = (0..PARTS_MAX).map(|index| cut.part_bytes(index).unwrap()).collect();
        assert_eq!((sizes[0], sizes[4_999], sizes[5_000]), (16 * MIB, 16 * MIB, 32 * MIB));
        assert!(sizes.iter().sum::<u64>() > 1 << 40);
        assert!(sizes.iter().all(|size| *size <= 512 * MIB));
        assert!(cut.part_bytes(PARTS_MAX).is_err());
    }

    #[test]
    fn streamed_parts_are_never_too_small() {
        for total in [PART_BYTES_MIN, PART_BYTES_MAX, PART_BYTES_MAX + 1, 2 * PART_BYTES_MAX + 7, 1 << 40] {
            let mut left = total;
            while left > 0 {
                let part = Cut::streamed_part_bytes(left);
                assert!((PART_BYTES_MIN..=PART_BYTES_MAX).contains(&part), "{part} of {total}");
                left -= part;
            }
        }
    }
}
