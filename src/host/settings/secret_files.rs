//! Secrets in files, for the native program: the environment variable `NAME_FILE` names the file with
//! the value of the secret setting `NAME`. Docker, Kubernetes and systemd hand out secrets as files.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, Result, bail};

use super::all_settings;
use super::setting::AnySetting;

/// The largest file of a secret, in bytes. The longest secrets are tables of users and of logins at
/// upstreams, with one line for each.
const SECRET_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The environment variable that names the file of a secret setting; `None` for settings that are
/// not secret, and for `htpasswd`, because `htpasswd_file` is a setting of its own.
pub fn file_variable(setting: &dyn AnySetting) -> Option<String> {
    let name = format!("{}_file", setting.name());
    let is_setting = all_settings().any(|other| other.name() == name);
    (setting.secret() && !is_setting).then(|| name.to_uppercase())
}

/// Reads the files that the environment names, and returns the values of the secret settings by
/// name. Line breaks at the end of a file are not part of the value. `variable` returns the value
/// of an environment variable; an empty value counts as not set.
///
/// # Errors
/// When a file cannot be read, is larger than 1 MiB or is not text in UTF-8, or when the environment
/// has both the setting and its file. The text names the setting and the file.
pub fn read_secret_files(variable: &dyn Fn(&str) -> Option<String>) -> Result<BTreeMap<&'static str, String>> {
    let is_set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut secrets = BTreeMap::new();
    for setting in all_settings() {
        let Some(of_file) = file_variable(setting) else { continue };
        let Some(path) = is_set(&of_file) else { continue };
        let name = setting.name();
        if is_set(&name.to_uppercase()).is_some() {
            bail!("setting {name} is given twice, by {} and by {of_file}; remove one of the two", name.to_uppercase());
        }
        let text =
            read(&path).with_context(|| format!("setting {name}: cannot read the file {path:?} of {of_file}"))?;
        secrets.insert(name, text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(secrets)
}

fn read(path: &str) -> Result<String> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(SECRET_FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > SECRET_FILE_BYTES_MAX {
        bail!("the file is larger than {SECRET_FILE_BYTES_MAX} bytes");
    }
    String::from_utf8(text).ok().context("the file is not text in UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the files that `environment` names.
    fn read_with(environment: &[(&str, &str)]) -> Result<BTreeMap<&'static str, String>> {
        read_secret_files(&|name| environment.iter().find(|(other, _)| *other == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn a_file_gives_the_value_of_a_secret_without_the_line_break_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password").to_str().unwrap().to_owned();
        std::fs::write(&path, " long pass phrase \r\n").unwrap();

        let secrets = read_with(&[("AUTH_PASSWORD_FILE", &path), ("S3_SESSION_TOKEN_FILE", "")]).unwrap();
        assert_eq!(secrets, BTreeMap::from([("auth_password", " long pass phrase ".to_owned())]));
        // Not secret, so the variable means nothing.
        assert_eq!(read_with(&[("S3_BUCKET_FILE", &path)]).unwrap(), BTreeMap::new());
        // A setting of its own, which is read elsewhere.
        assert_eq!(read_with(&[("HTPASSWD_FILE", &path)]).unwrap(), BTreeMap::new());
    }

    #[test]
    fn an_error_names_the_setting_the_variable_and_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name).to_str().unwrap().to_owned();
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let error = |environment: &[(&str, &str)]| format!("{:#}", read_with(environment).unwrap_err());

        let missing = error(&[("AUTH_PASSWORD_FILE", "/nowhere/password")]);
        assert!(missing.contains("auth_password") && missing.contains("\"/nowhere/password\""), "{missing}");
        assert!(missing.contains("AUTH_PASSWORD_FILE") && missing.contains("No such file"), "{missing}");

        let binary = error(&[("AUTH_PASSWORD_FILE", &file("binary", &[0xff]))]);
        assert!(binary.contains("not text in UTF-8"), "{binary}");

        let most = vec![b'x'; SECRET_FILE_BYTES_MAX as usize];
        assert!(read_with(&[("HTPASSWD", ""), ("UPSTREAM_LOGINS_FILE", &file("most", &most))]).is_ok());
        let large = error(&[("UPSTREAM_LOGINS_FILE", &file("large", &[&most[..], b"x"].concat()))]);
        assert!(large.contains("larger than 1048576 bytes"), "{large}");

        let twice = error(&[("AUTH_PASSWORD", "a"), ("AUTH_PASSWORD_FILE", "b")]);
        assert!(twice.contains("given twice, by AUTH_PASSWORD and by AUTH_PASSWORD_FILE"), "{twice}");
    }
}
