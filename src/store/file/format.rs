//! Checks that a folder is a data folder in a format that this version knows.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::{disk, path};

/// The file that states the format of a data folder.
pub(super) const FILE: &str = "format";
/// The beginning of the line in the format file; the number of the format follows.
const TITLE: &str = "eyot data folder, format ";
/// The format that this version reads and writes.
const FORMAT: u32 = 1;
/// Pairs of folders, of keys or of content, that identify a data folder without the format file. A
/// copy may lack the format file.
const PAIRS: [[&str; 2]; 3] = [["keys", "tmp"], ["keys", "blobs"], ["blobs", "stages"]];
/// The greatest depth of the folders of keys: a folder for each byte of a key.
const DEPTH_MAX: usize = crate::store::KEY_BYTES_MAX;
/// Names that an empty folder may hold: file systems, hosts and `scripts/up` make these entries.
const HARMLESS: [&str; 4] = ["lost+found", "spin", "reserve", ".DS_Store"];
/// The most foreign names that an error lists.
const NAMES_SHOWN_MAX: usize = 3;

/// Refuses a folder that holds other data, or that another version wrote. An empty folder, and a
/// data folder without the format file, is marked with the current format.
pub(super) fn check(folder: &Path) -> io::Result<()> {
    let file = folder.join(FILE);
    match disk::read(&file)? {
        Some(text) => is_known(folder, &String::from_utf8_lossy(&text)),
        None => {
            if !has_parts(folder)? {
                if let Err(refused) = is_empty(folder) {
                    // Another process may have made the data folder meanwhile, beginning with the
                    // format file.
                    let text = disk::read(&file)?.ok_or(refused)?;
                    return is_known(folder, &String::from_utf8_lossy(&text));
                }
                disk::create_folder(folder)?;
                return mark(&file);
            }
            has_todays_keys(folder)?;
            // A folder that cannot be written can still be read.
            mark(&file).or_else(|error| {
                tracing::debug!("the data folder stays without its format: {error}");
                Ok(())
            })
        }
    }
}

fn is_known(folder: &Path, text: &str) -> io::Result<()> {
    // A writer that was cut off leaves an empty format file.
    let known =
        text.is_empty() || text.strip_prefix(TITLE).and_then(|rest| rest.trim_end().parse().ok()) == Some(FORMAT);
    if known {
        return Ok(());
    }
    let folder = folder.display();
    Err(io::Error::other(match text.strip_prefix(TITLE) {
        Some(format) => format!(
            "{folder} has the format {:?}, and this version of eyot knows format {FORMAT} only; take the version that wrote the folder, or another folder",
            format.trim_end()
        ),
        None => {
            format!("{folder} is not a data folder of eyot: its file {FILE} is something else; choose another folder")
        }
    }))
}

