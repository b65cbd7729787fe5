//! One setting: its name, kind of value, hosts and texts.

/// A host that reads settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The native program.
    Native,
    /// The component for any WASI host.
    Wasi,
    /// The component for Spin 4.1 and later.
    Spin,
    /// The component for Spin 3.
    Spin3,
}

/// The hosts of a setting that every host has.
pub const EVERY_HOST: &[Host] = &[Host::Native, Host::Wasi, Host::Spin, Host::Spin3];
/// The hosts of a setting that only the native program has.
pub const NATIVE: &[Host] = &[Host::Native];
/// The hosts of a value that only Spin 4.1 and later have.
pub const SPIN_4: &[Host] = &[Host::Spin];
/// The hosts of a value that every Spin has, and only Spin.
pub const EVERY_SPIN: &[Host] = &[Host::Spin, Host::Spin3];

/// The most seconds that a setting can have: as many as fit into 64 bits as milliseconds.
pub const SECONDS_MAX: u64 = u64::MAX / 1000;

/// One setting. `kind` says which values are valid and which value is the default.
pub struct Setting<K> {
    /// The name in lower case, as a variable of Spin has it. Environment variables have the name in
    /// upper case.
    pub name: &'static str,
    /// The kind of value, with bounds and default.
    pub kind: K,
    /// The hosts that have this setting.
    pub hosts: &'static [Host],
    /// Whether nobody but the operator may see the value.
    pub secret: bool,
    /// The purpose in one line, without a period at the end.
    pub help: &'static str,
    /// Further sentences for docs/settings.md, in Markdown; may be empty.
    pub details: &'static str,
}

impl<K> Setting<K> {
    /// A setting that every host has and that is not secret.
    pub const fn new(name: &'static str, kind: K, help: &'static str) -> Self {
        Self { name, kind, hosts: EVERY_HOST, secret: false, help, details: "" }
    }

    /// The same setting for the native program alone.
    pub const fn native(mut self) -> Self {
        self.hosts = &[Host::Native];
        self
    }

    /// The same setting as a secret.
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The same setting with details.
    pub const fn details(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }
}

/// A kind of value.
pub trait Kind: Sync {
    /// The type of the values.
    type Value;

    /// The value that `text` stands for on `host`; `None` if `text` is not valid.
    fn parse(&self, text: &str, host: Host) -> Option<Self::Value>;

    /// The value on `host` if the setting is not set.
    fn default(&self, host: Host) -> Self::Value;

    /// The valid values on `hosts`, to follow "is not" in an error text.
    fn accepts(&self, hosts: &[Host]) -> String;

    /// The default on `host` as a text that the setting accepts; `None` if only leaving the setting
    /// unset gives the default.
    fn default_text(&self, host: Host) -> Option<String>;

    /// What happens if the setting is not set and has no default text.
    fn unset(&self) -> &'static str {
        ""
    }
}

/// A whole number from `least` to `most`.
pub struct Number {
    /// The smallest valid number.
    pub least: u64,
    /// The largest valid number.
    pub most: u64,
    /// The default.
    pub default: u64,
}

/// Numbers from this value up are not named as the upper bound: no real value comes near.
const UNBOUNDED: u64 = u64::MAX / 1000;

impl Kind for Number {
    type Value = u64;

    fn parse(&self, text: &str, _: Host) -> Option<u64> {
        text.parse().ok().filter(|value| (self.least..=self.most).contains(value))
    }

    fn default(&self, _: Host) -> u64 {
        self.default
    }

    fn accepts(&self, _: &[Host]) -> String {
        match self.most {
            UNBOUNDED.. => format!("a whole number of at least {}", self.least),
            most => format!("a whole number from {} to {most}", self.least),
        }
    }

    fn default_text(&self, _: Host) -> Option<String> {
        Some(self.default.to_string())
    }
}

/// `true` or `false`.
pub struct Flag {
    /// The default.
    pub default: bool,
}

impl Kind for Flag {
    type Value = bool;

    fn parse(&self, text: &str, _: Host) -> Option<bool> {
        text.parse().ok()
    }

    fn default(&self, _: Host) -> bool {
        self.default
    }

    fn accepts(&self, _: &[Host]) -> String {
        format!("one of {}, {}", self.default, !self.default)
    }

    fn default_text(&self, _: Host) -> Option<String> {
        Some(self.default.to_string())
    }
}

/// One of a few names.
pub struct Choice<T: 'static> {
    /// The valid names, their values, and the hosts that have the value.
    pub values: &'static [(&'static str, T, &'static [Host])],
    /// The default on each host, which must be one of the values of that host.
    pub default: fn(Host) -> T,
}

