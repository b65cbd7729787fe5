//! Compares docs/settings.md and the manifests of Spin with the table of settings. With the
//! environment variable `EYOT_UPDATE=1` the tests write the files instead:
//! `EYOT_UPDATE=1 cargo test --lib settings::pages`.

use std::fmt::Write as _;
use std::path::Path;

use super::setting::{AnySetting, EVERY_HOST, Host};
use super::{GROUPS, all_settings};

/// Variables of Spin's manifest with another default than the setting: the manifest names the host
/// to which the component may send requests, which cannot be empty.
const MANIFEST_DEFAULTS: &[(&str, &str)] = &[("s3_endpoint", "http://127.0.0.1:9000")];

/// Variables of Spin's manifest that are no settings: name, default and purpose.
const MANIFEST_ONLY: &[(&str, &str, &str)] = &[
    (
        "oidc_host",
        "https://token.actions.githubusercontent.com",
        "the host of an OIDC issuer, to which the component may send requests",
    ),
    (
        "upstream_host",
        "https://registry-1.docker.io",
        "the host of an upstream, to which the component may send requests",
    ),
    ("upstream_token_host", "https://auth.docker.io", "the host that gives the tokens of the upstream"),
    (
        "upstream_content_host",
        "https://production.cloudflare.docker.com",
        "the host to which the upstream redirects pulls of layers",
    ),
];

/// Compares the part of a file between the lines `begin` and `end` with `expected`, or replaces the
/// part if the environment asks for an update.
fn check(file: &str, begin: &str, end: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(&format!("{begin}\n")).unwrap_or_else(|| panic!("{file}: no line {begin}"));
    let (part, after) = rest.split_once(end).unwrap_or_else(|| panic!("{file}: no line {end}"));
    if std::env::var_os("EYOT_UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{begin}\n{expected}{end}{after}")).unwrap();
    } else {
        assert_eq!(part, expected, "{file}: EYOT_UPDATE=1 cargo test --lib settings::pages writes the table anew");
    }
}

/// `text` with the names of settings as code, and without the bars that would end a cell.
fn cell(text: &str) -> String {
    let is_name = |word: &str| all_settings().any(|setting| setting.name() == word && word.contains('_'));
    let words = text.split(' ').map(|word| {
        let name = word.trim_end_matches([';', ',', '.']);
        if is_name(name) { word.replace(name, &format!("`{name}`")) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The defaults of all hosts: one text, or one for each kind of host.
fn defaults(setting: &dyn AnySetting) -> String {
    let of = |host| setting.default_text(host).map(|text| format!("`{text}`")).unwrap_or_else(|| cell(setting.unset()));
    let native = of(Host::Native);
    if setting.hosts() == [Host::Native] {
        return native;
    }
    let (wasi, spin, spin3) = (of(Host::Wasi), of(Host::Spin), of(Host::Spin3));
    let of_spins = if spin == spin3 { format!("Spin: {spin}") } else { format!("Spin: {spin}; Spin 3: {spin3}") };
    match (native == wasi, spin == spin3 && wasi == spin) {
        (true, true) => native,
        (true, false) => format!("{native}; {of_spins}"),
        (false, true) => format!("{native}; components: {wasi}"),
        (false, false) => format!("{native}; WASI: {wasi}; {of_spins}"),
    }
}

/// What a setting accepts, with the host of each value that not every host has.
fn accepts(setting: &dyn AnySetting) -> String {
    let all = setting.accepts(EVERY_HOST);
    let Some(names) = all.strip_prefix("one of ") else { return cell(&all) };
    let names = names.split(", ").map(|name| {
        let has = |host| setting.accepts(&[host]).split([' ', ',']).any(|other| other == name);
        match [Host::Native, Host::Wasi, Host::Spin, Host::Spin3].map(has) {
            [true, false, false, false] => format!("`{name}` (native)"),
            [false, false, true, false] => format!("`{name}` (Spin 4.1)"),
            [false, false, true, true] => format!("`{name}` (Spin)"),
            _ => format!("`{name}`"),
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_page_of_settings_shows_the_table() {
    let mut page = String::new();
    for group in GROUPS {
        write!(page, "\n### {}\n\n| setting | value | default | purpose |\n| --- | --- | --- | --- |\n", group.title)
            .unwrap();
        for setting in group.settings {
            let native = if setting.hosts() == [Host::Native] { " (native)" } else { "" };
            let secret = if setting.secret() { " (secret)" } else { "" };
            let details = if setting.details().is_empty() { String::new() } else { format!(". {}", setting.details()) };
            writeln!(
                page,
                "| `{}`{native}{secret} | {} | {} | {}{details} |",
                setting.name(),
                accepts(*setting),
                defaults(*setting),
                cell(setting.help()),
            )
            .unwrap();
        }
    }
    page.push('\n');
    check("docs/settings.md", "<!-- begin: settings -->", "<!-- end: settings -->", &page);
}

#[test]
fn the_manifests_of_spin_declare_the_settings() {
    for (host, manifest) in [(Host::Spin, "spin.toml"), (Host::Spin3, "deploy/spin3/spin.toml")] {
        let of_spin = || all_settings().filter(|setting| setting.hosts().contains(&host));
        let mut variables = String::new();
        for setting in of_spin() {
            let other = MANIFEST_DEFAULTS.iter().find(|(name, _)| *name == setting.name());
            let default = other.map(|(_, default)| (*default).to_owned()).or_else(|| setting.default_text(host));
            let default = default.unwrap_or_default();
            let secret = if setting.secret() { ", secret = true" } else { "" };
            writeln!(variables, "# {} ({})", setting.help(), setting.accepts(&[host])).unwrap();
            writeln!(variables, "{} = {{ default = \"{default}\"{secret} }}", setting.name()).unwrap();
        }
        for (name, default, purpose) in MANIFEST_ONLY {
            write!(variables, "# {purpose}\n{name} = {{ default = \"{default}\" }}\n").unwrap();
        }
        check(manifest, "# begin: variables", "# end: variables", &variables);
        let mut handed_on = String::new();
        for setting in of_spin() {
            writeln!(handed_on, "{name} = \"{{{{ {name} }}}}\"", name = setting.name()).unwrap();
        }
        check(manifest, "# begin: settings", "# end: settings", &handed_on);
    }
}

#[test]
fn every_setting_has_one_entry_and_a_default_that_is_valid() {
    let mut names: Vec<&str> = all_settings().map(|setting| setting.name()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for host in EVERY_HOST.iter().copied() {
        for setting in all_settings() {
            let Some(default) = setting.default_text(host) else { continue };
            let get = |name: &str| (name == setting.name()).then(|| default.clone());
            let read = crate::host::config::Config::read(super::Values::new(host, &get));
            assert!(read.is_ok(), "{}: {default}: {:#}", setting.name(), read.unwrap_err());
        }
    }
}