fn has_parts(folder: &Path) -> io::Result<bool> {
    for pair in PAIRS {
        let mut all = true;
        for name in pair {
            all = all && disk::metadata(&folder.join(name))?.is_some_and(|found| found.is_dir());
        }
        if all {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses keys from before there were formats. Each separator then had a folder of its own in
/// `keys`, so the way down to any key meets such a folder.
fn has_todays_keys(folder: &Path) -> io::Result<()> {
    let mut below = folder.join("keys");
    for _ in 0..DEPTH_MAX {
        let items = disk::list(&below)?;
        if items.iter().any(|item| item.is_folder && matches!(item.name.as_str(), "!" | ":")) {
            let folder = folder.display();
            return Err(io::Error::other(format!(
                "{folder} was written by a version of eyot before the first release, which this one cannot read; push the images into a new folder"
            )));
        }
        match items.into_iter().find(|item| path::part_of(item).is_some() && item.is_folder) {
            Some(item) => below.push(item.name),
            None => break,
        }
    }
    Ok(())
}

fn is_empty(folder: &Path) -> io::Result<()> {
    let names = disk::list(folder)?.into_iter().map(|item| item.name);
    let foreign: Vec<String> = names.filter(|name| !HARMLESS.contains(&name.as_str()) && name != FILE).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let names_shown = foreign[..foreign.len().min(NAMES_SHOWN_MAX)].join(", ");
    let folder = folder.display();
    Err(io::Error::other(format!(
        "{folder} is not a data folder of eyot and not empty (it holds {names_shown}); choose an empty folder or a new one"
    )))
}

fn mark(file: &Path) -> io::Result<()> {
    let line = format!("{TITLE}{FORMAT}\n");
    let marked = disk::create_new(file).and_then(|mut made| {
        disk::write_on(&mut made, file, line.as_bytes())?;
        disk::sync(&made, file)?;
        disk::sync_folder(file.parent().unwrap_or(Path::new(".")))
    });
    match marked {
        // Another process is opening the folder too, and made the file.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        marked => marked,
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_is_marked_and_known_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new/data");
        check(&folder).unwrap();
        assert_eq!(fs::read_to_string(folder.join(FILE)).unwrap(), "eyot data folder, format 1\n");
        check(&folder).unwrap();
        // A writer that was cut off leaves an empty file.
        fs::write(folder.join(FILE), "").unwrap();
        check(&folder).unwrap();
    }

    #[test]
    fn a_data_folder_without_its_format_is_adopted() {
        for names in PAIRS {
            let folder = tempfile::tempdir().unwrap();
            for name in names {
                fs::create_dir(folder.path().join(name)).unwrap();
            }
            fs::write(folder.path().join("README"), "an operator's note").unwrap();
            check(folder.path()).unwrap();
            assert!(folder.path().join(FILE).exists());
        }
    }

    /// Components open the folder with each request, and the first requests arrive at the same
    /// time.
    #[test]
    fn many_may_open_a_new_folder_at_once() {
        for _ in 0..20 {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("data");
            std::thread::scope(|scope| {
                let openers: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            crate::store::file::open_folder(&folder, &folder.join("keys"), &[&folder.join("tmp")])
                        })
                    })
                    .collect();
                openers.into_iter().for_each(|opener| opener.join().unwrap().unwrap());
            });
        }
    }

    #[test]
    fn keys_from_before_there_were_formats_are_refused() {
        for keys in ["tag/team/app/!", "content/sha256/:"] {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("tmp")).unwrap();
            fs::create_dir_all(folder.path().join("keys").join(keys)).unwrap();
            let refused = check(folder.path()).unwrap_err().to_string();
            assert!(refused.contains("before the first release"), "{refused}");
            assert!(refused.contains(folder.path().to_str().unwrap()), "{refused}");
            assert!(!folder.path().join(FILE).exists());
        }
    }

    #[test]
    fn a_foreign_or_newer_folder_is_refused_by_name_and_not_touched() {
        // The last list of names is an OCI image layout.
        for (names, names_shown) in [
            (vec!["photos"], "photos"),
            (vec![".git", "src"], ".git, src"),
            (vec!["keys"], "keys"),
            (vec!["blobs", "index.json", "oci-layout"], "blobs, index.json, oci-layout"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for name in &names {
                fs::create_dir(folder.path().join(name)).unwrap();
            }
            let refused = check(folder.path()).unwrap_err().to_string();
            let expected = format!(
                "{} is not a data folder of eyot and not empty (it holds {names_shown}); choose an empty folder or a new one",
                folder.path().display()
            );
            assert_eq!(refused, expected);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), names.len());
        }
        for (text, names_shown) in
            [("eyot data folder, format 2\n", "has the format \"2\""), ("{}", "is something else")]
        {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FILE), text).unwrap();
            let refused = check(folder.path()).unwrap_err().to_string();
            assert!(refused.contains(names_shown) && refused.contains(folder.path().to_str().unwrap()), "{refused}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn entries_that_a_host_makes_in_an_empty_folder_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        fs::create_dir(folder.path().join("spin")).unwrap();
        check(folder.path()).unwrap();
        assert!(folder.path().join(FILE).exists());
    }
}