impl<T: Copy + PartialEq + Sync> Kind for Choice<T> {
    type Value = T;

    fn parse(&self, text: &str, host: Host) -> Option<T> {
        let found = self.values.iter().find(|(name, _, hosts)| *name == text && hosts.contains(&host));
        found.map(|(_, value, _)| *value)
    }

    fn default(&self, host: Host) -> T {
        (self.default)(host)
    }

    fn accepts(&self, hosts: &[Host]) -> String {
        let offered = self.values.iter().filter(|(_, _, of)| of.iter().any(|host| hosts.contains(host)));
        let names: Vec<&str> = offered.map(|(name, ..)| *name).collect();
        format!("one of {}", names.join(", "))
    }

    fn default_text(&self, host: Host) -> Option<String> {
        let default = (self.default)(host);
        let found = self.values.iter().find(|(_, value, _)| *value == default);
        found.map(|(name, ..)| (*name).to_owned())
    }
}

/// Any text.
pub struct Text {
    /// The form of the text, such as "a folder".
    pub form: &'static str,
    /// The default on each host.
    pub default: fn(Host) -> &'static str,
}

impl Text {
    /// A text without a default, for [`Optional`].
    pub const fn of(form: &'static str) -> Self {
        Self { form, default: |_| "" }
    }
}

impl Kind for Text {
    type Value = String;

    fn parse(&self, text: &str, _: Host) -> Option<String> {
        Some(text.to_owned())
    }

    fn default(&self, host: Host) -> String {
        (self.default)(host).to_owned()
    }

    fn accepts(&self, _: &[Host]) -> String {
        self.form.to_owned()
    }

    fn default_text(&self, host: Host) -> Option<String> {
        Some((self.default)(host).to_owned())
    }
}

/// A value, or no value if the setting is not set.
pub struct Optional<K> {
    /// The kind of the value.
    pub kind: K,
    /// What happens without a value.
    pub unset: &'static str,
}

impl<K: Kind> Kind for Optional<K> {
    type Value = Option<K::Value>;

    fn parse(&self, text: &str, host: Host) -> Option<Self::Value> {
        self.kind.parse(text, host).map(Some)
    }

    fn default(&self, _: Host) -> Self::Value {
        None
    }

    fn accepts(&self, hosts: &[Host]) -> String {
        self.kind.accepts(hosts)
    }

    fn default_text(&self, _: Host) -> Option<String> {
        None
    }

    fn unset(&self) -> &'static str {
        self.unset
    }
}

/// A value, or the word `never`, which stands for no value.
pub struct OrNever<K>(pub K);

impl<K: Kind> Kind for OrNever<K> {
    type Value = Option<K::Value>;

    fn parse(&self, text: &str, host: Host) -> Option<Self::Value> {
        match text {
            "never" => Some(None),
            text => self.0.parse(text, host).map(Some),
        }
    }

    fn default(&self, host: Host) -> Self::Value {
        Some(self.0.default(host))
    }

    fn accepts(&self, hosts: &[Host]) -> String {
        format!("{} or the word never", self.0.accepts(hosts))
    }

    fn default_text(&self, host: Host) -> Option<String> {
        self.0.default_text(host)
    }
}

/// A setting of any kind, for texts about settings.
pub trait AnySetting: Sync {
    /// See [`Setting::name`].
    fn name(&self) -> &'static str;
    /// See [`Setting::hosts`].
    fn hosts(&self) -> &'static [Host];
    /// See [`Setting::secret`].
    fn secret(&self) -> bool;
    /// See [`Setting::help`].
    fn help(&self) -> &'static str;
    /// See [`Setting::details`].
    fn details(&self) -> &'static str;
    /// See [`Kind::accepts`].
    fn accepts(&self, hosts: &[Host]) -> String;
    /// See [`Kind::default_text`].
    fn default_text(&self, host: Host) -> Option<String>;
    /// See [`Kind::unset`].
    fn unset(&self) -> &'static str;
}

impl<K: Kind> AnySetting for Setting<K> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn hosts(&self) -> &'static [Host] {
        self.hosts
    }

    fn secret(&self) -> bool {
        self.secret
    }

    fn help(&self) -> &'static str {
        self.help
    }

    fn details(&self) -> &'static str {
        self.details
    }

    fn accepts(&self, hosts: &[Host]) -> String {
        self.kind.accepts(hosts)
    }

    fn default_text(&self, host: Host) -> Option<String> {
        self.kind.default_text(host)
    }

    fn unset(&self) -> &'static str {
        self.kind.unset()
    }
}
