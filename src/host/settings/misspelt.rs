//! Finds misspelt names of settings.

use super::all_settings;

/// The shortest name that is checked, in bytes. Shorter names are similar to too many settings.
const NAME_BYTES_MIN: usize = 4;
/// The longest name that is checked, in bytes. No setting has a longer name.
const NAME_BYTES_MAX: usize = 64;
/// The length, in bytes, from which a name may differ from a setting in two places, as when two
/// letters are swapped. Shorter names may differ in one place.
const LONG_NAME_BYTES: usize = 8;

/// The setting, in upper case, whose name `name` was probably meant to be, for the name of an
/// environment variable. `None` when `name` is the exact name of a setting, or is not similar to
/// any.
pub fn nearest_setting(name: &str) -> Option<String> {
    if !(NAME_BYTES_MIN..=NAME_BYTES_MAX).contains(&name.len()) || !name.is_ascii() {
        return None;
    }
    let lower = name.to_lowercase();
    let names = || all_settings().map(|setting| setting.name());
    if names().any(|setting| setting == lower) {
        // A correct name in lower case is a mistake too: environment variables are read in upper
        // case.
        return (name != name.to_uppercase()).then(|| name.to_uppercase());
    }
    let allowed = if name.len() >= LONG_NAME_BYTES { 2 } else { 1 };
    let near = names().map(|setting| (distance(&lower, setting), setting));
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

    #[test]
    fn a_misspelt_setting_is_distinguished_from_other_variables() {
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
            assert_eq!(nearest_setting(name).as_deref(), expected, "{name}");
        }
    }
}
