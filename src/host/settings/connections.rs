//! The settings for connections of the native program.

use std::time::Duration;

use anyhow::Result;

use super::setting::{AnySetting, Number, Setting};
use super::values::Values;

/// The upper bound of all timeouts, in seconds.
const TIMEOUT_SECONDS_MAX: u64 = 24 * 60 * 60;

/// How the native host limits connections. Other hosts have settings of their own for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// How many connections are served at once, if the system allows enough open files. More
    /// connections wait in the kernel's queue.
    pub most: u64,
    /// How many of these connections one IPv4 address, or one IPv6 network of 64 bits, may have.
    /// Loopback addresses and trusted proxies, which carry many clients, may have all.
    pub most_of_address: u64,
    /// How long a client may take to begin and to finish the head of a request.
    pub head_timeout: Duration,
    /// How long a client may pause in the middle of a body: without sending any of a request body,
    /// or without taking any of an answer.
    pub body_idle_timeout: Duration,
    /// How many bytes of a request body must arrive per second of waiting for the body, beyond the
    /// first 30 seconds; 0: no limit.
    pub body_bytes_per_second_min: u64,
    /// How long the server waits in total for the body of a request that has no permission, or for
    /// the rest of a body once the answer is known.
    pub unwanted_body_timeout: Duration,
    /// How long running requests may go on after the process got the signal to stop.
    pub stop_timeout: Duration,
}

impl Connections {
    /// The defaults of the settings.
    pub const DEFAULT: Self = Self {
        most: 4096,
        most_of_address: 1024,
        head_timeout: Duration::from_secs(60),
        body_idle_timeout: Duration::from_secs(60),
        body_bytes_per_second_min: 1024,
        unwanted_body_timeout: Duration::from_secs(10),
        stop_timeout: Duration::from_secs(30),
    };

    pub(crate) fn read(values: Values<'_>) -> Result<Self> {
        let seconds = |setting: &Setting<Number>| values.read(setting).map(Duration::from_secs);
        Ok(Self {
            most: values.read(&CONNECTIONS_MAX)?,
            most_of_address: values.read(&CONNECTIONS_PER_ADDRESS_MAX)?,
            head_timeout: seconds(&HEAD_TIMEOUT_SECONDS)?,
            body_idle_timeout: seconds(&BODY_IDLE_TIMEOUT_SECONDS)?,
            body_bytes_per_second_min: values.read(&BODY_BYTES_PER_SECOND_MIN)?,
            unwanted_body_timeout: seconds(&UNWANTED_BODY_TIMEOUT_SECONDS)?,
            stop_timeout: seconds(&STOP_TIMEOUT_SECONDS)?,
        })
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const DEFAULT: Connections = Connections::DEFAULT;

const fn timeout(least: u64, default: Duration) -> Number {
    Number { least, most: TIMEOUT_SECONDS_MAX, default: default.as_secs() }
}

static CONNECTIONS_MAX: Setting<Number> = Setting::new(
    "connections_max",
    Number { least: 1, most: DEFAULT.most, default: DEFAULT.most },
    "how many connections are served at once",
)
.native()
.details("Further connections wait. Silent connections are closed to make room for waiting ones.");

static CONNECTIONS_PER_ADDRESS_MAX: Setting<Number> = Setting::new(
    "connections_per_address_max",
    Number { least: 1, most: DEFAULT.most, default: DEFAULT.most_of_address },
    "how many of these connections one IPv4 address or IPv6 network (/64) may have",
)
.native()
.details("Trusted proxies and the machine itself may have all connections.");

static HEAD_TIMEOUT_SECONDS: Setting<Number> = Setting::new(
    "head_timeout_seconds",
    timeout(1, DEFAULT.head_timeout),
    "how long a client may take to begin and to finish the head of a request, in seconds",
)
.native();

static BODY_IDLE_TIMEOUT_SECONDS: Setting<Number> = Setting::new(
    "body_idle_timeout_seconds",
    timeout(1, DEFAULT.body_idle_timeout),
    "how long a client may send nothing of a body, or take nothing of an answer, in seconds",
)
.native();

static BODY_BYTES_PER_SECOND_MIN: Setting<Number> = Setting::new(
    "body_bytes_per_second_min",
    Number { least: 0, most: u64::MAX, default: DEFAULT.body_bytes_per_second_min },
    "the lowest average rate of a request body, in bytes per second; 0: any rate",
)
.native()
.details("A body may be 30 s late.");

static UNWANTED_BODY_TIMEOUT_SECONDS: Setting<Number> = Setting::new(
    "unwanted_body_timeout_seconds",
    timeout(1, DEFAULT.unwanted_body_timeout),
    "how long in all the server waits for the body of a request that was refused, in seconds",
)
.native()
.details(
    "This time also bounds the wait for the rest of a body when the answer is already known. Permission comes before \
     the body.",
);

static STOP_TIMEOUT_SECONDS: Setting<Number> = Setting::new(
    "stop_timeout_seconds",
    timeout(0, DEFAULT.stop_timeout),
    "how long running requests may continue when the program gets the signal to stop, in seconds",
)
.native();

pub(super) static SETTINGS: &[&dyn AnySetting] = &[
    &CONNECTIONS_MAX,
    &CONNECTIONS_PER_ADDRESS_MAX,
    &HEAD_TIMEOUT_SECONDS,
    &BODY_IDLE_TIMEOUT_SECONDS,
    &BODY_BYTES_PER_SECOND_MIN,
    &UNWANTED_BODY_TIMEOUT_SECONDS,
    &STOP_TIMEOUT_SECONDS,
];
