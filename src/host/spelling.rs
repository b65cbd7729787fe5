//! Finds misspelt names of settings.

/// The shortest name that is checked, in bytes. Shorter names are similar to too many settings.
const NAME_BYTES_MIN: usize = 4;
/// The length, in bytes, from which a name may differ from a setting in two places, as when two
/// letters are swapped. Shorter names may differ in one place.
const LONG_NAME_BYTES: usize = 8;

/// The setting, in upper case, that an environment variable called `name` was probably meant to
/// set. `None` when `name` is the exact name of a setting, or is not similar to any.
pub fn meant(name: &str, settings: &[(&str, &str, &str)]) -> Option<String> {
    if !(NAME_BYTES_MIN..=64).contains(&name.len()) || !name.is_ascii() {
        return None;
    }
    let lower = name.to_lowercase();
    let known = |setting: &str| setting == lower;
    if settings.iter().any(|(setting, ..)| known(setting)) {
        // A correct name in lower case is a mistake too: environment variables are read in upper
        // case.
        return (name != name.to_uppercase()).then(|| name.to_uppercase());
    }
    let allowed = if name.len() >= LONG_NAME_BYTES { 2 } else { 1 };
    let near = settings.iter().map(|(setting, ..)| (distance(&lower, setting), *setting));
    near.filter(|(distance, _)| *distance <= allowed).min().map(|(_, setting)| setting.to_uppercase())
}

/// The edit distance (Levenshtein): how many letters must be inserted, removed or changed to turn
/// `left` into `right`.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (number, letter) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], number + 1);
        for (column, other) in right.bytes().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::config::SETTINGS;

    #[test]
    fn a_misspelt_setting_is_told_from_other_variables() {
        for (name, expected) in [
            ("AUHT_MODE", Some("AUTH_MODE")),
            ("AUTHMODE", Some("AUTH_MODE")),
            ("S3_BUCKETS", Some("S3_BUCKET")),
            ("KEYZ", Some("KEYS")),
            ("auth_mode", Some("AUTH_MODE")),
            ("AUTH_MODE", None),
            ("AUTH", None),
            ("HOME", None),
            ("LOGNAME", None),
            ("LC", None),
            ("PATH", None),
            ("SHLVL", None),
            ("DATABASE_URL", None),
            ("ÄUTH_MODE", None),
        ] {
            assert_eq!(meant(name, SETTINGS).as_deref(), expected, "{name}");
        }
    }
}
