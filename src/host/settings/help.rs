//! The table of settings as text for a terminal.

use std::fmt::Write as _;

use super::secret_files::file_variable;
use super::setting::AnySetting;
use super::{GROUPS, Host, all_settings, nearest_setting};

/// All settings of the native program, by subject.
pub fn help() -> String {
    let mut text = "Settings are environment variables. An empty value counts as not set.\n".to_owned();
    for group in GROUPS {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}:\n", group.title);
        for setting in group.settings {
            let _ = write!(text, "  {}\n          {}\n", setting.name().to_uppercase(), one_line(*setting));
        }
    }
    text
}

/// One setting of the native program.
///
/// # Errors
/// When there is no setting called `name`, in lower or upper case. The text names a similar one.
pub fn help_of(name: &str) -> Result<String, String> {
    let Some(setting) = all_settings().find(|setting| setting.name().eq_ignore_ascii_case(name)) else {
        let hint = nearest_setting(name).map(|near| format!("; {near} has a similar name")).unwrap_or_default();
        return Err(format!("eyot has no setting {name}{hint}"));
    };
    let secret = match (setting.secret(), file_variable(setting)) {
        (false, _) => String::new(),
        (true, None) => "The value is a secret: give the value by the environment.\n".to_owned(),
        (true, Some(variable)) => {
            format!("The value is a secret: give the value by the environment, or in a file that {variable} names.\n")
        }
    };
    Ok(format!("{}: {}\n{secret}", setting.name().to_uppercase(), one_line(setting)))
}

fn one_line(setting: &dyn AnySetting) -> String {
    let accepts = setting.accepts(&[Host::Native]);
    let default = setting.default_text(Host::Native).unwrap_or_else(|| setting.unset().to_owned());
    format!("{}\n          value: {accepts}; default: {default}", setting.help())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_has_every_setting_and_a_misspelt_name_gets_a_hint() {
        let text = help();
        for setting in all_settings() {
            assert!(text.contains(&format!("\n  {}\n", setting.name().to_uppercase())), "{}", setting.name());
            assert!(text.contains(setting.help()), "{}", setting.name());
        }
        assert!(help_of("KEYS").unwrap().contains("one of files, s3, memory; default: files"));
        assert!(help_of("auth_password").unwrap().contains("in a file that AUTH_PASSWORD_FILE names"));
        assert!(!help_of("htpasswd").unwrap().contains("HTPASSWD_FILE names"));
        assert_eq!(help_of("auht_mode").unwrap_err(), "eyot has no setting auht_mode; AUTH_MODE has a similar name");
    }
}
