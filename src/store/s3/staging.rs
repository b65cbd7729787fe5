//! What a stage says: which parts S3 has, and which bytes are too few for a part.

use serde::{Deserialize, Serialize};

use super::{PART_BYTES_MAX, PART_BYTES_MIN, S3Settings};
use crate::store::{Error, Result, Stage};

/// How many parts one upload has at most: S3's own limit.
pub(super) const PARTS_MAX: usize = 10_000;
/// From which part on parts grow.
const GROWTH_BEGIN: usize = 4_000;
/// After how many more parts the size doubles, each time: 16 MiB grow to a TiB in all.
const GROWTH_STEP: usize = 1_000;
/// How many bytes travel in the stage itself, so that tiny appends do not make objects.
pub(super) const TAIL_BYTES_MAX: usize = 16 * 1024;
/// How many parked pieces a stage lists.
pub(super) const PIECES_MAX: usize = 256;

/// Content on its way in. The bytes are those of `parts`, then of `pieces`, then `tail`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staging {
    /// What the names of all its objects begin with, and of those of the stages made of it.
    pub(super) family: String,
    /// The object that the multipart upload makes, if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    /// The multipart upload to the object `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<String>,
    /// The ETags of its parts in order. Completing the upload names them, so parts of another fork never get in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<String>,
    /// Bytes parked in objects of their own, as they are too few for a part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pieces: Vec<Piece>,
    /// The last bytes, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "hex::serde")]
    pub(super) tail: Vec<u8>,
    /// Names of objects that the stage before this one needed. Who appends to this one proves that it was taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) stale: Vec<String>,
}

/// Bytes parked in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) object: String,
    pub(super) length: u64,
}

impl Staging {
    pub(super) fn open(stage: &Stage) -> Result<Self> {
        serde_json::from_str(&stage.0).map_err(|_| Error::Corrupt("this is no stage of content in S3".into()))
    }

    pub(super) fn seal(&self) -> Result<Stage> {
        serde_json::to_string(self).map(Stage).map_err(|e| Error::Corrupt(e.to_string()))
    }

    /// How many bytes are no part yet.
    pub(super) fn rest_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.length).sum::<u64>() + self.tail.len() as u64
    }
}

/// How content is cut into parts.
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

    /// How large the part with this index (from 0) is.
    ///
    /// # Errors
    /// When there cannot be as many.
    pub(super) fn part_bytes(&self, index: usize) -> Result<u64> {
        if index >= PARTS_MAX {
            return Err(Error::Unavailable(format!("S3 takes at most {PARTS_MAX} parts; set s3_part_bytes higher")));
        }
        let doublings = if self.equal { 0 } else { index.saturating_sub(GROWTH_BEGIN) / GROWTH_STEP };
        Ok((self.part_bytes << doublings).min(PART_BYTES_MAX))
    }

    /// From how many bytes on what is left at the end of an append is a part. Fewer are parked: more may follow, and S3
    /// refuses small parts anywhere but at the end.
    pub(super) fn least_part_bytes(&self) -> u64 {
        if self.equal { self.part_bytes } else { PART_BYTES_MIN }
    }

    /// Below how many bytes content goes out in one request, where nothing came before it: what is held in memory anyway.
    pub(super) fn single_bytes_max(&self) -> Result<u64> {
        Ok(self.part_bytes(0)? + self.kept_back_bytes())
    }

    /// How many bytes must be there beyond a part before it goes out. So what is left at the end is never too little for a
    /// part of its own, and nothing is sent twice.
    pub(super) fn kept_back_bytes(&self) -> u64 {
        if self.equal { 0 } else { PART_BYTES_MIN }
    }

    /// Whether so many bytes go out as they come, in as few parts as can be: their number must be known, and holding them back
    /// for another attempt would cost memory.
    pub(super) fn streams(&self, bytes: u64) -> bool {
        !self.equal && bytes > self.part_bytes + PART_BYTES_MIN
    }

    /// How large the next part is when so many bytes are left and go out as they come.
    pub(super) fn streamed_part_bytes(left: u64) -> u64 {
        match left {
            left if left <= PART_BYTES_MAX => left,
            // The last one must not be too small.
            left => (left - PART_BYTES_MIN).min(PART_BYTES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

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
